"""Snapshots add up over workers, and Prometheus can read them."""

import re
from typing import Any

import pytest

from gateway.exposition import merge, prometheus
from gateway.metrics import Metrics
from tests.support.peers import peer

LINE = re.compile(r'[a-z_]+(\{[a-z_]+="[^"\n]*"(,[a-z_]+="[^"\n]*")*\})? [0-9.e+-]+')


def snapshot(count: int = 1, *, up: bool = True) -> dict[str, Any]:
    """What one process says after so many connections."""
    metrics = Metrics()
    listener = metrics.listener("main", "server")
    for _ in range(count):
        metrics.handshake(listener, peer(), 0.5).bytes_out += 7
    listener.failures["untrusted"] += 2
    listener.bytes_out += 7 * count
    metrics.reloads["ok"] += 1
    found = metrics.snapshot()
    found["listeners"]["main"] |= {
        "address": "127.0.0.1:1", "mode": "tcp", "policy": "high-2026",
        "backends": {"127.0.0.1:2": {"up": up, "detail": ""}},
    }  # fmt: skip
    return found | {
        "version": "1", "openssl": "OpenSSL 4", "crypto_seconds": 0.25, "cpu_seconds": 0.5, "workers": 1,
        "advisories": [{"listener": "main", "number": 7, "expires_at": 1_900_000_000, "stale": False, "withdrawn": []}],
        "crls": [{"listener": "main", "issuer": "CN=fed", "number": 3, "next_update": 1_900_000_000, "revoked": 2}],
        "certificates": [{"name": "spiffe://fed/gateway/hub", "algorithm": "ML-DSA-65", "not_after": 1_900_000_000}],
    }  # fmt: skip


def test_counters_of_workers_add_up() -> None:
    """Sums are sums, descriptions stay as they are, and handshakes with the same labels are one line."""
    merged = merge([snapshot(1), snapshot(2), snapshot(0)])
    listener = merged["listeners"]["main"]
    assert [entry["count"] for entry in listener["handshakes"]] == [3]
    assert listener["handshake_failures"] == {"untrusted": 6}
    assert listener["bytes_out"] == 21
    assert sum(listener["handshake_buckets"]) == 3
    assert merged["peers"]["spiffe://fed/site/a"]["connections"] == 3
    assert merged["peers"]["spiffe://fed/site/a"]["group"] == "X25519MLKEM768"
    assert (merged["workers"], merged["cpu_seconds"], merged["openssl"]) == (3, 1.5, "OpenSSL 4")
    assert len(merged["certificates"]) == len(merged["advisories"]) == 1


def test_a_backend_is_up_where_any_worker_reaches_it() -> None:
    """One worker that has not tried again yet does not take the service down."""
    for order in ([True, False], [False, True]):
        merged = merge([snapshot(up=up) for up in order])
        assert merged["listeners"]["main"]["backends"]["127.0.0.1:2"]["up"] is True


def test_nothing_adds_up_to_nothing() -> None:
    """Where no worker answers there is no page, and not an empty one."""
    with pytest.raises(ValueError, match="add up"):
        merge([])


def test_metrics_are_in_the_text_format() -> None:
    """Every line is a comment or a sample, a family stands together, and names and labels are the documented ones."""
    text = prometheus(snapshot())
    lines = text.splitlines()
    assert all(line.startswith("# TYPE ") or LINE.fullmatch(line) for line in lines)
    types = [line for line in lines if line.startswith("# TYPE ")]
    assert len(types) == len(set(types))
    for line in (
        (
            'pqfl_tls_handshakes_total{role="server",group="X25519MLKEM768",sigalg="ML-DSA-65",peer_sigalg="ML-DSA-65",'
            'resumed="false",listener="main"} 1'
        ),
        'pqfl_tls_handshake_failures_total{reason="untrusted",listener="main"} 2',
        'pqfl_tls_handshake_seconds_count{listener="main"} 1',
        'pqfl_tls_handshake_seconds_bucket{listener="main",le="+Inf"} 1',
        'pqfl_bytes_total{direction="out",listener="main"} 7',
        'pqfl_connections_open{listener="main"} 0',
        'pqfl_backend_up{target="127.0.0.1:2",listener="main"} 1',
        'pqfl_cert_reload_total{result="ok"} 1',
        'pqfl_certificate_expiry_timestamp_seconds{name="spiffe://fed/gateway/hub",alg="ML-DSA-65"} 1900000000',
        'pqfl_build_info{openssl="OpenSSL 4",version="1"} 1',
    ):
        assert line in lines


def test_labels_cannot_break_out_of_their_quotes() -> None:
    """A peer's name is data: quotes, backslashes and line ends in it stay inside the label."""
    odd = snapshot()
    odd["peers"] = {'a"b\\c\nd': odd["peers"]["spiffe://fed/site/a"]}
    assert 'peer="a\\"b\\\\c\\nd"' in prometheus(odd)


def test_revocation_lists_can_be_watched() -> None:
    """Which list is in force, until when it is good, and whether fetching the next one works."""
    page = prometheus(snapshot() | {"crl_fetches": {"ok": 4, "failed": 1}})
    labels = '{listener="main",issuer="CN=fed"}'
    assert f"pqfl_crl_number{labels} 3" in page
    assert f"pqfl_crl_next_update_timestamp_seconds{labels} 1900000000" in page
    assert f"pqfl_crl_revoked_certificates{labels} 2" in page
    assert 'pqfl_crl_fetch_total{result="failed"} 1' in page


def test_renewals_can_be_watched() -> None:
    """How often the own certificate was renewed, and how often that failed."""
    page = prometheus(snapshot() | {"renewals": {"ok": 2, "failed": 1}})
    assert 'pqfl_certificate_renewals_total{result="ok"} 2' in page
    assert 'pqfl_certificate_renewals_total{result="failed"} 1' in page


def test_policy_and_advisory_can_be_watched() -> None:
    """Which policy is in force, how often it changed, until when its advisory is good, and whether all is suspended."""
    page = prometheus(snapshot())
    assert 'pqfl_policy_info{listener="main",policy="high-2026"} 1' in page
    assert 'pqfl_policy_changes_total{listener="main"} 0' in page
    assert 'pqfl_advisory_number{listener="main"} 7' in page
    assert 'pqfl_advisory_expiry_timestamp_seconds{listener="main"} 1900000000' in page
    assert "pqfl_suspended 0" in page
    merged = merge([snapshot(), snapshot() | {"suspended": "nothing left"}])
    assert "pqfl_suspended 1" in prometheus(merged)
