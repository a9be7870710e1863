"""What is counted, and that Prometheus can read it."""

import re
from datetime import UTC, datetime
from typing import Any

from gateway.metrics import Metrics
from pqfl_transport.pki.spiffe import SpiffeId
from pqfl_transport.tls.config import Role
from pqfl_transport.tls.peers import PeerFacts

LINE = re.compile(r'[a-z_]+(\{[a-z_]+="[^"\n]*"(,[a-z_]+="[^"\n]*")*\})? [0-9.e+-]+')


def peer(**changes: Any) -> PeerFacts:
    facts: dict[str, Any] = {
        "id": SpiffeId.parse("spiffe://fed/site/a"), "dns": (), "ip": (), "group": "X25519MLKEM768",
        "cipher_suite": "TLS_AES_256_GCM_SHA384", "own_sigalg": "ML-DSA-65", "peer_sigalg": "ML-DSA-65", "alpn": None,
        "serial_number": 1, "not_after": datetime(2030, 1, 1, tzinfo=UTC), "fingerprint": b"",
    }  # fmt: skip
    return PeerFacts(**(facts | changes))


def test_status_has_one_entry_a_peer() -> None:
    """Connections of one identity add up; what was negotiated last is shown."""
    metrics = Metrics(Role.SERVER, "OpenSSL 4")
    for _ in range(2):
        totals = metrics.handshake(peer(), 0.5)
        totals.bytes_in += 10
    metrics.handshake(peer(group="SecP256r1MLKEM768"), 0.5)
    metrics.failures["expired"] += 1
    status = metrics.status(crypto_seconds=0.25)
    (entry,) = status["peers"].values()
    assert (entry["connections"], entry["bytes_in"], entry["group"]) == (3, 20, "SecP256r1MLKEM768")
    assert entry["handshake_seconds"] == 1.5
    assert (status["role"], status["handshake_failures"], status["crypto_seconds"]) == ("server", {"expired": 1}, 0.25)


def test_metrics_are_in_the_text_format() -> None:
    """Every line is a comment or a sample; names and labels are the documented ones."""
    metrics = Metrics(Role.CLIENT, "OpenSSL 4")
    metrics.handshake(peer(), 0.5).bytes_out += 7
    metrics.failures["untrusted"] += 2
    text = metrics.prometheus()
    assert all(line.startswith("# TYPE ") or LINE.fullmatch(line) for line in text.splitlines())
    for line in (
        (
            'pqfl_tls_handshakes_total{role="client",group="X25519MLKEM768",sigalg="ML-DSA-65",peer_sigalg="ML-DSA-65",'
            'resumed="false"} 1'
        ),
        'pqfl_tls_handshake_failures_total{reason="untrusted"} 2',
        "pqfl_tls_handshake_seconds_count 1",
        'pqfl_bytes_total{direction="out"} 7',
        "pqfl_connections_open 0",
        'pqfl_build_info{openssl="OpenSSL 4"} 1',
    ):
        assert line in text.splitlines()
