"""Where uploads meet the round that is open, and what is recorded of them.

The engine puts its round here when it opens and takes it away when it closes; requests come from the HTTP interface.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from aggregator.intake import Append, Collecting, Intake, Upload
from aggregator.transfers import Accepted, Progress
from pqfl_transport.audit import EventKind
from pqfl_transport.content.envelope import most_envelope_bytes
from pqfl_transport.errors import MessageError, PlatformError, PqflError, RoundError
from pqfl_transport.net.resumable import UploadAddress

Record = Callable[..., None]
"""Takes the kind of an event and its facts, for the log and the audit log."""


@dataclass(frozen=True, slots=True)
class UploadLimits:
    """What those who upload are told."""

    max_bytes: int
    max_age_seconds: int
    """How long an upload can be gone on with."""


class Reception:
    """Takes uploads for the round that is open, and counts what was accepted and refused."""

    def __init__(self, intake: Intake, clock: Callable[[], float], record: Record, arrived: Callable[[], None]) -> None:
        self._intake, self._clock, self._record, self._arrived = intake, clock, record, arrived
        self.collecting: Collecting | None = None
        """The round that is open."""
        self.is_ready = False
        """Whether the run has come so far that a round which takes no updates is over, and not about to be taken up."""
        self.accepted = 0
        self.refusals: dict[str, int] = {}

    async def receive(self, upload: Upload) -> Accepted | Progress:
        """Take an upload, or its first part. Raises what `Intake.take` raises, after recording it."""
        facts = {"round": upload.round_number, "envelope_id": upload.envelope_id.hex()}
        return await self._taking(lambda collecting: self._intake.take(upload, collecting), facts)

    async def go_on(self, append: Append) -> Accepted | Progress:
        """Take more of an upload. Raises what `Intake.go_on` raises, after recording it."""
        address = append.address
        facts = {"round": address.round_number, "site": address.site, "prologue_sha256": address.prologue_digest.hex()}
        self._collecting_of(address)
        return await self._taking(lambda collecting: self._intake.go_on(append, collecting), facts)

    async def progress(self, address: UploadAddress) -> Progress:
        """Return how far an upload is. Raises ``MessageError`` (``unknown_upload``)."""
        return await self._intake.progress(address, self._collecting_of(address))

    async def cancel(self, address: UploadAddress) -> None:
        """Forget an upload. Raises ``MessageError`` (``unknown_upload``)."""
        await self._intake.cancel(address, self._collecting_of(address))

    @property
    def limits(self) -> UploadLimits:
        """What an upload has to keep to now.

        Raises ``RoundError`` (``closed``) where none is taken, ``PlatformError`` (``not_ready``) where none is yet.
        """
        terms = self._open().round.terms
        left_seconds = max(0, int(terms.deadline - self._clock()))
        return UploadLimits(most_envelope_bytes(terms.max_plaintext_bytes), left_seconds)

    def refuse(self, error: PqflError, **facts: object) -> None:
        """Record that something was refused."""
        self.refusals[error.reason] = self.refusals.get(error.reason, 0) + 1
        self._record(EventKind.REFUSAL, reason=error.reason, detail=str(error), **facts)

    def _open(self) -> Collecting:
        if not self.is_ready:
            raise PlatformError("the aggregator is starting; send it again", reason="not_ready")
        if self.collecting is None:
            raise RoundError("no round takes updates now", reason="closed")
        return self.collecting

    def _collecting_of(self, address: UploadAddress) -> Collecting:
        if self.collecting is None or address.round_number != self.collecting.round.terms.number:
            raise MessageError("there is no such upload: its round is over", reason="unknown_upload")
        return self.collecting

    async def _taking(
        self, take: Callable[[Collecting], Awaitable[Accepted | Progress]], facts: dict[str, object]
    ) -> Accepted | Progress:
        try:
            taken = await take(self._open())
        except PqflError as error:
            self.refuse(error, **facts)
            raise
        if isinstance(taken, Accepted) and not taken.again:
            receipt = taken.receipt
            self.accepted += 1
            self._record(
                EventKind.UPDATE, round=receipt.round, sender=receipt.sender, samples=taken.samples,
                envelope_id=receipt.envelope_id.hex(), prologue_sha256=receipt.prologue_digest.hex(),
                extra_keys=list(taken.extra_key_ids),
            )  # fmt: skip
            self._arrived()
        return taken
