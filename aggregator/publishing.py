"""Global models on their way out: sealed to every site, stored, announced.

One is sealed again where its suite has gone, or the key that it is signed with.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from aggregator.store.models import ModelStore
from aggregator.suites import Suites
from pqfl_transport.aggregation.fedavg import Weights
from pqfl_transport.aggregation.round_document import TensorSchema
from pqfl_transport.content.keysource import ExtraKey
from pqfl_transport.content.recipients import RecipientKey
from pqfl_transport.content.sealing import EnvelopeParameters, seal_weights
from pqfl_transport.content.tensors import TensorLayout, model_digest, schema
from pqfl_transport.errors import PlatformError
from pqfl_transport.pki.membership import Membership
from pqfl_transport.policy import Policy
from pqfl_transport.timing import Stopwatch


@dataclass(frozen=True, slots=True)
class Model:
    """A global model that was sealed and stored."""

    version: int
    suite: str
    weights: Weights
    digest: bytes
    plaintext_bytes: int
    schema: tuple[TensorSchema, ...]
    signer: bytes
    """The fingerprint of the key that it is signed with."""


class Publisher:
    """The models of one run.

    ``member`` gives who signs, ``recipients`` who may open the next one. ``announced`` is told of each one that is
    out, also of one that was sealed again; ``extra_keys`` gives what is mixed into each, and may wait for a key
    manager.
    """

    def __init__(
        self,
        member: Callable[[], Membership],
        recipients: Callable[[], Sequence[RecipientKey]],
        suites: Suites,
        store: ModelStore,
        crypto: Stopwatch,
        announced: Callable[[Model], None],
        extra_keys: Callable[[], tuple[ExtraKey, ...]] = tuple,
    ) -> None:
        self._member, self._recipients, self._suites, self._store = member, recipients, suites, store
        self._crypto, self._announced, self._extra_keys = crypto, announced, extra_keys
        self._model: Model | None = None
        self._suite_of: dict[int, str] = {}
        self._sealed_to: frozenset[bytes] = frozenset()
        self._working = asyncio.Lock()

    @property
    def model(self) -> Model:
        """The current one. Raises ``PlatformError`` (``not_ready``) before there is any."""
        if self._model is None:
            raise PlatformError("the initial model is still being sealed; ask again", reason="not_ready")
        return self._model

    @property
    def version(self) -> int | None:
        """The current one's."""
        return None if self._model is None else self._model.version

    async def publish(self, weights: Weights, version: int, *, under: str | None = None) -> bool:
        """Seal, store and announce a model; False, and nothing announced, where the suite it came in has gone.

        ``under`` is the suite of the updates that it was made of. Raises ``PolicyError`` where nothing is left.
        """
        async with self._working:
            model = await self._sealed(weights, version)
            if under is not None and not self._suites.allows(under):
                return False
            self._announce(model)
            return True

    async def seal_again_if_needed(self) -> None:
        """Exchange the current model where its suite has gone, somebody may open it who cannot, or another key signs.

        Raises ``PolicyError`` where no suite is left.
        """
        async with self._working:
            model = self._model
            wanted = {key.fingerprint for key in self._recipients()}
            if model is None:
                return
            signed = model.signer == self._member().identity.key.verifying_key.fingerprint
            if not (signed and self._suites.allows(model.suite) and wanted <= self._sealed_to):
                self._announce(await self._sealed(model.weights, model.version))

    def path(self, version: int) -> Path:
        """Return the file of a sealed model.

        Raises ``MessageError`` (``unknown_model``), ``PlatformError`` (``not_ready``) while the current one is sealed
        again, ``PolicyError`` for an earlier one under a suite that is not allowed any more.
        """
        self._suites.require_any()
        path = self._store.find(version)
        suite = self._suite_of.get(version)
        if suite is None:
            raise PlatformError("the model is still being sealed; ask again", reason="not_ready")
        if not self._suites.allows(suite) and version == self.version:
            raise PlatformError("the model is being sealed again; ask again", reason="not_ready")
        self._suites.policy.require_content_suite(suite)
        return path

    def _announce(self, model: Model) -> None:
        self._model = model
        self._suite_of[model.version] = model.suite
        self._announced(model)

    async def _sealed(self, weights: Weights, version: int) -> Model:
        # The policy may be tightened while a thread seals: what comes out has to be allowed then.
        while True:
            self._suites.require_any()
            suite, policy, recipients = self._suites.of_models.id, self._suites.policy, tuple(self._recipients())
            model = await asyncio.to_thread(self._seal, weights, version, suite, policy, recipients)
            if self._suites.allows(model.suite):
                self._sealed_to = frozenset(key.fingerprint for key in recipients)
                return model

    def _seal(
        self, weights: Weights, version: int, suite: str, policy: Policy, recipients: Sequence[RecipientKey]
    ) -> Model:
        digest = model_digest(weights)
        member = self._member()
        identity = member.identity
        parameters = EnvelopeParameters(
            suite=suite,
            federation=member.roster.federation,
            sender=str(identity.id),
            direction="model",
            round=version,
            base_model_digest=digest,
            trailer=True,
            extra_keys=self._extra_keys(),
            policy=policy,
        )
        with self._crypto.running():
            envelope = seal_weights(weights, parameters, recipients, identity.key)
        self._store.save(version, [envelope])
        rows = tuple(TensorSchema(*row) for row in schema(weights))
        signer = identity.key.verifying_key.fingerprint
        return Model(version, suite, weights, digest, TensorLayout.of(weights).total_bytes, rows, signer)
