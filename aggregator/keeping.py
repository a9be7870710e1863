"""What is kept of the run, step by step as it happens, and where it goes on after a restart.

The order is what makes it hold. A model is on the disk, for sites and for this aggregator, before the database says
that it is out; the database says so before anybody is told. Whatever a process that was killed had not come to say in
the database did not happen, and is done again.
"""

from dataclasses import dataclass, field
from pathlib import Path

from aggregator.rounds import Terms
from aggregator.store.models import ModelStore
from aggregator.store.own_model import OwnModels
from aggregator.store.records import KeptModel, KeptRound, KeptRun, Standing, Store
from aggregator.store.round_key import RoundKeyFile
from aggregator.store.sqlite import SqliteStore
from aggregator.store.updates import KeptUpdates
from pqfl_transport.aggregation.fedavg import Weights, require_averageable
from pqfl_transport.content.psk import PreSharedKey
from pqfl_transport.content.receiving_keys import ReceivingKeys
from pqfl_transport.content.recipients import ReceivingKey
from pqfl_transport.content.tensors import model_digest
from pqfl_transport.errors import ConfigurationError

_OVER = frozenset({Standing.PUBLISHED, Standing.FAILED})


@dataclass(frozen=True, slots=True)
class Start:
    """Where a run goes on: the current model, and how often the round after it was opened before."""

    version: int
    weights: Weights = field(repr=False)
    attempts: int = 0
    round: KeptRound | None = None
    """The opening of that round which was not over."""


@dataclass(frozen=True, slots=True)
class Secrets:
    """What of a run can be opened again, and by which keys; none of them is in the state folder."""

    receiving: ReceivingKeys
    """Of the identity folder, for the current model."""
    restart: PreSharedKey | None = None
    """For the key of the open round; where there is none, that key is in memory alone."""


class Keeper:
    """Keeps one run in a state folder. Its methods write to the disk, so no event loop calls them."""

    def __init__(self, folder: Path, keys: Secrets, *, federation: str, model: Weights, count: int) -> None:
        """Begin a run of ``count`` rounds from ``model``, or go on with the one in ``folder``.

        Raises ``ConfigurationError``: ``in_use``, ``version``,
        ``other_run`` where the folder keeps another run or more rounds of this one, ``own_model``, ``not_writable``,
        ``bad_model``; ``PlatformError`` (``disk``).
        """
        require_averageable(model)
        store = SqliteStore(folder)
        self._store: Store = store
        try:
            self.models = ModelStore(folder)
            self._own = OwnModels(folder, keys.receiving, federation)
            self.updates = KeptUpdates(folder, store)
            self._round_key = RoundKeyFile(folder, keys.restart)
            if not store.is_begun():
                _require_no_models(self.models, folder)
            store.begin(KeptRun(federation, model_digest(model)))
            self.start = self._take_up(model, count, folder)
        except BaseException:
            store.close()
            raise

    def opened(self, terms: Terms, attempt: int, roster: int, key: ReceivingKey) -> None:
        """Keep that a round was opened, with this key. Raises ``PlatformError`` (``disk``), as all that follow."""
        self._round_key.save(key, terms.challenge)
        self._store.open(KeptRound(terms, attempt, roster))
        self.updates.keep_only(())

    def round_key(self, opened: KeptRound) -> ReceivingKey:
        """Return the private key of the opening that was not over. Raises as `RoundKeyFile.load`."""
        return self._round_key.load(opened.terms.receiving_fingerprint, opened.terms.challenge)

    def ended(self, challenge: bytes, standing: Standing) -> None:
        """Keep where an opening stands now; where it failed, its key is destroyed."""
        self._store.end(challenge, standing)
        if standing is Standing.FAILED:
            self._forget_round()

    def publish(self, version: int, digest: bytes, weights: Weights) -> None:
        """Keep a model, sealed and stored already, as the one to go on from."""
        # Version 0 is a file of the operator's.
        if version:
            self._own.save(version, digest, weights)
        self._store.publish(KeptModel(version, digest))
        self._own.keep_only(version)
        last = self._store.round()
        if last is None or last.standing in _OVER:
            self._forget_round()

    def close(self) -> None:
        """Let another process have the folder."""
        self._store.close()

    def _take_up(self, model: Weights, count: int, folder: Path) -> Start:
        kept, last = self._store.model(), self._store.round()
        version = 0 if kept is None else kept.version
        if version > count:
            raise ConfigurationError(
                f"{folder} keeps a run that is at round {version}, and rounds.count is {count}", reason="other_run"
            )
        weights = model if kept is None or not version else self._own.load(version, kept.digest)
        self._own.keep_only(version)
        if last is None or last.terms.number != version + 1:
            self._forget_round()
            return Start(version, weights)
        if last.standing is Standing.FAILED:
            self._forget_round()
            return Start(version, weights, last.attempt)
        if not self._round_key.is_kept:
            self._round_key.destroy()
        self.updates.keep_only(one.receipt.prologue_digest for one in last.updates)
        # An opening that nobody saw to its end was no attempt of the sites'.
        return Start(version, weights, last.attempt - 1, last)

    def _forget_round(self) -> None:
        self._round_key.destroy()
        self.updates.keep_only(())


def _require_no_models(models: ModelStore, folder: Path) -> None:
    """Raise ``ConfigurationError`` for the folder of a version before this one, which kept models alone."""
    if earlier := models.versions():
        raise ConfigurationError(
            f"{folder} holds model version {max(earlier)} of a run that cannot be gone on with; name another folder",
            reason="other_run",
        )
