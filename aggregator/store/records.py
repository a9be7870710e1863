"""What is kept of a run over restarts, and the interface of whatever keeps it.

One run of rounds is kept at a time: what it is of, the models that are out, and the last opening of a round with the
updates that were accepted in it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from aggregator.rounds import Receipt, Terms
from pqfl_transport.errors import ConfigurationError


class Standing(StrEnum):
    """Where a kept opening of a round stands."""

    COLLECTING = "collecting"
    AGGREGATING = "aggregating"
    """It takes no more updates; its average is not published."""
    PUBLISHED = "published"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class KeptRun:
    """What a run is of."""

    federation: str
    initial_digest: bytes
    """Of model version 0."""

    def require_same(self, other: "KeptRun", where: str) -> None:
        """Raise ``ConfigurationError`` (``other_run``) unless the run of the configuration is the kept one."""
        if self.federation != other.federation:
            what = f"of federation {self.federation!r}, and this is {other.federation!r}"
        elif self.initial_digest != other.initial_digest:
            what = (
                f"that began with model {self.initial_digest.hex()}, and model.initial is {other.initial_digest.hex()}"
            )
        else:
            return
        raise ConfigurationError(f"{where} keeps a run {what}; name another folder", reason="other_run")


@dataclass(frozen=True, slots=True)
class KeptModel:
    """A model that is out."""

    version: int
    digest: bytes


@dataclass(frozen=True, slots=True)
class KeptUpdate:
    """An update that was accepted."""

    receipt: Receipt
    samples: int


@dataclass(frozen=True, slots=True)
class KeptRound:
    """One opening of a round."""

    terms: Terms
    attempt: int
    """1 is the first."""
    roster: int
    """The number of the roster in force."""
    standing: Standing = Standing.COLLECTING
    updates: Sequence[KeptUpdate] = ()


class Store(Protocol):
    """Keeps one run. What a method was told is safe on the disk when it returns; all raise ``PlatformError``."""

    def begin(self, run: KeptRun) -> None:
        """Begin a run, or go on with the kept one. Raises ``ConfigurationError`` (``other_run``)."""

    def model(self) -> KeptModel | None:
        """Return the latest model that is out."""

    def round(self) -> KeptRound | None:
        """Return the last opening of a round, with its updates in the order of their acceptance."""

    def open(self, opened: KeptRound) -> None:
        """Keep an opening of a round in the place of the one before."""

    def accept(self, challenge: bytes, update: KeptUpdate) -> None:
        """Keep an update. Raises ``RoundError``: ``closed`` unless that opening collects, ``duplicate``."""

    def end(self, challenge: bytes, standing: Standing) -> None:
        """Say where an opening stands now."""

    def publish(self, model: KeptModel) -> None:
        """Keep that a model is out, and the round that it is of over; harmless for one that is out already."""

    def close(self) -> None:
        """Let another process have the run."""
