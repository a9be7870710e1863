"""Our errors and facts in the standard library's words, for code that knows ``ssl`` and not us."""

import ssl
from typing import Any

from cryptography.x509 import load_der_x509_certificate

from pqfl_transport.errors import PeerError
from pqfl_transport.tls.engine import TlsEngine

_TIME = "%b %d %H:%M:%S %Y GMT"
# Refusals of a certificate; other reasons are failures of the protocol or of the network.
_CERTIFICATE_REASONS = frozenset(
    {
        "untrusted",
        "expired",
        "not_yet_valid",
        "revoked",
        "stale_crl",
        "not_allowed",
        "bad_sigalg",
        "bad_usage",
        "bad_name",
        "malformed",
    }
)


def to_ssl_error(error: PeerError) -> ssl.SSLError:
    """Return the ``ssl`` error that fits; raise it ``from`` ours, so that the reason is at hand."""
    text = f"[{error.reason}] {error}"
    if error.reason == "truncated":
        return ssl.SSLEOFError(ssl.SSL_ERROR_EOF, text)
    if error.reason in _CERTIFICATE_REASONS:
        refusal = ssl.SSLCertVerificationError(ssl.SSL_ERROR_SSL, text)
        refusal.verify_message = str(error)
        return refusal
    return ssl.SSLError(ssl.SSL_ERROR_SSL, text)


def peer_certificate(engine: TlsEngine, *, binary_form: bool) -> bytes | dict[str, Any] | None:
    """Return what ``getpeercert`` does: DER, or a dictionary of names and dates; None before the handshake ended."""
    if not engine.handshake_complete:
        return None
    der = engine.peer_certificate_der
    if not der:
        return None
    if binary_form:
        return der
    certificate, peer = load_der_x509_certificate(der), engine.peer
    names = [
        *([("URI", str(peer.id))] if peer.id else []),
        *(("DNS", name) for name in peer.dns),
        *(("IP Address", ip) for ip in peer.ip),
    ]
    return {
        "subject": tuple(((part.oid._name, part.value),) for part in certificate.subject),  # noqa: SLF001
        "issuer": tuple(((part.oid._name, part.value),) for part in certificate.issuer),  # noqa: SLF001
        "version": certificate.version.value + 1,
        "serialNumber": f"{certificate.serial_number:X}",
        "notBefore": certificate.not_valid_before_utc.strftime(_TIME),
        "notAfter": certificate.not_valid_after_utc.strftime(_TIME),
        "subjectAltName": tuple(names),
    }
