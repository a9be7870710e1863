"""The door to liboqs, through liboqs-python: families of algorithms that OpenSSL does not have.

Theory of operation. Importing ``oqs`` on a machine without the shared library waits, clones a repository, builds it and
ends the process. So the library is looked for first, where ``oqs`` itself would look: ``$OQS_INSTALL_PATH/lib`` (or
``~/_oqs/lib``), then where the system's loader looks. Only if it is there, and the distribution that would be imported
is liboqs-python, is anything imported. Sizes are checked against the library's own before a byte reaches native code.
"""

import ctypes
import ctypes.util
import logging
import os
import warnings
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType
from typing import Any

from pqfl_transport.algorithms import LIBOQS, Algorithm
from pqfl_transport.errors import ConfigurationError, MessageError, PlatformError

HOW_TO_GET = (
    "install liboqs 0.16 or later as a shared library, name its folder in OQS_INSTALL_PATH, and"
    " pip install 'pqfl[liboqs]'; see docs/algorithms.md"
)
_DISTRIBUTION = "liboqs-python"
_MAX_MESSAGE_BYTES = 1 << 24


def liboqs_version() -> str:
    """Return the version of the shared library. Raises ``PlatformError`` (``no_liboqs``) where it is missing."""
    return str(_library().oqs_version())


def enabled(row: Algorithm) -> bool:
    """Return whether the library that is here was built with this row's algorithm; False without a library."""
    if row.liboqs_name is None or LIBOQS not in row.providers:
        return False
    try:
        library = _library()
    except PlatformError:
        return False
    return row.liboqs_name in library.get_enabled_kem_mechanisms() + library.get_enabled_sig_mechanisms()


def generate_kem_keys(row: Algorithm) -> tuple[bytes, bytes]:
    """Return a new public and secret key, of ``row.public_key_bytes`` and ``row.secret_key_bytes``."""
    with _kem(row) as kem:
        public = bytes(kem.generate_keypair())
        return public, bytes(kem.export_secret_key())


def encapsulate(row: Algorithm, public: bytes) -> tuple[bytes, bytes]:
    """Return ciphertext and shared secret for a public key. Raises ``ConfigurationError`` (``bad_key``)."""
    with _kem(row) as kem:
        _require_size(row, "public key", public, kem.details["length_public_key"])
        try:
            ciphertext, shared = kem.encap_secret(public)
        except RuntimeError as error:
            raise ConfigurationError(f"not a public key of {row.name}: {error}", reason="bad_key") from error
        return bytes(ciphertext), bytes(shared)


def decapsulate(row: Algorithm, secret: bytes, ciphertext: bytes) -> bytes:
    """Return the shared secret. These KEMs reject implicitly: a wrong key gives another secret.

    Raises ``MessageError`` (``not_for_us``) for a ciphertext of another length or one that the library refuses.
    """
    with _kem(row, secret) as kem:
        if len(ciphertext) != kem.details["length_ciphertext"]:
            raise MessageError(f"{len(ciphertext)} bytes are no ciphertext of {row.name}", reason="not_for_us")
        try:
            return bytes(kem.decap_secret(ciphertext))
        except RuntimeError as error:
            raise MessageError(f"{row.name}: {error}", reason="not_for_us") from error


def generate_signing_keys(row: Algorithm) -> tuple[bytes, bytes]:
    """Return a new public and secret key."""
    with _signature(row) as signer:
        public = bytes(signer.generate_keypair())
        return public, bytes(signer.export_secret_key())


def sign(row: Algorithm, secret: bytes, message: bytes, context: bytes = b"") -> bytes:
    """Return a signature; ``context`` is the context string of FIPS 204 and 205, empty for other families.

    Raises ``ConfigurationError`` (``no_context``) for a context with a scheme that takes none.
    """
    with _signature(row, secret) as signer:
        _require_message(row, message)
        if not context:
            return bytes(signer.sign(message))
        _require_context(row, signer)
        return bytes(signer.sign_with_ctx_str(message, context))


def verify(row: Algorithm, public: bytes, message: bytes, signature: bytes, context: bytes = b"") -> None:
    """Raise ``MessageError`` (``bad_signature``) unless the signature holds."""
    with _signature(row) as verifier:
        _require_size(row, "public key", public, verifier.details["length_public_key"])
        _require_message(row, message)
        if context:
            _require_context(row, verifier)
        holds = len(signature) <= verifier.details["length_signature"] and (
            verifier.verify_with_ctx_str(message, signature, context, public)
            if context
            else verifier.verify(message, signature, public)
        )
    if not holds:
        raise MessageError("the signature does not hold", reason="bad_signature")


def _kem(row: Algorithm, secret: bytes | None = None) -> Any:
    return _mechanism("KeyEncapsulation", row, secret)


def _signature(row: Algorithm, secret: bytes | None = None) -> Any:
    return _mechanism("Signature", row, secret)


def _mechanism(kind: str, row: Algorithm, secret: bytes | None) -> Any:
    library = _library()
    if not enabled(row):
        raise PlatformError(
            f"liboqs {library.oqs_version()} on this machine was built without {row.name}", reason="no_liboqs"
        )
    mechanism = getattr(library, kind)
    if secret is not None:
        with mechanism(row.liboqs_name) as empty:
            _require_size(row, "secret key", secret, empty.details["length_secret_key"])
    return mechanism(row.liboqs_name, secret)


def _require_size(row: Algorithm, what: str, data: bytes, expected: int) -> None:
    if len(data) != expected:
        raise ConfigurationError(f"{len(data)} bytes are no {what} of {row.name}", reason="bad_key")


def _require_message(row: Algorithm, message: bytes) -> None:
    if len(message) > _MAX_MESSAGE_BYTES:
        raise ConfigurationError(f"{row.name} signs no {len(message)} bytes here: sign a digest", reason="too_large")


def _require_context(row: Algorithm, mechanism: Any) -> None:
    if not mechanism.details.get("sig_with_ctx_support"):
        raise ConfigurationError(f"{row.name} takes no context string", reason="no_context")


@cache
def _library() -> ModuleType:
    found = _distribution_version()
    if found is None:
        raise PlatformError(f"liboqs-python is not installed; {HOW_TO_GET}", reason="no_liboqs")
    if not _shared_library_loads():
        raise PlatformError(f"the shared library liboqs was not found; {HOW_TO_GET}", reason="no_liboqs")
    # The module logs to standard output as it is imported, which would end up in the middle of somebody's JSON.
    previous = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            # It warns where library and wrapper differ in version; `pqfl doctor` shows both.
            warnings.simplefilter("ignore")
            import oqs  # noqa: PLC0415 -- only now is it known that importing does not build anything
    finally:
        logging.disable(previous)
    module: ModuleType = oqs
    return module


def _distribution_version() -> str | None:
    """Return the wrapper's version; the distribution named ``oqs`` is another project and does not count."""
    try:
        return version(_DISTRIBUTION)
    except PackageNotFoundError:
        return None


def _shared_library_loads() -> bool:
    folder = Path(os.environ.get("OQS_INSTALL_PATH") or Path.home() / "_oqs")
    candidates = [str(folder / lib / "liboqs.so") for lib in ("lib", "lib64")]
    candidates += [str(folder / "lib" / "liboqs.dylib")]
    candidates += [name for name in (ctypes.util.find_library("oqs"), ctypes.util.find_library("liboqs")) if name]
    return any(_loads(candidate) for candidate in candidates)


def _loads(path: str) -> bool:
    try:
        ctypes.CDLL(path)
    except OSError:
        return False
    return True
