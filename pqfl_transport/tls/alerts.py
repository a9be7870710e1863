"""Why handshakes fail, as tables: alerts the peer sent, errors of OpenSSL, and the error OpenSSL turns into an alert.

Each reason is one of the words that logs and metrics count: ``no_pq_group``, ``no_client_cert``, ``untrusted``,
``expired``, ``revoked``, ``not_allowed``, ``bad_sigalg``, ``bad_usage``, ``bad_name``, ``truncated``, ``protocol``;
``timeout`` is given by whoever holds the clock.
"""

from dataclasses import dataclass
from types import MappingProxyType

_ALERT_BASE = 1000
"""OpenSSL reports an alert it received as an error whose reason is the alert's number (RFC 9846 §6) above this."""


@dataclass(frozen=True, slots=True)
class LibraryError:
    """One entry of OpenSSL's error queue."""

    code: int
    """The reason's number inside the library that raised it."""
    text: str


@dataclass(frozen=True, slots=True)
class Failure:
    """A reason and the sentence that goes with it."""

    reason: str
    sentence: str


# RFC 9846 §6.2, in the words of the one who reads them: "the server refused us: …".
_ALERTS = MappingProxyType(
    {
        10: Failure("protocol", "it received a message it did not expect"),
        20: Failure("protocol", "a record did not decrypt (bad record mac)"),
        22: Failure("protocol", "a record was too long"),
        40: Failure(
            "no_pq_group", "it shares no key-exchange group, cipher suite or signature algorithm (handshake failure)"
        ),
        42: Failure("not_allowed", "it did not accept our certificate (bad certificate)"),
        43: Failure("bad_usage", "our certificate is not for this use (unsupported certificate)"),
        44: Failure("revoked", "our certificate was revoked (certificate revoked)"),
        45: Failure("expired", "our certificate expired or is not valid yet (certificate expired)"),
        46: Failure("not_allowed", "it does not allow us to connect (certificate unknown)"),
        47: Failure("protocol", "a parameter of the handshake was illegal"),
        48: Failure("untrusted", "it does not trust the authority of our certificate (unknown ca)"),
        49: Failure("not_allowed", "it does not allow us to connect (access denied)"),
        50: Failure("protocol", "a message could not be decoded"),
        51: Failure("protocol", "a signature or a Finished message did not verify (decrypt error)"),
        70: Failure("protocol", "it speaks another version of TLS (protocol version)"),
        71: Failure("no_pq_group", "what we offer is too weak for it (insufficient security)"),
        80: Failure("protocol", "it failed by itself (internal error)"),
        90: Failure("protocol", "it gave up (user canceled)"),
        109: Failure("protocol", "an extension it needs is missing"),
        112: Failure("bad_name", "it does not know the server name we asked for (unrecognized name)"),
        116: Failure("no_client_cert", "it requires a client certificate (certificate required)"),
        120: Failure("protocol", "it shares no application protocol (no application protocol)"),
    }
)

# By OpenSSL's own text, which is stable across its versions while the numbers have no public name here.
_ERRORS = MappingProxyType(
    {
        "no suitable key share": Failure("no_pq_group", "it offers no key-exchange group of ours"),
        "no suitable groups": Failure("no_pq_group", "it offers no key-exchange group of ours"),
        "bad key share": Failure("no_pq_group", "its key share is not usable"),
        "wrong curve": Failure("no_pq_group", "it answered with a key-exchange group that was not offered"),
        "no shared cipher": Failure("protocol", "it offers no cipher suite of ours"),
        "no suitable signature algorithm": Failure("bad_sigalg", "it accepts no signature algorithm of ours"),
        "no shared signature algorithms": Failure("bad_sigalg", "it offers no signature algorithm of ours"),
        "wrong signature type": Failure("bad_sigalg", "it signed with an algorithm that was not offered"),
        "wrong certificate type": Failure("bad_sigalg", "its certificate is of a kind that was not offered"),
        "peer did not return a certificate": Failure("no_client_cert", "it sent no client certificate"),
        "unsupported protocol": Failure("protocol", "it does not speak TLS 1.3"),
        "version too low": Failure("protocol", "it does not speak TLS 1.3"),
        "wrong version number": Failure("protocol", "it does not speak TLS"),
        "http request": Failure("protocol", "it sent a plain HTTP request to a TLS port"),
        "https proxy request": Failure("protocol", "it sent a plain HTTP request to a TLS port"),
        "packet length too long": Failure("protocol", "it does not speak TLS"),
        "no application protocol": Failure("protocol", "it shares no application protocol (ALPN) with us"),
        "unexpected eof while reading": Failure("truncated", "it closed the connection without saying so"),
        "decryption failed or bad record mac": Failure("protocol", "a record did not decrypt"),
        "certificate verify failed": Failure("malformed", "its certificate cannot be read"),
        "digest check failed": Failure("protocol", "its Finished message does not verify"),
        "bad signature": Failure("protocol", "its signature over the handshake does not verify"),
    }
)

# Errors of X.509 verification that OpenSSL turns into the alert that fits (its table in statem_lib.c).
_CERT_HAS_EXPIRED = 10
CERT_REJECTED = 28
_INVALID_PURPOSE = 26
_CERT_REVOKED = 23
_UNABLE_TO_GET_ISSUER_CERT_LOCALLY = 20
# A number that is in no row of OpenSSL's table becomes certificate_unknown, the alert for "good, but not for us".
_NOT_IN_THE_TABLE = 0x7000

_X509_ERRORS = MappingProxyType(
    {
        "expired": _CERT_HAS_EXPIRED,
        "not_yet_valid": _CERT_HAS_EXPIRED,
        "bad_usage": _INVALID_PURPOSE,
        "revoked": _CERT_REVOKED,
        "untrusted": _UNABLE_TO_GET_ISSUER_CERT_LOCALLY,
        "not_allowed": _NOT_IN_THE_TABLE,
    }
)


def x509_error(reason: str) -> int:
    """Return the X.509 error that makes OpenSSL send the alert which fits our reason to refuse a certificate."""
    return _X509_ERRORS.get(reason, CERT_REJECTED)


def received_alert(errors: tuple[LibraryError, ...]) -> int | None:
    """Return the number of the fatal alert that the peer sent, if these errors hold one."""
    for error in errors:
        alert = error.code - _ALERT_BASE
        if alert in _ALERTS:
            return alert
    return None


def explain(errors: tuple[LibraryError, ...], peer: str) -> Failure:
    """Say why a connection failed. ``peer`` is "server" or "client"; an alert of the peer's comes first."""
    alert = received_alert(errors)
    if alert is not None:
        found = _ALERTS[alert]
        return Failure(found.reason, f"the {peer} refused us: {found.sentence}")
    for error in errors:
        if error.text in _ERRORS:
            found = _ERRORS[error.text]
            return Failure(found.reason, f"the {peer} failed the handshake or broke the protocol: {found.sentence}")
    said = "; ".join(error.text for error in errors) or "no error was given"
    return Failure("protocol", f"the {peer} broke the protocol: {said}")
