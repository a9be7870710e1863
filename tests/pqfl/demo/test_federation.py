"""The demonstration's folder: whole, repeatable, and never over somebody else's files."""

import stat
from pathlib import Path

import pytest

from aggregator.config import load_config
from pqfl.demo.federation import set_up
from pqfl.demo.hospitals import Patients
from pqfl_transport.errors import ConfigurationError
from pqfl_transport.pki.membership import load_membership
from pqfl_transport.pki.spiffe import Role


def test_every_process_finds_its_own_keys_and_no_others(tmp_path: Path) -> None:
    """A sidecar gets the TLS key alone; an FL client the signing and receiving keys, and its own patients."""
    folder = set_up(tmp_path / "out", sites=3, rounds=2, level="high", seed=1)
    assert len(folder.hospitals) == 3
    for hospital in folder.hospitals:
        assert {path.name for path in hospital.sidecar.iterdir()} == {"tls.pem", "tls.key", "ca.pem"}
        assert {path.name for path in hospital.client.iterdir()} == {
            "signing.pem", "signing.key", "receiving.pub", "receiving.key", "ca.pem", "patients.npz",
        }  # fmt: skip
        for key in (hospital.sidecar / "tls.key", hospital.client / "signing.key", hospital.client / "receiving.key"):
            assert stat.S_IMODE(key.stat().st_mode) == 0o600
        assert len(Patients.load(hospital.client / "patients.npz")) == len(hospital.patients)
        member = load_membership(hospital.client, hospital.client / "ca.pem", folder.roster, role=Role.SITE)
        assert str(member.identity.id) == hospital.uri


def test_the_aggregators_configuration_is_one_that_it_reads(tmp_path: Path) -> None:
    """Rounds, quorum and level are those asked for; every path in it exists or will be made by the aggregator."""
    folder = set_up(tmp_path / "out", sites=2, rounds=5, level="maximum", seed=1)
    config = load_config(folder.aggregator_config)
    assert (config.rounds.count, config.rounds.quorum, config.rounds.level) == (5, 2, "maximum")
    assert all(path.exists() for path in (config.identity, config.cacert, config.roster, config.initial_model))


def test_a_folder_of_an_earlier_demonstration_is_used_again(tmp_path: Path) -> None:
    """A second demonstration replaces the first, keys and results."""
    first = set_up(tmp_path / "out", sites=3, rounds=1, level="high", seed=1)
    old = (first.path / "ca" / "root.pem").read_bytes()
    (first.path / "report.json").write_text("{}")
    second = set_up(tmp_path / "out", sites=2, rounds=1, level="high", seed=1)
    assert (second.path / "ca" / "root.pem").read_bytes() != old
    assert len(list((second.path / "sites").iterdir())) == 2
    assert not (second.path / "report.json").exists()


def test_a_folder_with_something_else_in_it_is_left_alone(tmp_path: Path) -> None:
    """What the demonstration did not make it does not clear."""
    (tmp_path / "thesis.tex").write_text("draft")
    with pytest.raises(ConfigurationError, match="--out"):
        set_up(tmp_path, sites=2, rounds=1, level="high", seed=1)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_too_many_hospitals_leave_no_folder(tmp_path: Path) -> None:
    """A request that cannot be met is refused before anything is made."""
    with pytest.raises(ConfigurationError, match="--sites"):
        set_up(tmp_path / "out", sites=200, rounds=1, level="high", seed=1)
    assert not (tmp_path / "out").exists()
