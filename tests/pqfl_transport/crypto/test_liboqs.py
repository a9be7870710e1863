"""liboqs: every row works as the table says where the library is, and nothing happens by itself where it is not."""

import subprocess
import sys
import textwrap

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import mldsa, mlkem

from pqfl_transport.algorithms import LIBOQS, TABLE, Kind, find
from pqfl_transport.crypto import liboqs
from pqfl_transport.errors import ConfigurationError, MessageError, PlatformError, PqflError
from tests.support.liboqs import needs_liboqs

KEMS = [row for row in TABLE if row.kind is Kind.KEM and row.liboqs_name]
SIGNATURES = [row for row in TABLE if row.kind is Kind.SIGNATURE and row.liboqs_name]
ML_KEM = {
    "ML-KEM-512": (mlkem.MLKEM512PrivateKey, mlkem.MLKEM512PublicKey) if hasattr(mlkem, "MLKEM512PrivateKey") else None,
    "ML-KEM-768": (mlkem.MLKEM768PrivateKey, mlkem.MLKEM768PublicKey),
    "ML-KEM-1024": (mlkem.MLKEM1024PrivateKey, mlkem.MLKEM1024PublicKey),
}
ML_DSA = {
    "ML-DSA-44": (mldsa.MLDSA44PrivateKey, mldsa.MLDSA44PublicKey),
    "ML-DSA-65": (mldsa.MLDSA65PrivateKey, mldsa.MLDSA65PublicKey),
    "ML-DSA-87": (mldsa.MLDSA87PrivateKey, mldsa.MLDSA87PublicKey),
}


@needs_liboqs
@pytest.mark.parametrize("row", KEMS, ids=lambda row: row.name)
def test_every_kem_works_and_has_the_sizes_of_its_row(row: object) -> None:
    """A secret goes from one end to the other; another key gives another secret; sizes are those of the table."""
    public, secret = liboqs.generate_kem_keys(row)  # type: ignore[arg-type]
    ciphertext, shared = liboqs.encapsulate(row, public)  # type: ignore[arg-type]
    assert liboqs.decapsulate(row, secret, ciphertext) == shared  # type: ignore[arg-type]
    assert (len(public), len(ciphertext)) == (row.public_key_bytes, row.ciphertext_bytes)  # type: ignore[attr-defined]
    if row.secret_key_bytes:  # type: ignore[attr-defined]
        assert len(secret) == row.secret_key_bytes  # type: ignore[attr-defined]
    with pytest.raises(ConfigurationError):
        liboqs.encapsulate(row, public[:-1])  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError):
        liboqs.decapsulate(row, secret + b"x", ciphertext)  # type: ignore[arg-type]
    with pytest.raises(MessageError):
        liboqs.decapsulate(row, secret, ciphertext + b"x")  # type: ignore[arg-type]


@needs_liboqs
@pytest.mark.parametrize("row", SIGNATURES, ids=lambda row: row.name)
def test_every_signature_works_and_fits_its_row(row: object) -> None:
    """What one signs holds for that message and key alone, and is no longer than the table says."""
    public, secret = liboqs.generate_signing_keys(row)  # type: ignore[arg-type]
    signature = liboqs.sign(row, secret, b"message")  # type: ignore[arg-type]
    liboqs.verify(row, public, b"message", signature)  # type: ignore[arg-type]
    assert len(public) == row.public_key_bytes  # type: ignore[attr-defined]
    assert len(signature) <= row.signature_bytes  # type: ignore[attr-defined]
    for message, wrong in ((b"massage", signature), (b"message", signature[:-1]), (b"message", signature + b"x" * 9)):
        with pytest.raises(PqflError) as caught:
            liboqs.verify(row, public, message, wrong)  # type: ignore[arg-type]
        assert caught.value.reason == "bad_signature"


@needs_liboqs
@pytest.mark.parametrize("name", [name for name, classes in ML_KEM.items() if classes])
def test_ml_kem_of_both_providers_understands_the_other(name: str) -> None:
    """FIPS 203 leaves no room for differences: secrets agree in both directions."""
    row, classes = find(name, Kind.KEM), ML_KEM[name]
    assert classes is not None
    key = classes[0].generate()
    ciphertext, shared = liboqs.encapsulate(row, key.public_key().public_bytes_raw())
    assert key.decapsulate(ciphertext) == shared
    public, secret = liboqs.generate_kem_keys(row)
    theirs, sent = classes[1].from_public_bytes(public).encapsulate()
    shared, ciphertext = (theirs, sent) if len(theirs) == 32 else (sent, theirs)
    assert liboqs.decapsulate(row, secret, ciphertext) == shared


@needs_liboqs
@pytest.mark.parametrize("context", [b"", b"pqfl/v1/prologue"])
@pytest.mark.parametrize("name", ML_DSA)
def test_ml_dsa_of_both_providers_understands_the_other(name: str, context: bytes) -> None:
    """FIPS 204 with and without a context string, in both directions; the context counts."""
    row = find(name, Kind.SIGNATURE)
    private, public_class = ML_DSA[name]
    key = private.generate()
    raw = key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    liboqs.verify(row, raw, b"m", key.sign(b"m", context or None), context)
    with pytest.raises(MessageError):
        liboqs.verify(row, raw, b"m", key.sign(b"m", b"another"), context)
    public, secret = liboqs.generate_signing_keys(row)
    public_class.from_public_bytes(public).verify(liboqs.sign(row, secret, b"m", context), b"m", context or None)


@needs_liboqs
def test_a_context_where_the_scheme_takes_none_is_refused() -> None:
    """Dropping it silently would make two kinds of message one."""
    row = find("Falcon-512", Kind.SIGNATURE)
    _, secret = liboqs.generate_signing_keys(row)
    with pytest.raises(ConfigurationError) as caught:
        liboqs.sign(row, secret, b"m", b"context")
    assert caught.value.reason == "no_context"


def run(script: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], env=environment, capture_output=True, text=True, timeout=20,
        check=False,
    )  # fmt: skip


def test_without_the_library_nothing_is_built_and_the_error_says_how_to_get_it() -> None:
    """No waiting, no clone, no output, no import of the wrapper: one error, at once."""
    done = run(
        """
        import sys
        from pqfl_transport.crypto import liboqs
        from pqfl_transport.algorithms import find
        from pqfl_transport.errors import PlatformError
        assert not liboqs.enabled(find("HQC-3"))
        try:
            liboqs.generate_kem_keys(find("HQC-3"))
        except PlatformError as error:
            assert error.reason == "no_liboqs" and "OQS_INSTALL_PATH" in str(error), error
        else:
            raise SystemExit("it was found")
        assert "oqs" not in sys.modules
        """,
        OQS_INSTALL_PATH="/nowhere", HOME="/nowhere", PATH="/nowhere",
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_project_of_the_same_import_name_is_not_taken_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the distribution liboqs-python counts."""
    monkeypatch.setattr(liboqs, "_distribution_version", lambda: None)
    liboqs._library.cache_clear()
    try:
        with pytest.raises(PlatformError, match="liboqs-python") as caught:
            liboqs.liboqs_version()
        assert caught.value.reason == "no_liboqs"
    finally:
        liboqs._library.cache_clear()


def test_rows_that_liboqs_serves_name_it() -> None:
    """Provider and name come together."""
    for row in TABLE:
        if row.liboqs_name:
            assert LIBOQS in row.providers
