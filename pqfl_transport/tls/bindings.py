"""The bindings beneath pyOpenSSL: what has no public name there, in one place.

pyOpenSSL has no setter for groups or signature algorithms, copies every record twice on reading, and hands a verify
callback no way to choose the alert. `libssl` and `link` make those calls through the names here and nobody else does.
All of them follow one discipline, which is pyOpenSSL's own: the thread's error queue is empty before a call, and read
to its end after a failed one.
"""

from typing import Any

from OpenSSL import SSL, crypto

from pqfl_transport.tls.alerts import LibraryError

# pyOpenSSL publishes its cffi library under these names only.
lib: Any = SSL._lib  # type: ignore[attr-defined]  # noqa: SLF001
ffi: Any = SSL._ffi  # type: ignore[attr-defined]  # noqa: SLF001
allocate_unzeroed = ffi.new_allocator(should_clear_after_alloc=False)

MAX_CALL_BYTES = 2**31 - 1


def openssl_version() -> str:
    """Return the version text of the OpenSSL that is really in use."""
    return SSL.OpenSSL_version(SSL.OPENSSL_VERSION).decode("ascii", "replace")


def drain_errors() -> tuple[LibraryError, ...]:
    """Empty the thread's error queue and return what it held."""
    errors = []
    while code := lib.ERR_get_error():
        text = lib.ERR_reason_error_string(code)
        said = "" if text == ffi.NULL else ffi.string(text).decode("utf-8", "replace")
        errors.append(LibraryError(int(lib.ERR_GET_REASON(code)), said))
    return tuple(errors)


def address_of(pointer: Any) -> int:
    """Return a pointer as a number: how a callback finds the object it is for."""
    return int(ffi.cast("uintptr_t", pointer))


def certificate_der(raw: Any, *, owned: bool) -> bytes:
    """Return the DER bytes of an ``X509 *``; ``owned`` says that this call has to free it."""
    if not owned:
        lib.X509_up_ref(raw)
    wrapped = crypto.X509._from_raw_x509_ptr(raw)  # noqa: SLF001
    return crypto.dump_certificate(crypto.FILETYPE_ASN1, wrapped)


def said(error: Exception) -> str:
    """Return what OpenSSL said in one of pyOpenSSL's errors."""
    entries = error.args[0] if error.args and isinstance(error.args[0], list) else []
    return "; ".join(str(entry[-1]) for entry in entries) or str(error) or type(error).__name__
