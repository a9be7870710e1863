"""The trusted authorities of a process: taken on when their file changes, kept when it is broken."""

from pathlib import Path

import pytest

from pqfl_transport.errors import ConfigurationError
from pqfl_transport.pki import keystore
from pqfl_transport.pki.trust import Trust
from tests.support.pki import Federation, make_federation


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return make_federation(tmp_path_factory.mktemp("federation"), sites=())


def test_other_authorities_are_taken_on_once(federation: Federation, tmp_path: Path) -> None:
    """The file is read again at each call, and only other certificates are news."""
    path = tmp_path / "ca.pem"
    path.write_bytes(federation.ca_pem.read_bytes())
    trust = Trust.load(path)
    assert trust.certificates == keystore.load_anchors(federation.ca_pem)
    assert trust.roots == tuple(keystore.root_keys(trust.certificates))
    assert not trust.refresh()
    path.write_bytes(path.read_bytes() + b"\n# the same, with a remark\n")
    assert not trust.refresh()
    other = make_federation(tmp_path / "other", sites=())
    path.write_bytes(other.ca_pem.read_bytes())
    assert trust.refresh()
    assert trust.certificates == keystore.load_anchors(other.ca_pem)
    assert not trust.refresh()


@pytest.mark.parametrize("broken", [b"", b"no certificates", None])
def test_a_broken_file_changes_nothing(federation: Federation, tmp_path: Path, broken: bytes | None) -> None:
    """It is said at every call until the file is good again."""
    path, good = tmp_path / "ca.pem", federation.ca_pem.read_bytes()
    path.write_bytes(good)
    trust = Trust.load(path)
    before = trust.certificates
    if broken is None:
        path.unlink()
    else:
        path.write_bytes(broken)
    for _ in range(2):
        with pytest.raises(ConfigurationError, match=r"ca\.pem"):
            trust.refresh()
        assert trust.certificates == before
    path.write_bytes(good)
    assert not trust.refresh()


def test_fixed_trust_reads_nothing(federation: Federation) -> None:
    """What is given as certificates has no file, and comes out as PEM."""
    trust = Trust.of(keystore.load_anchors(federation.ca_pem))
    assert not trust.refresh()
    assert trust.pem.count(b"BEGIN CERTIFICATE") == len(trust.certificates) == 2
