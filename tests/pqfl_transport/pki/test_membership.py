"""Membership: identity, certificate and roster have to agree, and each disagreement names its file."""

import shutil
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pqfl_transport.errors import CertificateError, ConfigurationError, MessageError
from pqfl_transport.pki import keystore
from pqfl_transport.pki.membership import Membership, load_membership, under_policy
from pqfl_transport.pki.signing_files import SWITCH_SECONDS
from pqfl_transport.pki.spiffe import Role
from pqfl_transport.policy import for_level
from tests.support.pki import Federation, make_federation
from tests.support.rekeying import name_next, prepare_next


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return make_federation(tmp_path_factory.mktemp("federation"), sites=("bank-a", "bank-b"))


def test_a_member_knows_itself_and_the_others(federation: Federation) -> None:
    """The own entry, the policy of the roster's level, and the members of each role."""
    member = load_membership(federation.site("bank-a"), federation.ca_pem, federation.roster, role=Role.SITE)
    assert str(member.party.id) == federation.site_uri("bank-a")
    assert member.policy.name == "high-2026"
    assert [party.id.name for party in member.parties(Role.SITE)] == ["bank-a", "bank-b"]
    assert [party.id.name for party in member.parties(Role.AGGREGATOR)] == ["main"]


def test_another_role_is_refused(federation: Federation) -> None:
    """A site's identity does not run an aggregator."""
    with pytest.raises(ConfigurationError, match="no aggregator") as caught:
        load_membership(federation.site("bank-a"), federation.ca_pem, federation.roster, role=Role.AGGREGATOR)
    assert caught.value.reason == "wrong_role"


def test_a_roster_without_us_is_refused(federation: Federation, tmp_path: Path) -> None:
    """A roster that was signed before we were admitted names itself and what to do."""
    earlier = tmp_path / "roster.json"
    shutil.copy(federation.roster, earlier)
    federation.authority.issue(profile="site", name="bank-z", out=tmp_path / "bank-z")
    with pytest.raises(ConfigurationError, match="get the current roster") as caught:
        load_membership(tmp_path / "bank-z", federation.ca_pem, earlier, role=Role.SITE)
    assert caught.value.reason == "not_in_roster"
    assert str(earlier) in str(caught.value)


def test_a_roster_of_another_root_is_refused(federation: Federation, tmp_path: Path) -> None:
    """A roster counts only when the root in our own ca.pem signed it."""
    other = make_federation(tmp_path, sites=("bank-a",))
    with pytest.raises(MessageError) as caught:
        load_membership(federation.site("bank-a"), federation.ca_pem, other.roster, role=Role.SITE)
    assert caught.value.reason == "unknown_signer"


def test_a_signing_certificate_of_another_authority_is_refused(federation: Federation, tmp_path: Path) -> None:
    """The same names under another authority are nobody here."""
    other = make_federation(tmp_path, sites=("bank-a",))
    with pytest.raises(ConfigurationError, match=r"signing\.pem") as caught:
        load_membership(other.site("bank-a"), federation.ca_pem, federation.roster, role=Role.SITE)
    assert caught.value.reason == "untrusted"


def test_an_expired_signing_certificate_is_refused(federation: Federation) -> None:
    """What was valid when it was made is not valid for ever."""
    later = datetime.now(UTC) + timedelta(days=91)
    with pytest.raises(ConfigurationError, match=r"signing\.pem") as caught:
        load_membership(
            federation.site("bank-a"), federation.ca_pem, federation.roster, role=Role.SITE, now=later
        )  # fmt: skip
    assert caught.value.reason == "expired"


def test_a_roster_older_than_one_seen_is_refused(federation: Federation) -> None:
    """Going back to an earlier roster would let in who has left."""
    with pytest.raises(MessageError) as caught:
        load_membership(
            federation.site("bank-a"), federation.ca_pem, federation.roster, role=Role.SITE, at_least_number=1000
        )  # fmt: skip
    assert caught.value.reason == "stale_roster"


def test_another_policy_of_the_same_level_can_be_worked_under(federation: Federation) -> None:
    """One of another level does not fit the keys that the roster lists."""
    folder, files = federation.site("bank-a"), (federation.ca_pem, federation.roster)
    own = replace(for_level("high"), name="own-2027")
    assert load_membership(folder, *files, role=Role.SITE, policy=own).policy is own
    with pytest.raises(ConfigurationError, match="policy cnsa2-2026 is of level cnsa2") as caught:
        load_membership(folder, *files, role=Role.SITE, policy=for_level("cnsa2"))
    assert caught.value.reason == "wrong_level"


def test_a_member_comes_under_another_policy_only_with_a_certificate_that_fits(federation: Federation) -> None:
    """The root above it counts too."""
    member = load_membership(federation.site("bank-a"), federation.ca_pem, federation.roster, role=Role.SITE)
    anchors, now = keystore.load_anchors(federation.ca_pem), datetime.now(UTC)
    tightened = replace(for_level("high"), name="tightened", groups=("X25519MLKEM768",))
    assert under_policy(member, anchors, tightened, now=now).policy is tightened
    with pytest.raises(CertificateError) as caught:
        under_policy(member, anchors, replace(tightened, ca_signatures=("ML-DSA-65",)), now=now)
    assert caught.value.reason == "bad_sigalg"


def test_the_key_that_the_roster_names_is_loaded(tmp_path: Path) -> None:
    """The former one until shortly before its end, then the next; and under the roster before, the one it names."""
    made = make_federation(tmp_path / "federation", sites=("bank-a",))
    folder, early = made.site("bank-a"), tmp_path / "early.json"
    shutil.copy(made.roster, early)
    before = keystore.load_signing_key(folder / "signing.key").verifying_key
    following = prepare_next(made, folder)
    until = int(datetime.now(UTC).timestamp()) + 86_400
    name_next(made, former_until=until)

    def loaded(roster: Path, now: float) -> Membership:
        moment = datetime.fromtimestamp(now, UTC)
        return load_membership(folder, made.ca_pem, roster, role=Role.SITE, now=moment)

    first = loaded(made.roster, until - SWITCH_SECONDS)
    assert first.identity.key.verifying_key == before
    assert first.identity.certificate == keystore.load_certificate(folder / "signing.pem")
    assert not first.has_to_switch(until - SWITCH_SECONDS)
    assert first.has_to_switch(until - SWITCH_SECONDS + 1)
    second = loaded(made.roster, until - SWITCH_SECONDS + 1)
    assert second.identity.key.verifying_key == following
    assert not second.has_to_switch(until + 1000)
    for now in (until - 80_000, until + 1000):
        assert loaded(early, now).identity.key.verifying_key == before
    assert not loaded(early, until).has_to_switch(until)


def test_a_key_that_is_over_is_not_in_the_roster(tmp_path: Path) -> None:
    """A folder without the next key says so when the former one counts no more."""
    made = make_federation(tmp_path / "federation", sites=("bank-a",))
    folder = made.site("bank-a")
    prepare_next(made, folder)
    until = int(datetime.now(UTC).timestamp()) + 86_400
    name_next(made, former_until=until)
    (folder / "signing-next.pem").unlink()
    load_membership(folder, made.ca_pem, made.roster, role=Role.SITE, now=datetime.fromtimestamp(until, UTC))
    with pytest.raises(ConfigurationError, match="does not list") as caught:
        load_membership(folder, made.ca_pem, made.roster, role=Role.SITE, now=datetime.fromtimestamp(until + 1, UTC))
    assert caught.value.reason == "not_in_roster"
