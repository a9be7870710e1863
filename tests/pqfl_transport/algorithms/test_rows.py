"""What a row is."""

import dataclasses

import pytest

from pqfl_transport.algorithms import TABLE, Kind, Status


def test_rows_cannot_be_changed() -> None:
    """A row is data that the whole program shares."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        TABLE[0].name = "ROT13"  # type: ignore[misc]


def test_every_kind_and_status_says_what_it_is() -> None:
    """The words are those that the command line and JSON print."""
    assert {row.kind for row in TABLE} == set(Kind) - {Kind.CONTENT_SUITE}
    assert {row.status for row in TABLE} == set(Status)


def test_broken_rows_carry_the_date_and_others_none() -> None:
    """A refusal can always say since when."""
    for row in TABLE:
        assert (row.broken_on is not None) == (row.status is Status.BROKEN)
