"""The three forms of an ML-DSA private key: a seed is found where there is one, and never taken on trust."""

import base64
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, mldsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from pqfl_transport.crypto import armour, mldsa_keys
from pqfl_transport.crypto.pkcs8 import PLAIN_LABEL
from pqfl_transport.errors import ConfigurationError
from tests.support import rfc9881

BOTH = armour.decode(rfc9881.private_pem("ML-DSA-44", "both"), PLAIN_LABEL)


def refusal(pem: bytes) -> str:
    with pytest.raises(ConfigurationError) as caught:
        mldsa_keys.seed_of(pem)
    assert caught.value.reason == "bad_key"
    return str(caught.value)


@pytest.mark.parametrize("algorithm", rfc9881.ALGORITHMS)
def test_both_forms_give_the_seed(algorithm: str) -> None:
    """Of a key in both forms the seed is returned, with the name of its row."""
    assert mldsa_keys.seed_of(rfc9881.private_pem(algorithm, "both")) == (algorithm, rfc9881.SEED)


@pytest.mark.parametrize("algorithm", rfc9881.ALGORITHMS)
def test_an_expanded_key_is_refused_by_name(algorithm: str) -> None:
    """The error says which algorithm it is, that the seed is missing, and how to get a key that has one."""
    said = refusal(rfc9881.private_pem(algorithm, "expanded"))
    assert algorithm in said
    assert "without its seed" in said
    assert "openssl genpkey" in said


def test_halves_that_do_not_belong_together_are_refused() -> None:
    """RFC 9881 §8.2: a seed that expands to another key than the one beside it makes the file malformed."""
    pem = (rfc9881.FOLDER / "bad-ML-DSA-44-1.priv").read_bytes()
    assert "do not belong together" in refusal(pem)


def test_every_part_of_the_expanded_key_is_compared() -> None:
    """One bit changed anywhere in it, or in the seed, and the file is refused."""
    for at in (-1, -1000, -2000, len(BOTH) - 2560, len(BOTH) - 2560 - 10):
        damaged = bytearray(BOTH)
        damaged[at] ^= 1
        assert "do not belong together" in refusal(armour.encode(PLAIN_LABEL, bytes(damaged)))


@pytest.mark.parametrize("algorithm", rfc9881.ALGORITHMS)
def test_what_is_not_in_both_forms_is_somebody_elses(algorithm: str) -> None:
    """Seeds alone, keys of other algorithms and anything that is no key: nothing is said about them here."""
    classical = ec.generate_private_key(ec.SECP256R1())
    for pem in (
        rfc9881.private_pem(algorithm, "seed"),
        classical.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        (rfc9881.FOLDER / f"{algorithm}.pub").read_bytes(),
        b"",
        armour.encode(PLAIN_LABEL, BOTH[:-1]),
        armour.encode(PLAIN_LABEL, BOTH + b"\0"),
    ):
        assert mldsa_keys.seed_of(pem) is None


@given(data=st.binary(max_size=200), at=st.integers(0, 60))
@settings(deadline=None, max_examples=100)
def test_damage_is_our_own_error_or_no_key(data: bytes, at: int) -> None:
    """Whatever is written over the front of a key, nothing but `ConfigurationError` comes out."""
    damaged = BOTH[:at] + data + BOTH[at + len(data) :]
    try:
        found = mldsa_keys.seed_of(armour.encode(PLAIN_LABEL, damaged))
    except ConfigurationError:
        return
    assert found in {None, ("ML-DSA-44", rfc9881.SEED)}


@pytest.mark.parametrize("algorithm", rfc9881.ALGORITHMS)
@pytest.mark.parametrize("form", rfc9881.FORMS)
def test_the_public_half_is_the_same_in_every_form(algorithm: str, form: str) -> None:
    """It is the published one, also where there is no seed."""
    der = armour.decode(rfc9881.private_pem(algorithm, form), PLAIN_LABEL)
    assert mldsa_keys.public_half(der) == armour.decode(
        (rfc9881.FOLDER / f"{algorithm}.pub").read_bytes(), "PUBLIC KEY"
    )


def test_public_halves_of_others() -> None:
    """A classical key has one as well; what is no key has none, and a bad key is none."""
    key = ec.generate_private_key(ec.SECP256R1())
    der = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert mldsa_keys.public_half(der) == spki
    bad = [_der(rfc9881.FOLDER / f"{name}.priv") for name in rfc9881.INCONSISTENT]
    for no_key in (b"", b"\x30\x00", *bad):
        with pytest.raises(ConfigurationError) as caught:
            mldsa_keys.public_half(no_key)
        assert caught.value.reason == "bad_key"


def test_sizes_are_those_of_the_standard() -> None:
    """The library's own keys have seeds of this size; FIPS 204's table 2 has the others."""
    assert len(mldsa.MLDSA44PrivateKey.generate().private_bytes_raw()) == mldsa_keys.SEED_BYTES
    for algorithm, size in mldsa_keys.EXPANDED_BYTES.items():
        assert len(_der(rfc9881.FOLDER / f"{algorithm}-expanded.priv")) == size + 28


def _der(path: Path) -> bytes:
    return base64.b64decode(b"".join(path.read_bytes().splitlines()[1:-1]))
