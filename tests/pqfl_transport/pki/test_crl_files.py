"""Files of revocation lists: numbers never go down, not in one process, not after a restart."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pqfl_transport.errors import ConfigurationError
from pqfl_transport.pki import keystore
from pqfl_transport.pki.crl_files import CrlFile, load_crls
from pqfl_transport.pki.memory import beside
from pqfl_transport.pki.revocation import Stale
from pqfl_transport.pki.trust import Trust
from pqfl_transport.policy import for_level
from tests.support.pki import Federation, make_federation
from tests.support.revoking import publish_crl

HIGH = for_level("high")


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return make_federation(tmp_path_factory.mktemp("federation"), sites=("one",))


def crl_file(federation: Federation, path: Path) -> CrlFile:
    return CrlFile(path, Trust.load(federation.ca_pem))


def reason(file: CrlFile) -> str:
    with pytest.raises(ConfigurationError) as caught:
        file.read(HIGH)
    assert str(file.path) in str(caught.value)
    return caught.value.reason


def test_a_higher_number_replaces_a_lower_one(federation: Federation, tmp_path: Path) -> None:
    """What was read last counts, and reading the same again gives an equal one."""
    file = crl_file(federation, publish_crl(federation, tmp_path / "crl.pem", number=1))
    assert file.revocations is None
    first = file.read(HIGH)
    assert file.read(HIGH) == first
    publish_crl(federation, file.path, number=2)
    assert file.read(HIGH) != first
    assert set(file.read(HIGH).numbers.values()) == {2}


def test_a_lower_number_is_refused_after_a_restart_too(federation: Federation, tmp_path: Path) -> None:
    """The numbers are kept beside the file; what was read before goes on counting."""
    file = crl_file(federation, publish_crl(federation, tmp_path / "crl.pem", number=5))
    good = file.read(HIGH)
    publish_crl(federation, file.path, number=4)
    assert reason(file) == reason(crl_file(federation, file.path)) == "stale_crl"
    assert file.revocations == good
    beside(file.path).unlink()
    assert reason(file) == "stale_crl"


def test_an_empty_file_brings_nobody_back_after_a_restart(federation: Federation, tmp_path: Path) -> None:
    """A list that was there has to be there again."""
    path = publish_crl(federation, tmp_path / "crl.pem")
    crl_file(federation, path).read(HIGH)
    path.write_bytes(b"-----BEGIN X509 CRL-----\n-----END X509 CRL-----\n")
    assert reason(crl_file(federation, path)) == "malformed"


def test_a_broken_memory_and_a_missing_file_are_errors(federation: Federation, tmp_path: Path) -> None:
    """Neither is taken for a first start."""
    assert reason(crl_file(federation, tmp_path / "none.pem")) == "missing"
    path = publish_crl(federation, tmp_path / "crl.pem")
    beside(path).write_text(json.dumps({"pqfl": "crl-seen/v1", "numbers": {"a": "1"}}))
    with pytest.raises(ConfigurationError, match="a number is none"):
        crl_file(federation, path).read(HIGH)


def test_the_memory_can_be_elsewhere(federation: Federation, tmp_path: Path) -> None:
    """The folder of the list need not be writable."""
    path = publish_crl(federation, tmp_path / "crl.pem", number=3)
    load_crls(
        path, keystore.load_anchors(federation.ca_pem), policy=HIGH, now=datetime.now(UTC), stale=Stale.ALLOW,
        seen_path=tmp_path / "kept",
    )  # fmt: skip
    assert not beside(path).exists()
    assert set(json.loads((tmp_path / "kept").read_text())["numbers"].values()) == {3}


def test_a_clock_that_is_five_minutes_off_reads_it(federation: Federation, tmp_path: Path) -> None:
    """A list that was signed just now is good where the clock is behind; an hour behind it is from the future."""
    path = publish_crl(federation, tmp_path / "crl.pem")
    anchors = keystore.load_anchors(federation.ca_pem)
    load_crls(path, anchors, policy=HIGH, now=datetime.now(UTC) - timedelta(minutes=5))
    with pytest.raises(ConfigurationError) as caught:
        load_crls(path, anchors, policy=HIGH, now=datetime.now(UTC) - timedelta(hours=1))
    assert caught.value.reason == "not_yet_valid"
