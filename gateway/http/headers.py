"""Which header fields pass, and which say who is there.

Fields about one hop end with it (RFC 9110 §7.6.1). Identity fields that came from outside are removed and set anew:
`X-Forwarded-Client-Cert` in Envoy's format and `Forwarded` (RFC 7239). They inform and never authenticate: every
process of the backend's machine can write them.
"""

from collections.abc import Iterable

from multidict import CIMultiDict, CIMultiDictProxy

from pqfl_transport.tls.peers import PeerFacts

Headers = CIMultiDict[str]

_HOP_BY_HOP = frozenset(
    {
        "connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "te", "trailer",
        "transfer-encoding", "upgrade",
    }
)  # fmt: skip
_IDENTITY = frozenset(
    {
        "forwarded", "x-forwarded-client-cert", "x-forwarded-for", "x-forwarded-host", "x-forwarded-port",
        "x-forwarded-proto", "x-real-ip", "x-client-cert", "x-ssl-client-cert",
    }
)  # fmt: skip


def to_backend(headers: CIMultiDictProxy[str], peer: PeerFacts, source: str, own: str) -> Headers:
    """Return the fields of a request for the backend, in their order, with the peer's identity at the end.

    ``source`` is the address the request came from, ``own`` the gateway's name.
    """
    # The gateway has answered an expectation itself by the time the body goes on.
    passed = _passed(headers, _IDENTITY | {"expect"})
    passed.add("X-Forwarded-Client-Cert", client_cert_field(peer, own))
    passed.add("Forwarded", forwarded_field(source, headers.get("Host", "")))
    return passed


def to_peer(headers: CIMultiDictProxy[str]) -> Headers:
    """Return the fields of an answer for the peer, in their order."""
    return _passed(headers, frozenset())


def client_cert_field(peer: PeerFacts, own: str) -> str:
    """Return Envoy's description of a client certificate: By, Hash, Subject, URI, DNS."""
    certified = peer.certified
    parts = [f"By={own}", f"Hash={certified.fingerprint.hex()}", f"Subject={_quoted(certified.subject)}"]
    if certified.id is not None:
        parts.append(f"URI={certified.id}")
    parts += [f"DNS={name}" for name in certified.dns if _is_token(name)]
    return ";".join(parts)


def forwarded_field(source: str, host: str) -> str:
    """Return who asked, over what, for which host (RFC 7239 §4)."""
    return f"for={_quoted(source)};proto=https;host={_quoted(host)}"


def _passed(headers: CIMultiDictProxy[str], removed: Iterable[str]) -> Headers:
    named = {word.strip().casefold() for value in headers.getall("Connection", []) for word in value.split(",")}
    gone = _HOP_BY_HOP | named | set(removed)
    return CIMultiDict((name, value) for name, value in headers.items() if name.casefold() not in gone)


def _quoted(text: str) -> str:
    safe = "".join(letter if letter.isprintable() and letter.isascii() else "?" for letter in text)
    return '"' + safe.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _is_token(name: str) -> bool:
    return name.isascii() and all(letter.isalnum() or letter in "-.*_" for letter in name)
