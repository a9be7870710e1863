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
from aggregator.store.sqlite import SqliteStore
from aggregator.store.updates import KeptUpdates
from pqfl_transport.aggregation.fedavg import Weights, require_averageable
from pqfl_transport.content.receiving_keys import ReceivingKeys
from pqfl_transport.content.tensors import model_digest
from pqfl_transport.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class Start:
    """Where a run goes on: the current model, and how often the round after it was opened before."""

    version: int
    weights: Weights = field(repr=False)
    attempts: int = 0


class Keeper:
    """Keeps one run in a state folder. Its methods write to the disk, so no event loop calls them."""

    def __init__(self, folder: Path, keys: ReceivingKeys, *, federation: str, model: Weights, count: int) -> None:
        """Begin a run of ``count`` rounds from ``model``, or go on with the one in ``folder``.

        ``keys`` are the receiving keys of the aggregator. Raises ``ConfigurationError``: ``in_use``, ``version``,
        ``other_run`` where the folder keeps another run or more rounds of this one, ``own_model``, ``not_writable``,
        ``bad_model``; ``PlatformError`` (``disk``).
        """
        require_averageable(model)
        store = SqliteStore(folder)
        self._store: Store = store
        try:
            self.models = ModelStore(folder)
            self._own = OwnModels(folder, keys, federation)
            self.updates = KeptUpdates(folder, store)
            if not store.is_begun():
                _require_no_models(self.models, folder)
            store.begin(KeptRun(federation, model_digest(model)))
            self.start = self._take_up(model, count, folder)
        except BaseException:
            store.close()
            raise

    def opened(self, terms: Terms, attempt: int, roster: int) -> None:
        """Keep that a round was opened. Raises ``PlatformError`` (``disk``), as all that follow."""
        self._store.open(KeptRound(terms, attempt, roster))
        self.updates.keep_only(())

    def ended(self, challenge: bytes, standing: Standing) -> None:
        """Keep where an opening stands now."""
        self._store.end(challenge, standing)

    def publish(self, version: int, digest: bytes, weights: Weights) -> None:
        """Keep a model, sealed and stored already, as the one to go on from."""
        # Version 0 is a file of the operator's.
        if version:
            self._own.save(version, digest, weights)
        self._store.publish(KeptModel(version, digest))
        self._own.keep_only(version)
        self.updates.keep_only(())

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
        self.updates.keep_only(())
        attempts = 0
        if last is not None and last.terms.number == version + 1:
            # An opening that this process did not see to its end was no attempt of the sites'.
            attempts = last.attempt - (last.standing is not Standing.FAILED)
        return Start(version, weights, attempts)


def _require_no_models(models: ModelStore, folder: Path) -> None:
    """Raise ``ConfigurationError`` for the folder of a version before this one, which kept models alone."""
    if earlier := models.versions():
        raise ConfigurationError(
            f"{folder} holds model version {max(earlier)} of a run that cannot be gone on with; name another folder",
            reason="other_run",
        )
