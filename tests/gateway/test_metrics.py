"""What is counted, by listener and by peer."""

from gateway.metrics import HANDSHAKE_SECONDS, Metrics
from tests.support.peers import peer


def test_connections_of_one_peer_add_up() -> None:
    """What was negotiated last is shown beside the sums."""
    metrics = Metrics()
    listener = metrics.listener("main", "server")
    for _ in range(2):
        metrics.handshake(listener, peer(), 0.5).bytes_in += 10
    metrics.handshake(listener, peer(group="SecP256r1MLKEM768"), 0.5)
    (entry,) = metrics.snapshot()["peers"].values()
    assert (entry["connections"], entry["bytes_in"], entry["group"]) == (3, 20, "SecP256r1MLKEM768")
    assert entry["handshake_seconds"] == 1.5


def test_handshakes_are_counted_by_what_was_negotiated() -> None:
    """Group, both signatures and resumption tell them apart; classical ones are counted once more."""
    metrics = Metrics()
    listener = metrics.listener("main", "server")
    metrics.handshake(listener, peer(), 0.004)
    metrics.handshake(listener, peer(resumed=True), 0.2)
    metrics.handshake(listener, peer(group="x25519", post_quantum=False), 100.0)
    found = metrics.snapshot()["listeners"]["main"]
    assert [(entry["group"], entry["resumed"], entry["count"]) for entry in found["handshakes"]] == [
        ("X25519MLKEM768", False, 1), ("X25519MLKEM768", True, 1), ("x25519", False, 1),
    ]  # fmt: skip
    assert found["connections_classical"] == 1
    assert (found["handshake_buckets"][0], found["handshake_buckets"][-1]) == (1, 1)
    assert sum(found["handshake_buckets"]) == 3
    assert len(found["handshake_buckets"]) == len(HANDSHAKE_SECONDS) + 1


def test_a_listener_keeps_its_counters() -> None:
    """Asking again, as after a reload, does not begin at zero."""
    metrics = Metrics()
    metrics.listener("main", "server").failures["expired"] += 1
    metrics.listener("main", "server").failures["expired"] += 1
    assert metrics.snapshot()["listeners"]["main"]["handshake_failures"] == {"expired": 2}


def test_who_comes_classically_is_known_by_name_and_time() -> None:
    """A peer that came over to post-quantum TLS keeps the time of its last classical handshake, and that alone."""
    now = [1_000.7]
    metrics = Metrics(clock=lambda: now[0])
    listener = metrics.listener("main", "server")
    metrics.handshake(listener, peer(post_quantum=False), 0.5).opened(post_quantum=False)
    now[0] = 2_000.0
    totals = metrics.handshake(listener, peer(), 0.5)
    totals.opened(post_quantum=True)
    assert (totals.classical_at, totals.classical_open, totals.connections_open) == (1_000, 1, 2)
    totals.closed(post_quantum=False)
    assert (totals.classical_at, totals.classical_open, totals.connections_open) == (1_000, 0, 1)
