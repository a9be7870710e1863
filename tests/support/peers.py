"""Peers as a handshake would have found them."""

from datetime import UTC, datetime
from typing import Any

from pqfl_transport.pki.spiffe import SpiffeId
from pqfl_transport.tls.peers import CertifiedPeer, PeerFacts


def certified(uri: str | None = "spiffe://fed/site/a", **changes: Any) -> CertifiedPeer:
    """What a certificate says; anything can be changed."""
    facts: dict[str, Any] = {
        "id": None if uri is None else SpiffeId.parse(uri), "name": uri or "CN=somebody", "dns": (), "ip": (),
        "cn": None, "ous": (), "subject": "CN=somebody", "sigalg": "ML-DSA-65", "serial_number": 7,
        "not_before": datetime(2026, 1, 1, tzinfo=UTC), "not_after": datetime(2030, 1, 1, tzinfo=UTC),
        "fingerprint": b"f" * 32, "spki_sha256": b"s" * 32,
    }  # fmt: skip
    return CertifiedPeer(**(facts | changes))


def peer(uri: str | None = "spiffe://fed/site/a", **changes: Any) -> PeerFacts:
    """What a connection is known by; anything can be changed."""
    facts: dict[str, Any] = {
        "certified": certified(uri), "group": "X25519MLKEM768", "cipher_suite": "TLS_AES_256_GCM_SHA384",
        "own_sigalg": "ML-DSA-65", "alpn": None, "post_quantum": True, "resumed": False,
    }  # fmt: skip
    return PeerFacts(**(facts | changes))
