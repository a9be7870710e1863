"""Which of two signing keys is used: the one that everybody knows, for as long as it counts."""

import shutil
import time
from pathlib import Path

import pytest

from pqfl_transport.errors import ConfigurationError
from pqfl_transport.pki.roster import Party
from pqfl_transport.pki.signing_files import SWITCH_SECONDS, HeldKey, has_next, held_keys, is_ending, key_in_use
from tests.support.pki import Federation, make_federation
from tests.support.rekeying import name_next, prepare_next

DAY = 86_400


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    """One site whose next key a roster names, and whose former one counts for ten days."""
    made = make_federation(tmp_path_factory.mktemp("federation"), sites=("north", "south"))
    shutil.copy(made.roster, made.folder / "before.json")
    prepare_next(made, made.site("north"))
    name_next(made, former_until=int(time.time()) + 10 * DAY)
    return made


@pytest.fixture(scope="module")
def party(federation: Federation) -> Party:
    return federation.authority.roster().party(federation.site_uri("north"))


def used(held: tuple[HeldKey, ...], party: Party, now: float) -> str | None:
    found = key_in_use(held, party, now)
    return None if found is None else found.name


def test_the_former_key_is_used_until_shortly_before_its_end(federation: Federation, party: Party) -> None:
    """Those who have the roster before know no other; then the next one is used, and not the former one any more."""
    held = held_keys(federation.site("north"))
    assert [one.name for one in held] == ["signing", "signing-next"]
    assert party.former is not None
    switch = party.former.until - SWITCH_SECONDS
    for now, name in ((time.time(), "signing"), (switch, "signing"), (switch + 1, "signing-next")):
        assert used(held, party, now) == name
        assert is_ending(party, now) is (name == "signing-next")
    # Long after the end of its certificate as well: that is said where it is loaded.
    assert used(held, party, party.former.until + 1000 * DAY) == "signing-next"


def test_who_has_one_of_the_keys_uses_it_while_it_counts(federation: Federation, party: Party) -> None:
    """A folder that lost its next key works until the overlap is over, and one without the former key at once."""
    ordinary, following = held_keys(federation.site("north"))
    assert party.former is not None
    assert used((ordinary,), party, party.former.until) == "signing"
    assert used((ordinary,), party, party.former.until + 1) is None
    assert used((following,), party, time.time()) == "signing-next"
    other = federation.authority.roster().party(federation.site_uri("south"))
    assert used((ordinary, following), other, time.time()) is None


def test_a_former_key_whose_certificate_is_over_gives_way(federation: Federation, party: Party) -> None:
    """Its certificate was not renewed, the next one's is good."""
    ordinary, following = held_keys(federation.site("north"))
    now = following.signer.certificate.not_valid_before_utc.timestamp() - 1
    assert not following.is_valid(now)
    assert used((ordinary, following), party, now) == "signing"
    assert following.is_valid(now + 1)
    late = ordinary.signer.certificate.not_valid_after_utc.timestamp() + 1
    assert not ordinary.is_valid(late)


def test_a_folder_has_a_next_key_where_its_certificate_is(federation: Federation, tmp_path: Path) -> None:
    """A link that leads nowhere, as a renewal that was cut off leaves it, is none."""
    south = shutil.copytree(federation.site("south"), tmp_path / "south")
    assert not has_next(south)
    (south / "signing-next.pem").symlink_to("nowhere")
    assert not has_next(south)
    assert len(held_keys(south)) == 1
    assert has_next(federation.site("north"))


def test_another_party_s_or_another_use_s_certificate_is_refused(federation: Federation, tmp_path: Path) -> None:
    """Files that were mixed up are named."""
    south = shutil.copytree(federation.site("south"), tmp_path / "south")
    for source, reason in ((federation.site("north") / "signing.pem", "bad_name"), (south / "tls.pem", "bad_usage")):
        shutil.copy(source, south / "signing-next.pem")
        with pytest.raises(ConfigurationError, match=r"signing-next\.pem") as caught:
            held_keys(south)
        assert caught.value.reason == reason
