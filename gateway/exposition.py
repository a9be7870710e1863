"""What `/_status` and `/_metrics` say: the snapshots of one process or of several workers, added up.

Counters add up; what describes the machine or the configuration (backends, certificates) is the same in all of them and
is taken from the last one, except that a backend is up where any worker reaches it.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from gateway.metrics import HANDSHAKE_SECONDS

Snapshot = dict[str, Any]
_LAST_SAID = frozenset({"role", "group", "cipher_suite", "own_sigalg", "peer_sigalg", "post_quantum", "sigalg"})
_LATEST = frozenset({"classical_at"})


def merge(snapshots: Sequence[Snapshot]) -> Snapshot:
    """Return one snapshot of several processes. Raises ``ValueError`` for none."""
    if not snapshots:
        raise ValueError("nothing to add up")
    merged: Snapshot = {}
    for snapshot in snapshots:
        merged = _add(merged, snapshot)
    merged["workers"] = len(snapshots)
    return merged


def _add(left: Mapping[str, Any], right: Mapping[str, Any]) -> Snapshot:
    result = dict(left)
    for name, value in right.items():
        result[name] = _sum(name, left[name], value) if name in left else value
    return result


def _sum(name: str, left: Any, right: Any) -> Any:
    if name == "handshakes":
        return _add_handshakes(left, right)
    if name == "handshake_buckets":
        return [one + other for one, other in zip(left, right, strict=True)]
    if name == "backends":
        return {target: _better(left.get(target), state) for target, state in right.items()}
    if isinstance(left, Mapping) and isinstance(right, Mapping):
        return _add(left, right)
    if name in _LAST_SAID or isinstance(right, str | bool | list) or right is None:
        return right
    return max(left, right) if name in _LATEST else left + right


def _better(left: Mapping[str, Any] | None, right: Mapping[str, Any]) -> Mapping[str, Any]:
    return left if left is not None and left["up"] else right


def _add_handshakes(left: Iterable[Mapping[str, Any]], right: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    counts: dict[tuple[tuple[str, Any], ...], int] = {}
    for entry in (*left, *right):
        labels = tuple((name, value) for name, value in entry.items() if name != "count")
        counts[labels] = counts.get(labels, 0) + entry["count"]
    return [dict(labels) | {"count": count} for labels, count in counts.items()]


def prometheus(snapshot: Snapshot) -> str:
    """Return a snapshot in the text format of Prometheus (version 0.0.4)."""
    page = _Page()
    for name, listener in snapshot["listeners"].items():
        _listener(page, name, listener)
    for name, peer in snapshot["peers"].items():
        page.add("pqfl_peer_connections_total", "counter", peer["connections"], peer=name)
        page.add("pqfl_peer_bytes_total", "counter", peer["bytes_in"], peer=name, direction="in")
        page.add("pqfl_peer_bytes_total", "counter", peer["bytes_out"], peer=name, direction="out")
        if peer["classical_at"]:
            page.add("pqfl_peer_classical_handshake_timestamp_seconds", "gauge", peer["classical_at"], peer=name)
    for certificate in snapshot["certificates"]:
        labels = {"name": certificate["name"], "alg": certificate["algorithm"]}
        page.add("pqfl_certificate_expiry_timestamp_seconds", "gauge", certificate["not_after"], **labels)
    for advisory in snapshot["advisories"]:
        labels = {"listener": advisory["listener"]}
        page.add("pqfl_advisory_number", "gauge", advisory["number"], **labels)
        page.add("pqfl_advisory_expiry_timestamp_seconds", "gauge", advisory["expires_at"], **labels)
    for crl in snapshot["crls"]:
        labels = {"listener": crl["listener"], "issuer": crl["issuer"]}
        page.add("pqfl_crl_number", "gauge", crl["number"], **labels)
        page.add("pqfl_crl_next_update_timestamp_seconds", "gauge", crl["next_update"], **labels)
        page.add("pqfl_crl_revoked_certificates", "gauge", crl["revoked"], **labels)
    for result, count in snapshot.get("crl_fetches", {}).items():
        page.add("pqfl_crl_fetch_total", "counter", count, result=result)
    page.add("pqfl_suspended", "gauge", int("suspended" in snapshot))
    for result, count in snapshot["reloads"].items():
        page.add("pqfl_cert_reload_total", "counter", count, result=result)
    for result, count in snapshot.get("renewals", {}).items():
        page.add("pqfl_certificate_renewals_total", "counter", count, result=result)
    page.add("pqfl_cpu_seconds_total", "counter", round(snapshot["cpu_seconds"], 6))
    page.add("pqfl_crypto_seconds_total", "counter", round(snapshot["crypto_seconds"], 6))
    page.add("pqfl_workers", "gauge", snapshot["workers"])
    page.add("pqfl_build_info", "gauge", 1, openssl=snapshot["openssl"], version=snapshot["version"])
    return page.text()


def _listener(page: "_Page", name: str, listener: Mapping[str, Any]) -> None:
    role = listener["role"]
    for entry in listener["handshakes"]:
        labels = {key: entry[key] for key in ("group", "sigalg", "peer_sigalg")}
        resumed = "true" if entry["resumed"] else "false"
        page.add(
            "pqfl_tls_handshakes_total", "counter", entry["count"], role=role, **labels, resumed=resumed, listener=name
        )
    for metric, key, label in (
        ("pqfl_tls_handshake_failures_total", "handshake_failures", "reason"),
        ("pqfl_refusals_total", "refusals", "reason"),
        ("pqfl_connections_closed_total", "closes", "reason"),
        ("pqfl_http_requests_total", "requests", "status"),
    ):
        for word, count in listener[key].items():
            page.add(metric, "counter", count, **{label: word}, listener=name)
    _histogram(page, name, listener)
    page.add("pqfl_connections_open", "gauge", listener["connections_open"], listener=name)
    page.add("pqfl_connections_classical_total", "counter", listener["connections_classical"], listener=name)
    page.add("pqfl_bytes_total", "counter", listener["bytes_in"], direction="in", listener=name)
    page.add("pqfl_bytes_total", "counter", listener["bytes_out"], direction="out", listener=name)
    page.add("pqfl_policy_info", "gauge", 1, listener=name, policy=listener["policy"])
    page.add("pqfl_policy_changes_total", "counter", listener["policy_changes"], listener=name)
    for target, state in listener["backends"].items():
        page.add("pqfl_backend_up", "gauge", int(state["up"]), target=target, listener=name)


def _histogram(page: "_Page", name: str, listener: Mapping[str, Any]) -> None:
    total = 0
    metric = "pqfl_tls_handshake_seconds"
    for bound, count in zip((*map(str, HANDSHAKE_SECONDS), "+Inf"), listener["handshake_buckets"], strict=True):
        total += count
        page.add(f"{metric}_bucket", "histogram", total, family=metric, listener=name, le=bound)
    page.add(f"{metric}_sum", "histogram", round(listener["handshake_seconds"], 6), family=metric, listener=name)
    page.add(f"{metric}_count", "histogram", total, family=metric, listener=name)


class _Page:
    """Lines gathered by family, because the format wants all of a family together."""

    def __init__(self) -> None:
        self._families: dict[str, list[str]] = {}

    def add(self, metric: str, kind: str, value: float, *, family: str = "", **labels: str) -> None:
        """Add one sample."""
        lines = self._families.setdefault(family or metric, [f"# TYPE {family or metric} {kind}"])
        text = ",".join(f'{name}="{_escape(label)}"' for name, label in labels.items())
        lines.append(f"{metric}{{{text}}} {value}" if text else f"{metric} {value}")

    def text(self) -> str:
        """Return the page."""
        return "\n".join(line for lines in self._families.values() for line in lines) + "\n"


def _escape(label: str) -> str:
    return label.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
