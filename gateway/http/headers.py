"""Which header fields pass, and which say who is there.

Fields about one hop end with it (RFC 9110 §7.6.1). Identity fields that came from outside are removed and set anew:
`X-Forwarded-Client-Cert` in Envoy's format and `Forwarded` (RFC 7239). They inform and never authenticate: every
process of the backend's machine can write them.
"""

from multidict import CIMultiDict, CIMultiDictProxy

from pqfl_transport.errors import MessageError, TransportError
from pqfl_transport.tls.peers import PeerFacts

Headers = CIMultiDict[str]

_HOP_BY_HOP = frozenset(
    {
        "connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "te", "trailer",
        "transfer-encoding", "upgrade",
    }
)  # fmt: skip
# Who asks, and for what: some backends believe these more than the connection and the request line.
_IDENTITY = frozenset(
    {"forwarded", "x-real-ip", "x-client-ip", "true-client-ip", "x-original-url", "x-rewrite-url", "x-original-host"}
)
_IDENTITY_PREFIXES = ("x-forwarded-", "x-client-cert", "x-ssl-client", "ssl-client-")
# Where a request goes and where it ends is nobody's choice for one hop, whatever Connection says.
_NEVER_HOP_BY_HOP = frozenset({"host", "content-length"})


def to_backend(headers: CIMultiDictProxy[str], peer: PeerFacts, source: str, own: str) -> Headers:
    """Return the fields of a request for the backend, in their order, with the peer's identity at the end.

    ``source`` is the address the request came from, ``own`` the gateway's name. Raises ``MessageError``
    (``bad_field``) for a value that would not arrive as it is.
    """
    # The gateway has answered an expectation itself by the time the body goes on.
    passed = CIMultiDict(
        (name, value)
        for name, value in _passed(headers).items()
        if name.casefold() != "expect" and not _is_identity(name)
    )
    if (name := _unspeakable(passed)) is not None:
        raise MessageError(f"the field {name} is not text in UTF-8", reason="bad_field")
    passed.add("X-Forwarded-Client-Cert", client_cert_field(peer, own))
    passed.add("Forwarded", forwarded_field(source, headers.get("Host", "")))
    return passed


def to_peer(headers: CIMultiDictProxy[str]) -> Headers:
    """Return the fields of an answer for the peer, in their order.

    Raises ``TransportError`` (``bad_answer``) for a value that would not arrive as it is.
    """
    passed = _passed(headers)
    if (name := _unspeakable(passed)) is not None:
        raise TransportError(f"the backend's field {name} is not text in UTF-8", reason="bad_answer")
    return passed


def client_cert_field(peer: PeerFacts, own: str) -> str:
    """Return Envoy's description of a client certificate: By, Hash, Subject, URI, DNS."""
    certified = peer.certified
    by = _quoted(own) if set(own) & set(',;="\\') else own
    parts = [f"By={by}", f"Hash={certified.fingerprint.hex()}", f"Subject={_quoted(certified.subject)}"]
    if certified.id is not None:
        parts.append(f"URI={certified.id}")
    parts += [f"DNS={name}" for name in certified.dns if _is_token(name)]
    return ";".join(parts)


def forwarded_field(source: str, host: str) -> str:
    """Return who asked, over what, for which host (RFC 7239 §4).

    A source that is no address, as behind a unix socket, is an obfuscated identifier (§6.3).
    """
    node = source if ":" in source else f"_{source}"
    return f"for={_quoted(node)};proto=https;host={_quoted(host)}"


def _passed(headers: CIMultiDictProxy[str]) -> Headers:
    named = {word.strip().casefold() for value in headers.getall("Connection", []) for word in value.split(",")}
    gone = _HOP_BY_HOP | (named - _NEVER_HOP_BY_HOP)
    return CIMultiDict((name, value) for name, value in headers.items() if name.casefold() not in gone)


def _is_identity(name: str) -> bool:
    # To a backend with CGI's names an underscore is a hyphen (RFC 3875 §4.1.18), so it is one here.
    plain = name.casefold().replace("_", "-")
    return plain in _IDENTITY or plain.startswith(_IDENTITY_PREFIXES)


def _unspeakable(headers: Headers) -> str | None:
    """Return the name of a field with bytes that are no UTF-8; writing it would leave them out without a word."""
    return next((name for name, value in headers.items() if any(_is_escaped(letter) for letter in value)), None)


def _is_escaped(letter: str) -> bool:
    return "\udc80" <= letter <= "\udcff"


def _quoted(text: str) -> str:
    safe = "".join(letter if letter.isprintable() and letter.isascii() else "?" for letter in text)
    return '"' + safe.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _is_token(name: str) -> bool:
    return name.isascii() and all(letter.isalnum() or letter in "-.*_" for letter in name)
