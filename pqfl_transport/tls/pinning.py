"""Meeting a service for the first time, when nothing is known of it but the fingerprint of its root.

`presented_chain` completes a handshake, keeps the certificates that the service sends and ends the connection: nothing
of ours has travelled, and nothing of theirs is believed. `pinned_anchors` makes trust anchors of them, if the root
among them is the one that was pinned; everything else is then verified by an ordinary client context.
"""

import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256

from pqfl_transport.algorithms import Kind, find
from pqfl_transport.errors import CertificateError, PeerError, TransportError
from pqfl_transport.pki import chain
from pqfl_transport.policy import Policy
from pqfl_transport.tls import alerts, libssl
from pqfl_transport.tls.libssl import Status

MAX_PRESENTED = 16
_READ_BYTES = 64 * 1024
_MAX_HANDSHAKE_BYTES = 1024 * 1024


def presented_chain(host: str, port: int, policy: Policy, *, timeout_seconds: float) -> list[x509.Certificate]:
    """Return the certificates that a service presents, its own first. Nothing is verified yet, and nothing sent.

    Raises ``TransportError`` where nobody answers, ``PeerError`` where no handshake under this policy completes.
    """
    looker = _Looker()
    link = libssl.LinkFactory(_settings(policy)).new_link(looker, server_name=None, now=datetime.now(UTC))
    try:
        with socket.create_connection((host, port), timeout=timeout_seconds) as connection:
            _shake_hands(link, connection)
            link.send_close_notify()
            connection.sendall(link.take(_READ_BYTES))
    except OSError as error:
        raise TransportError(f"{host}:{port}: {error.strerror or error}", reason="target_down") from error
    leaf = link.peer_certificate_der
    ders = [] if leaf is None else [leaf, *link.peer_chain_der()]
    return [chain.load_certificate_der(der) for der in ders[:MAX_PRESENTED]]


def pinned_anchors(presented: Sequence[x509.Certificate], root_sha256: bytes) -> tuple[x509.Certificate, ...]:
    """Return the root that was pinned and the authorities that were presented with it, but for other roots.

    Raises ``CertificateError`` (``wrong_root``) where that root is not among them.
    """
    above = presented[1:]
    roots = [one for one in above if one.fingerprint(SHA256()) == root_sha256 and chain.is_self_signed(one)]
    if not roots:
        raise CertificateError(
            f"no root that the service presents has the fingerprint {root_sha256.hex()[:16]}…: it is of somebody else",
            reason="wrong_root",
        )
    return (roots[0], *(one for one in above if one.issuer != one.subject))


@dataclass(slots=True)
class _Looker:
    """Lets every certificate pass: this connection carries nothing."""

    def __call__(self, der: bytes, openssl_error: int, chain_above: Callable[[], list[bytes]]) -> int:
        del der, openssl_error, chain_above
        return 0


def _shake_hands(link: libssl.Link, connection: socket.socket) -> None:
    received = 0
    while (status := link.do_handshake()) is Status.WANT_READ:
        connection.sendall(link.take(_READ_BYTES))
        data = connection.recv(_READ_BYTES)
        received += len(data)
        if received > _MAX_HANDSHAKE_BYTES:
            raise PeerError("the server's handshake does not end", reason="protocol")
        if data:
            link.feed(data)
        else:
            link.feed_eof()
    if status is not Status.DONE:
        failure = alerts.explain(link.errors, "server")
        raise PeerError(failure.sentence, reason=failure.reason)
    connection.sendall(link.take(_READ_BYTES))


def _settings(policy: Policy) -> libssl.Settings:
    def names(rows: Sequence[str], kind: Kind) -> tuple[str, ...]:
        return tuple(found.openssl_name for found in (find(name, kind) for name in rows) if found.openssl_name)

    half = policy.post_quantum_half
    return libssl.Settings(
        server=False,
        groups=names(half.all_groups, Kind.TLS_GROUP),
        signature_algorithms=names(half.all_signatures, Kind.SIGNATURE),
        cipher_suites=names(half.tls_suites, Kind.TLS_SUITE),
        identities=(),
        anchors=(),
    )
