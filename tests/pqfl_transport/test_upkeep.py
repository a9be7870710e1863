"""What a site reads again: a later roster counts, an earlier one does not, a revoked aggregator is refused."""

import asyncio
import logging
from pathlib import Path

import pytest

from pqfl_transport.errors import CertificateError, ConfigurationError, PqflError, TransportError
from pqfl_transport.pki.membership import Membership, load_membership
from pqfl_transport.pki.ruling import Ruling
from pqfl_transport.pki.spiffe import Role
from pqfl_transport.pki.trust import Trust
from pqfl_transport.upkeep import Upkeep, crl_source
from tests.support.pki import Federation, make_federation
from tests.support.revoking import crl, publish_crl
from tests.support.revoking import crl_source as serving
from tests.support.rounds import participant


@pytest.fixture
def federation(tmp_path: Path) -> Federation:
    return make_federation(tmp_path / "federation", sites=("bank-a",))


def upkeep(
    federation: Federation, crl_path: Path | None = None, url: str | None = None, stale: str = "refuse"
) -> Upkeep:
    folder = federation.site("bank-a")
    trust = Trust.load(federation.ca_pem)
    ruling = Ruling(federation.authority.policy, trust, "fed")

    def load(at_least_number: int) -> Membership:
        return load_membership(
            folder, federation.ca_pem, federation.roster, role=Role.SITE, at_least_number=at_least_number
        )  # fmt: skip

    crls, poller = crl_source(crl_path, url, stale, ruling)
    return Upkeep(participant(federation, "bank-a"), trust, ruling, federation.roster, load, crls, poller)


def reason(found: Upkeep) -> str:
    with pytest.raises(PqflError) as caught:
        found.keep()
    return caught.value.reason


def test_a_later_roster_is_taken_on_and_shown(federation: Federation, caplog: pytest.LogCaptureFixture) -> None:
    """The log names who joined; an earlier one after it changes nothing."""
    found, early = upkeep(federation), federation.roster.read_bytes()
    found.keep()
    federation.authority.issue(profile="site", name="bank-b", out=federation.site("bank-b"))
    with caplog.at_level(logging.WARNING):
        found.keep()
    assert f"joined {federation.site_uri('bank-b')}; left nobody" in caplog.text
    number = found._participant.member.roster.number
    federation.roster.write_bytes(early)
    with caplog.at_level(logging.WARNING):
        found.keep()
    assert "the roster changes nothing" in caplog.text
    assert found._participant.member.roster.number == number


def test_another_root_is_taken_on_before_what_it_signed(
    federation: Federation, caplog: pytest.LogCaptureFixture
) -> None:
    """Authorities, roster and lists are replaced at once, as a rotation does; a broken file changes nothing."""
    authority = federation.authority
    authority.make_crl()
    found = upkeep(federation, authority.crl_path)
    found.keep()
    authority.rotate_root()
    authority.sign_roster(authority.plan_roster())
    authority.make_crl()
    with caplog.at_level(logging.WARNING):
        found.keep()
    assert "the trusted authorities are now" in caplog.text
    assert "CN=root-2" in caplog.text
    assert "changes nothing" not in caplog.text
    number = found._participant.member.roster.number
    assert number == authority.roster().number
    federation.ca_pem.write_bytes(b"broken")
    with caplog.at_level(logging.WARNING):
        found.keep()
    assert "the trusted authorities stay as they are" in caplog.text


def test_a_revoked_aggregator_is_refused(federation: Federation, tmp_path: Path) -> None:
    """From the moment the list is there, and an earlier list or a broken one does not bring it back."""
    path = publish_crl(federation, tmp_path / "crl.pem", number=1)
    found = upkeep(federation, path)
    found.keep()
    publish_crl(federation, path, [federation.aggregator], number=2)
    assert reason(found) == "revoked"
    publish_crl(federation, path, number=1)
    assert reason(found) == "revoked"
    assert reason(upkeep(federation, path)) == "stale_crl"
    path.write_text("broken")
    assert reason(found) == "revoked"


def test_a_stale_list_is_a_matter_of_policy(federation: Federation, tmp_path: Path) -> None:
    """Refused unless the caller says otherwise."""
    path = publish_crl(federation, tmp_path / "crl.pem", age_seconds=86400, seconds_left=-600)
    with pytest.raises(CertificateError) as caught:
        upkeep(federation, path).keep()
    assert caught.value.reason == "stale_crl"
    upkeep(federation, path, stale="allow").keep()


def test_lists_are_fetched_when_that_is_due(federation: Federation, tmp_path: Path) -> None:
    """Once in a while and not for every question; without any there is no round."""
    path = tmp_path / "crl.pem"
    with serving(b"garbage") as source:
        found = upkeep(federation, path, source.url)
        with pytest.raises(TransportError, match="none could be fetched"):
            asyncio.run(found.fetch())
        assert reason(found) == "missing"
        source.body = crl(federation, [federation.aggregator])
        found._next_poll = 0.0
        asyncio.run(found.fetch())
        asked = source.asked
        asyncio.run(found.fetch())
        assert source.asked == asked
    assert reason(found) == "revoked"


def test_mistakes_are_said_at_once(federation: Federation, tmp_path: Path) -> None:
    """Each names the argument."""
    for path, url, stale, named in (
        (None, "https://h/x", "refuse", "crl_url needs crl_path"),
        (tmp_path / "a", "gopher://h", "refuse", "crl_url 'gopher://h'"),
        (tmp_path / "a", None, "maybe", "crl_stale 'maybe'"),
    ):
        with pytest.raises(ConfigurationError, match=named):
            upkeep(federation, path, url, stale)
