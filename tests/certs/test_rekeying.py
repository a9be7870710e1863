"""Which statements of new receiving keys are taken: new ones, of the level's KEM, and no key twice."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from certs.ledger import Entry
from certs.rekeying import Rekeyed, read_record, require_acceptable, write_record
from pqfl_transport.content.recipients import ReceivingKey
from pqfl_transport.crypto.pyca import SigningKey
from pqfl_transport.errors import ConfigurationError, PqflError
from pqfl_transport.pki.roster import Party, Roster
from pqfl_transport.pki.spiffe import Role, SpiffeId
from pqfl_transport.pki.statements import Statement
from pqfl_transport.policy import SecurityLevel, for_level

KEM = "ML-KEM-768+X25519"
AT = datetime(2026, 7, 1, 12, tzinfo=UTC)
NOW = int(AT.timestamp())
NORTH, SOUTH = (SpiffeId("fed", Role.SITE, name) for name in ("north", "south"))
FIRST, SECOND, THIRD, FOREIGN = (ReceivingKey.generate(KEM).public for _ in range(4))
SIGNING = SigningKey.generate("ML-DSA-65").verifying_key
LEDGER = (
    Entry("2026-07-01T11:00:00Z", str(NORTH), "client", "ML-DSA-65", "1", "00", "2026-09-01T00:00:00Z"),
    Entry("2026-07-01T11:00:00Z", str(NORTH), "signing", "ML-DSA-65", "2", "00", "2026-09-01T00:00:00Z"),
)


def party(spiffe_id: SpiffeId, key: object = FIRST) -> Party:
    assert isinstance(key, type(FIRST))
    return Party(spiffe_id, SIGNING, key.to_bytes(), key.fingerprint, 10)


def roster(north: Party) -> Roster:
    parties = {str(NORTH): north, str(SOUTH): party(SOUTH, FOREIGN)}
    return Roster("fed", SecurityLevel.HIGH, 5, NOW, MappingProxyType(parties))


def statement(key: object = SECOND, made: int = NOW) -> Statement:
    assert isinstance(key, type(FIRST))
    return Statement(NORTH, key.to_bytes(), made, NOW + 10)


def taken(before: Party, said: Statement) -> Rekeyed:
    return Rekeyed.of(before, said, b"the document", AT)


def judge(said: Statement, *record: Rekeyed, north: Party | None = None) -> None:
    north = north or party(NORTH)
    require_acceptable(
        north, said, roster=roster(north), record=record, ledger=LEDGER, policy=for_level(SecurityLevel.HIGH)
    )  # fmt: skip


def refused(said: Statement, *record: Rekeyed, north: Party | None = None) -> str:
    with pytest.raises(PqflError) as caught:
        judge(said, *record, north=north)
    return caught.value.reason


def test_a_new_key_is_taken_and_the_next_one_after_it() -> None:
    """The first statement of a party, and a later one."""
    judge(statement())
    judge(statement(THIRD, NOW + 1), taken(party(NORTH), statement()), north=party(NORTH, SECOND))


def test_an_old_statement_brings_no_key_back() -> None:
    """Neither the same statement again nor an earlier one that was never taken, whatever the roster says now."""
    first = taken(party(NORTH), statement())
    second = taken(party(NORTH, SECOND), statement(THIRD, NOW + 1))
    assert refused(statement(), first, north=party(NORTH, SECOND)) == "already_listed"
    assert refused(statement(), first, second, north=party(NORTH, THIRD)) == "stale"
    never_taken = statement(ReceivingKey.generate(KEM).public, NOW - 1)
    assert refused(never_taken, first, north=party(NORTH, SECOND)) == "stale"
    assert refused(statement(FIRST, NOW + 9), first, second, north=party(NORTH, THIRD)) == "key_reused"


def test_a_statement_from_before_the_party_is_an_old_one() -> None:
    """A key made before its identity was issued; a clock that is minutes behind does no harm."""
    assert refused(statement(made=NOW - 3600 - 301)) == "stale"
    judge(statement(made=NOW - 3600 - 299))


def test_a_key_has_one_owner() -> None:
    """The key of another member, or one that was another's, is refused: who holds it would read along."""
    assert refused(statement(FOREIGN)) == "key_reused"
    other = replace(taken(party(NORTH), statement()), id=str(SOUTH))
    assert refused(statement(SECOND), other) == "key_reused"


def test_a_key_is_of_the_federations_level() -> None:
    """Another KEM would not open what is sealed at this level, and what is no key is none."""
    assert refused(statement(ReceivingKey.generate("ML-KEM-1024").public)) == "wrong_kem"
    assert refused(Statement(NORTH, b"no key", NOW, NOW + 10)) == "bad_key"


def test_the_record_is_read_back(tmp_path: Path) -> None:
    """In its order; a file that is not there yet is an empty one."""
    path = tmp_path / "rekeyed.jsonl"
    assert read_record(path) == ()
    entries = (taken(party(NORTH), statement()), taken(party(NORTH, SECOND), statement(THIRD, NOW + 1)))
    write_record(path, entries)
    assert read_record(path) == entries
    assert (entries[0].at, entries[0].made, len(entries[0].statement_sha256)) == ("2026-07-01T12:00:00Z", NOW, 64)


@given(st.binary(min_size=1, max_size=60).filter(lambda data: data.strip() != b""))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_a_damaged_record_is_named_with_its_line(tmp_path: Path, noise: bytes) -> None:
    """Nothing is taken on the word of a record that cannot be read."""
    path = tmp_path / "rekeyed.jsonl"
    path.write_bytes(noise)
    with pytest.raises(ConfigurationError, match=r"rekeyed\.jsonl: line 1"):
        read_record(path)
