import sqlite3
import threading
from pathlib import Path

import pytest

from certs.enrolments import Enrolments
from pqfl_transport.errors import ConfigurationError, MessageError, PlatformError, PqflError
from pqfl_transport.pki.enrolment import State
from pqfl_transport.pki.spiffe import Role, SpiffeId
from pqfl_transport.pki.tokens import JoinToken
from pqfl_transport.policy import SecurityLevel

NORTH = SpiffeId("fed", Role.SITE, "north")
DAY = 24 * 3600


def make_token(party: SpiffeId = NORTH, expires_at: int = 100) -> JoinToken:
    return JoinToken.make(level=SecurityLevel.HIGH, root_sha256=bytes(32), party=party, expires_at=expires_at)


def add(enrolments: Enrolments, *, by_hand: bool = False, expires_at: int = 100, now: int = 0) -> JoinToken:
    token = make_token(expires_at=expires_at)
    enrolments.add(token.keys, NORTH, now=now, expires_at=expires_at, by_hand=by_hand)
    return token


def reason(error: type[PqflError], action: object, *arguments: object, **options: object) -> str:
    with pytest.raises(error) as caught:
        action(*arguments, **options)  # type: ignore[operator]
    return caught.value.reason


def test_a_token_is_kept_without_its_secret(tmp_path: Path) -> None:
    """The database has mode 0600, and holds neither the token's text nor its secret."""
    enrolments = Enrolments(tmp_path)
    token = add(enrolments)
    data = enrolments.path.read_bytes()
    assert token.secret not in data
    assert token.to_text().encode() not in data
    assert enrolments.path.stat().st_mode & 0o777 == 0o600
    found = enrolments.find(token.keys.token_id)
    assert (found.party, found.state, found.keys) == (NORTH, State.OPEN, token.keys)


def test_a_token_is_claimed_by_the_first_request(tmp_path: Path) -> None:
    """The same request may come again at any time, another one never."""
    enrolments = Enrolments(tmp_path)
    token_id = add(enrolments).keys.token_id
    assert enrolments.claim(token_id, b"one", "aa", now=50, by_hand=False).state is State.APPROVED
    assert enrolments.claim(token_id, b"one", "aa", now=10 * DAY, by_hand=False).asked_at == 50
    assert reason(MessageError, enrolments.claim, token_id, b"two", "bb", now=51, by_hand=False) == "token_used"
    enrolments.finish(token_id, b"answer")
    found = enrolments.claim(token_id, b"one", "aa", now=10 * DAY, by_hand=True)
    assert (found.state, found.answer) == (State.ISSUED, b"answer")


def test_an_expired_or_unknown_token_is_refused(tmp_path: Path) -> None:
    """After its end an unused token is of no use, and what nobody made is unknown."""
    enrolments = Enrolments(tmp_path)
    token_id = add(enrolments).keys.token_id
    assert reason(MessageError, enrolments.claim, token_id, b"one", "", now=101, by_hand=False) == "token_expired"
    assert enrolments.find(token_id).state is State.OPEN
    assert reason(MessageError, enrolments.find, make_token().keys.token_id) == "unknown_token"


@pytest.mark.parametrize("by_the_token", [False, True])
def test_approval_by_hand(tmp_path: Path, by_the_token: bool) -> None:
    """The token or the service may ask for it; it is decided once."""
    enrolments = Enrolments(tmp_path)
    token_id = add(enrolments, by_hand=by_the_token).keys.token_id
    assert reason(ConfigurationError, enrolments.decide, NORTH, approve=True) == "not_pending"
    assert enrolments.claim(token_id, b"one", "aa", now=1, by_hand=not by_the_token).state is State.PENDING
    assert enrolments.decide(NORTH, approve=True).state is State.APPROVED
    assert reason(ConfigurationError, enrolments.decide, NORTH, approve=True) == "not_pending"
    enrolments.finish(token_id, b"answer")
    assert reason(ConfigurationError, enrolments.decide, NORTH, approve=False) == "not_pending"


def test_what_was_approved_can_be_denied_while_nothing_came_of_it(tmp_path: Path) -> None:
    """So a request that the authority will not certify does not stand in the way of another token for ever."""
    enrolments = Enrolments(tmp_path)
    token_id = add(enrolments).keys.token_id
    enrolments.claim(token_id, b"one", "aa", now=1, by_hand=False)
    assert reason(ConfigurationError, add, enrolments) == "pending"
    assert enrolments.decide(NORTH, approve=False).state is State.DENIED
    add(enrolments)


def test_who_was_denied_stays_denied(tmp_path: Path) -> None:
    """The same request again changes nothing; a new token is a new chance."""
    enrolments = Enrolments(tmp_path)
    token_id = add(enrolments, by_hand=True).keys.token_id
    enrolments.claim(token_id, b"one", "aa", now=1, by_hand=False)
    enrolments.decide(NORTH, approve=False)
    assert enrolments.claim(token_id, b"one", "aa", now=2, by_hand=False).state is State.DENIED
    other = add(enrolments)
    assert [one.keys for one in enrolments.all()] == [other.keys]


def test_a_new_token_takes_the_place_of_an_unused_one(tmp_path: Path) -> None:
    """Of two tokens for one site only the later one works; none is made over a request that is under way."""
    enrolments = Enrolments(tmp_path)
    first, second = add(enrolments), add(enrolments)
    assert reason(MessageError, enrolments.find, first.keys.token_id) == "unknown_token"
    enrolments.claim(second.keys.token_id, b"one", "aa", now=1, by_hand=True)
    assert reason(ConfigurationError, add, enrolments) == "pending"


def test_old_tokens_are_forgotten(tmp_path: Path) -> None:
    """A month after its end nothing is left of a token."""
    enrolments = Enrolments(tmp_path)
    old = add(enrolments)
    enrolments.claim(old.keys.token_id, b"one", "aa", now=1, by_hand=False)
    enrolments.finish(old.keys.token_id, b"answer")
    south = SpiffeId("fed", Role.SITE, "south")
    later = make_token(south, 100 * DAY)
    enrolments.add(later.keys, south, now=31 * DAY, expires_at=100 * DAY, by_hand=False)
    assert [one.keys for one in enrolments.all()] == [later.keys]


def test_one_of_many_claims_wins(tmp_path: Path) -> None:
    """However many requests race for a token, one has it and all others are told so."""
    token_id = add(Enrolments(tmp_path)).keys.token_id
    outcomes: list[str] = []

    def claim(number: int) -> None:
        try:
            Enrolments(tmp_path).claim(token_id, b"%d" % number, "", now=1, by_hand=False)
            outcomes.append("claimed")
        except MessageError as error:
            outcomes.append(error.reason)

    threads = [threading.Thread(target=claim, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["claimed"] + ["token_used"] * 11


def test_a_failed_step_leaves_nothing_behind(tmp_path: Path) -> None:
    """A transaction that is broken off is undone."""
    enrolments = Enrolments(tmp_path)
    add(enrolments)
    before = [one.keys for one in enrolments.all()]

    def interrupted() -> None:
        with enrolments._changing() as database:
            database.execute("DELETE FROM tokens")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [one.keys for one in enrolments.all()] == before


def test_a_file_of_the_former_version_is_taken_over(tmp_path: Path) -> None:
    """Its tokens are as good as before; none of them gives a revoked name again."""
    enrolments = Enrolments(tmp_path)
    token = add(enrolments)
    database = sqlite3.connect(enrolments.path)
    database.execute("ALTER TABLE tokens DROP COLUMN reissue")
    database.execute("PRAGMA user_version = 1")
    database.close()
    found = enrolments.find(token.keys.token_id)
    assert (found.party, found.state, found.reissue) == (NORTH, State.OPEN, False)
    enrolments.add(make_token().keys, NORTH, now=0, expires_at=100, by_hand=False, reissue=True)
    assert [one.reissue for one in enrolments.all()] == [True]


def test_a_file_that_is_no_database_of_ours_is_refused(tmp_path: Path) -> None:
    """Neither other bytes nor a later version are written over."""
    enrolments = Enrolments(tmp_path)
    enrolments.path.write_bytes(b"not a database" * 100)
    assert reason(PlatformError, enrolments.all) == "database"
    enrolments.path.unlink()
    database = sqlite3.connect(enrolments.path)
    database.execute("PRAGMA user_version = 7")
    database.close()
    assert reason(ConfigurationError, enrolments.all) == "version"
