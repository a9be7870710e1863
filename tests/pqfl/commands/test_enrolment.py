import json
from pathlib import Path

import pytest

from pqfl_transport.errors import TransportError
from pqfl_transport.pki.keystore import load_signing_identity
from pqfl_transport.pki.tokens import JoinToken
from tests.support.commands import good, pqfl, refused
from tests.support.enrolment import serving
from tests.support.pki import Federation, make_federation


@pytest.fixture
def federation(tmp_path: Path) -> Federation:
    return make_federation(tmp_path / "fed", sites=("north",), level="standard")


def test_a_token_stands_alone_on_standard_output(federation: Federation) -> None:
    """It can go into a file or a variable as it is; what is to be known of it is on standard error."""
    token = JoinToken.parse(good("ca", "token", "--dir", federation.ca, "--site", "west", "--expires", "1h"))
    assert str(token.party) == "spiffe://fed/site/west"
    facts = json.loads(good("ca", "token", "--dir", federation.ca, "--site", "west", "--json"))
    assert JoinToken.parse(facts["token"]).expires_at == facts["expires_at"]


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("--site", "north"), "already issued"), (("--site", "West"), "--site"),
        (("--site", "west", "--expires", "1"), "24h"), (("--site", "west", "--expires", "31d"), "30 days"),
    ],
)  # fmt: skip
def test_a_token_that_could_not_be_used_is_not_made(
    federation: Federation, words: tuple[str, ...], named: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """A name in use, a name that is none, and a span that is none are refused, each by its flag."""
    done = pqfl("ca", "token", "--dir", federation.ca, *words)
    assert done.returncode == 2
    assert named in done.stderr
    assert capfd.readouterr().out == ""


def test_the_name_of_the_service_is_reserved(federation: Federation, tmp_path: Path) -> None:
    """Nobody is issued a certificate with which he could play the enrolment service."""
    words = ("ca", "issue", "--dir", federation.ca, "--profile", "gateway", "--name", "enrolment")
    done = pqfl(*words, "--out", tmp_path / "out")
    assert done.returncode == 2
    assert "pqfl ca serve" in done.stderr


def test_approving_by_hand(federation: Federation, tmp_path: Path) -> None:
    """Who waits is shown with the words of his key; he is let in once, and nobody else is."""
    assert good("ca", "pending", "--dir", federation.ca) == "Nobody waits.\n"
    with serving(federation, by_hand=True) as service:
        joiner = service.joiner(service.token("west"), tmp_path / "west")
        assert "unused" in good("ca", "pending", "--dir", federation.ca)
        assert "does not wait" in refused("ca", "approve", "--dir", federation.ca, "--site", "west")
        with pytest.raises(TransportError):
            joiner.join()
        (facts,) = json.loads(good("ca", "pending", "--dir", federation.ca, "--json"))["enrolments"]
        assert (facts["party"], facts["state"]) == ("spiffe://fed/site/west", "pending")
        assert facts["words"]
        assert "approved" in good("ca", "approve", "--dir", federation.ca, "--site", "west")
        joiner.join()
    assert "does not wait" in refused("ca", "deny", "--dir", federation.ca, "--site", "west")


def test_a_revoked_name_needs_a_token_that_says_so(federation: Federation, tmp_path: Path) -> None:
    """Without --reissue there is no token; with it the site joins again, and the next roster names its new key."""
    federation.authority.revoke("north", "superseded")
    token = ("ca", "token", "--dir", federation.ca, "--site", "north")
    assert "--reissue" in refused(*token)
    assert good("ca", "pending", "--dir", federation.ca) == "Nobody waits.\n"
    with serving(federation) as service:
        words = ("join", "--token", good(*token, "--reissue").strip(), "--hub", service.address)
        good(*words, "--out", tmp_path / "north")
        assert "already issued" in refused(*token, "--reissue")
    good("ca", "roster", "sign", "--yes", "--dir", federation.ca)
    party = federation.authority.roster().party("spiffe://fed/site/north")
    assert party.signing_key == load_signing_identity(tmp_path / "north").key.verifying_key
