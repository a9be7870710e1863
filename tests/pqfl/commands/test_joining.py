import json
from pathlib import Path

import pytest

from pqfl_transport.pki.keystore import load_signing_identity
from pqfl_transport.pki.ruling import load_policy
from pqfl_transport.pki.words import to_lines
from pqfl_transport.policy import SecurityLevel
from tests.support.commands import good, pqfl, refused
from tests.support.enrolment import serving
from tests.support.pki import Federation, make_federation

MOVING = Path(__file__).resolve().parents[3] / "certs" / "moving.toml"


@pytest.fixture
def federation(tmp_path: Path) -> Federation:
    return make_federation(tmp_path / "fed", sites=("north",), level="standard")


def test_joining_and_renewing_as_a_user_types_it(federation: Federation, tmp_path: Path) -> None:
    """A token from the environment becomes a folder whose sidecar is configured; renewing says what it did."""
    out = tmp_path / "west"
    with serving(federation) as service:
        token = service.token("west").to_text()
        told = good("join", "--hub", service.address, "--out", out, environment={"PQFL_TOKEN": token})
        assert "spiffe://fed/site/west" in told
        assert "pqfl ca roster sign" in told
        # Both ends of a telephone see the same words.
        shown = good("ca", "roster", "sign", "--yes", "--dir", federation.ca)
        words = to_lines(load_signing_identity(out).key.verifying_key.fingerprint)
        assert all(line in told and line in shown for line in words)
        assert "the configuration is good" in good("client", "--config", out / "sidecar.toml", "--config-check")
        facts = json.loads(good("renew", "--identity", out, "--hub", service.address, "--json"))
        assert (facts["party"], facts["new_tls_key"]) == ("spiffe://fed/site/west", True)
        assert (facts["took_over"], facts["signing"]["signing_fingerprint"]) == (
            False, load_signing_identity(out).key.verifying_key.fingerprint.hex(),
        )  # fmt: skip
        told = good("renew", "--identity", out, "--hub", service.address, "--keep-keys")
        assert "the same key" in told
        # The words of the next key are the ones that whoever signs the next roster sees.
        shown = good("ca", "roster", "show", "--dir", federation.ca)
        following = load_signing_identity(out, name="signing-next").key.verifying_key.fingerprint
        assert facts["next_signing"]["signing_fingerprint"] == following.hex()
        assert all(line in told and line in shown for line in to_lines(following))
        good("ca", "roster", "sign", "--yes", "--dir", federation.ca, "--former-until", "now")
        assert "has taken over" in good("renew", "--identity", out, "--hub", service.address)
        assert "the configuration is good" in good("client", "--config", out / "sidecar.toml", "--config-check")


def test_refusals_are_one_line(federation: Federation, tmp_path: Path) -> None:
    """A bad token, a used one, a folder that is not empty, and nobody there: each says what is wrong."""
    with serving(federation) as service:
        token, hub = service.token("west").to_text(), service.address
        assert "no joining token" in refused("join", "--token", token[:-1], "--hub", hub, "--out", tmp_path / "a")
        assert "--out:" in refused("join", "--token", token, "--hub", hub, "--out", federation.site("north"))
        file = tmp_path / "token"
        file.write_text(token + "\n")
        assert "chmod 600" in refused("join", "--token-file", file, "--hub", hub, "--out", tmp_path / "a")
        file.chmod(0o600)
        good("join", "--token-file", file, "--hub", hub, "--out", tmp_path / "a")
        assert "used already" in refused("join", "--token", token, "--hub", hub, "--out", tmp_path / "b", status=1)
    assert str(hub) in refused("renew", "--identity", tmp_path / "a", "--hub", hub, status=1)
    assert pqfl("join", "--hub", hub, "--out", tmp_path / "b").returncode == 2


def test_a_renewal_has_a_level_or_a_policy(federation: Federation) -> None:
    """Both at once is a mistake, and so is a policy that is not there; one that lists two kinds of keys is taken."""
    renew = ("renew", "--identity", federation.site("north"), "--hub", "127.0.0.1:1")
    assert pqfl(*renew, "--level", "high", "--policy", MOVING).returncode == 2
    assert "nowhere.toml" in refused(*renew, "--policy", "nowhere.toml")
    with serving(federation, policy=load_policy(str(MOVING))) as service:
        renew = (*renew[:-1], service.address, "--policy", MOVING)
        federation.authority.rotate_issuing(level=SecurityLevel.MAXIMUM)
        assert "ML-DSA-87" in refused(*renew, status=3)


def test_a_twin_in_the_folder_is_renewed_too(federation: Federation, tmp_path: Path) -> None:
    """It is said beside the others, and what becomes of them when it is refused."""
    good("ca", "twin", "init", "--dir", federation.ca)
    good("ca", "twin", "issue", "--dir", federation.ca, "--name", "north", "--out", tmp_path / "twin")
    north = federation.site("north")
    for name in ("classical.pem", "classical.key", "classical-ca.pem"):
        (tmp_path / "twin" / name).rename(north / name)
    with serving(federation) as service:
        facts = json.loads(good("renew", "--identity", north, "--hub", service.address, "--json"))
        assert facts["twin"]["serial"] != facts["tls"]["serial"]
        (federation.ca / "classical.pem").unlink()
        said = refused("renew", "--identity", north, "--hub", service.address)
        assert "its other certificates were renewed, its classical twin was not" in said
        assert "no classical issuer" in said
