"""What this libcrypto negotiates is shown by doing it, and what it cannot do is said with a reason."""

from datetime import timedelta

import pytest

from pqfl_transport.algorithms import TABLE, Kind
from pqfl_transport.tls import probe
from pqfl_transport.tls.probe import negotiable_groups, negotiable_signatures


def test_every_group_is_tried_and_those_of_the_default_level_work() -> None:
    """Each row has a verdict; the groups that all levels need are shown working by a handshake."""
    groups = negotiable_groups()
    assert set(groups) == {row.name for row in TABLE if row.kind is Kind.TLS_GROUP}
    for name in ("X25519MLKEM768", "SecP256r1MLKEM768", "SecP384r1MLKEM1024", "MLKEM1024"):
        works, why = groups[name]
        assert works, why
        assert "TLSv1.3" in why
        assert name in why


def test_what_does_not_work_has_a_reason() -> None:
    """Groups that only another provider has are not negotiable here, and the verdict says so."""
    failing = {name: why for name, (works, why) in negotiable_groups().items() if not works}
    assert all(why for why in failing.values())


def test_every_signature_is_tried() -> None:
    """All three ML-DSA sets make certificates that a handshake accepts."""
    assert {name: works for name, (works, _) in negotiable_signatures().items()} == {
        "ML-DSA-44": True, "ML-DSA-65": True, "ML-DSA-87": True,
    }  # fmt: skip


def test_a_probe_does_not_depend_on_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine whose clock is years off, the algorithms are still found to work."""
    monkeypatch.setattr(probe, "_NOW", probe._NOW + timedelta(days=9000))
    assert negotiable_groups()["X25519MLKEM768"][0]


def test_a_handshake_that_fails_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    """Certificates of one algorithm do not pass where another one was asked for."""
    real = probe._throw_away
    monkeypatch.setattr(probe, "_throw_away", lambda _name: real("ML-DSA-44"))
    works, why = negotiable_signatures()["ML-DSA-87"]
    assert not works
    assert why
