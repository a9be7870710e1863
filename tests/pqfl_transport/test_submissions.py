"""Updates on their way: what is sent, what is kept, and what a refusal means."""

import asyncio
from pathlib import Path
from typing import Any, cast

import pytest

from pqfl_transport.errors import MessageError, PolicyError, PqflError, RoundError, TransportError
from pqfl_transport.exchange import Exchange
from pqfl_transport.net.resumable import UploadAddress
from pqfl_transport.participant import Participant, SealedUpdate
from pqfl_transport.spool import Spool
from pqfl_transport.submissions import Submissions

UPDATE = SealedUpdate(UploadAddress(3, "bank-a", b"d" * 32), b"e" * 16, b"c" * 32, memoryview(b"sealed"))


class Line:
    """An exchange whose other side answers as it is told."""

    def __init__(self, answer: PqflError | None = None) -> None:
        self.answer = answer
        self.sent: list[tuple[SealedUpdate, bool]] = []

    async def send_update(self, update: SealedUpdate, *, begun: bool = False) -> None:
        self.sent.append((update, begun))
        if self.answer is not None:
            raise self.answer


class Site:
    """A participant that recalls what it is told."""

    def __init__(self, answer: SealedUpdate | PqflError) -> None:
        self.answer = answer

    def recall_update(self, _envelope: memoryview, _info: Any) -> SealedUpdate:
        if isinstance(self.answer, PqflError):
            raise self.answer
        return self.answer


def make(line: Line, spool: Spool | None = None, site: Site | None = None) -> Submissions:
    return Submissions(cast("Participant", site), cast("Exchange", line), spool)


def stored(folder: Path) -> Spool:
    spool = Spool(folder)
    spool.keep(UPDATE.envelope_id, [b"sealed"])
    return spool


def test_what_was_taken_is_counted_and_forgotten(tmp_path: Path) -> None:
    """An update that arrived serves its round and leaves the spool."""
    line, spool = Line(), stored(tmp_path)
    submissions = make(line, spool)
    assert asyncio.run(submissions.send(UPDATE))
    assert (submissions.submitted, submissions.missed) == (1, 0)
    assert line.sent == [(UPDATE, False)]
    assert list(spool.stored()) == []


@pytest.mark.parametrize(
    "error",
    [
        RoundError("late", reason="closed"),
        RoundError("gone", reason="wrong_suite"),
        PolicyError("gone", reason="content_suite"),
    ],
)
def test_a_round_that_went_on_is_missed(tmp_path: Path, error: PqflError) -> None:
    """No error for the caller: the round is served as far as this site is concerned, and nothing is kept."""
    spool = stored(tmp_path)
    submissions = make(Line(error), spool)
    assert not asyncio.run(submissions.send(UPDATE))
    assert (submissions.submitted, submissions.missed) == (0, 1)
    assert list(spool.stored()) == []


@pytest.mark.parametrize(
    ("error", "kept"),
    [(RoundError("NaN", reason="not_finite"), False), (TransportError("nobody", reason="unreachable"), True)],
)
def test_every_other_refusal_is_the_callers(tmp_path: Path, error: PqflError, kept: bool) -> None:
    """A refusal is final for what was sealed; a line that broke is not, and the update waits for the next try."""
    spool = stored(tmp_path)
    submissions = make(Line(error), spool)
    with pytest.raises(type(error)):
        asyncio.run(submissions.send(UPDATE))
    assert bool(list(spool.stored())) is kept
    assert submissions.missed == 0


def test_what_is_recalled_goes_on_and_asks_first(tmp_path: Path) -> None:
    """A stored update of this round is sent as one of which a part may be there already."""
    line = Line()
    submissions = make(line, stored(tmp_path), Site(UPDATE))
    update = submissions.recall(cast("Any", None))
    assert update is UPDATE
    assert asyncio.run(submissions.send_stored(update))
    assert line.sent == [(UPDATE, True)]


@pytest.mark.parametrize(
    "error", [RoundError("old", reason="wrong_challenge"), MessageError("torn", reason="truncated")]
)
def test_what_is_of_no_use_is_removed(tmp_path: Path, error: PqflError) -> None:
    """An update of another round, or a damaged one, is not recalled and does not stay."""
    spool = stored(tmp_path)
    assert make(Line(), spool, Site(error)).recall(cast("Any", None)) is None
    assert list(spool.stored()) == []
    assert make(Line()).recall(cast("Any", None)) is None


def test_a_stored_update_that_is_refused_makes_room_for_another(tmp_path: Path) -> None:
    """The round is still to be served when what was stored is no good to the aggregator."""
    submissions = make(Line(MessageError("damaged", reason="bad_body")), stored(tmp_path))
    assert not asyncio.run(submissions.send_stored(UPDATE))
    assert (submissions.submitted, submissions.missed) == (0, 0)
