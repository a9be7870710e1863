"""What a site calls: join a round, fetch the model, train, submit the sealed update.

    async with FederatedClient(url, identity_dir=…, roster_path=…) as client:
        weights = await client.run(train)

``train(weights, round)`` gets the global model, a list or a mapping of NumPy arrays that are its own to change, and
returns new weights of the same form with the number of samples they were trained on. It runs in a thread, or is
awaited where it is a coroutine function. `BlockingFederatedClient` is the same without ``await``.
"""

import asyncio
import inspect
import json
import logging
import secrets
import ssl as ssl_module
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from pqfl_transport.aggregation.fedavg import Weights
from pqfl_transport.aggregation.round_document import RoundState
from pqfl_transport.content.header import LOSSLESS
from pqfl_transport.content.key_files import KeyRingFile
from pqfl_transport.content.keysource import ExtraKey
from pqfl_transport.crypto.selftest import run_self_test
from pqfl_transport.errors import (
    ConfigurationError,
    MessageError,
    PolicyError,
    PqflError,
    RoundError,
)
from pqfl_transport.exchange import DEFAULT_RETRY_SECONDS, Exchange
from pqfl_transport.extrakeys import load_ring
from pqfl_transport.participant import Participant, RoundInfo
from pqfl_transport.pki import keystore
from pqfl_transport.pki.documents import parse_object, require_fields
from pqfl_transport.pki.membership import Membership, load_membership, under_policy
from pqfl_transport.pki.passphrases import PassphraseSource, chosen, fixed
from pqfl_transport.pki.revocation import Stale
from pqfl_transport.pki.ruling import Ruling, load_policy
from pqfl_transport.pki.spiffe import Role
from pqfl_transport.pki.trust import Trust
from pqfl_transport.policy import Policy
from pqfl_transport.spool import Spool
from pqfl_transport.submissions import Submissions
from pqfl_transport.timing import Stopwatch
from pqfl_transport.upkeep import Upkeep, crl_source

__all__ = ["BlockingFederatedClient", "FederatedClient", "Report", "RoundInfo", "Train"]

Trained = tuple[Weights, int]
Train = Callable[[Any, RoundInfo], Trained | Awaitable[Trained]]
"""``train(weights, round)`` returns new weights and the number of samples; a function or a coroutine function."""

Value = TypeVar("Value")

_log = logging.getLogger(__name__)

_NONCE_BYTES = 16
_AHEAD_SECONDS = 0.5
_STATE_TAG = "site-state/v1"
_STATE_FIELDS = {"pqfl": str, "round": int, "roster": int}


@dataclass(frozen=True, slots=True)
class Report:
    """What a client did so far. Bytes are bodies of requests and answers, retries included."""

    rounds_submitted: int
    rounds_missed: int
    """Rounds that had closed before the update arrived."""
    train_seconds: float
    crypto_seconds: float
    transfer_seconds: float
    bytes_sent: int
    bytes_received: int


class FederatedClient:
    """One site in one run of rounds; an async context manager.

    ``url`` is where the aggregator is reached, usually the sidecar's ``http://127.0.0.1:PORT`` (see `Exchange`).
    ``identity_dir`` holds ``signing.pem``, ``signing.key`` and ``receiving.key``; ``ca_path`` is its ``ca.pem`` unless
    given. ``aggregator`` is the SPIFFE ID of the aggregator, needed only where the roster lists several. With
    ``state_path`` the highest round and roster seen are remembered across restarts, so that nobody can lead this site
    back to an earlier one; a new run of rounds then needs a new file. ``codec`` makes updates smaller at the price of
    precision (`content.codecs`): ``safetensors+bf16``, ``safetensors+int8`` or ``safetensors+topk``. With ``spool_dir``
    an update is sealed into a file there, with no more memory than the model, and a site that is restarted goes on
    with it where it stopped. ``keys_path`` is a file of key sources (docs/key-sources.md), whose rules say what is
    mixed into updates and has to be in models. Encrypted keys are opened with ``passphrase``, what is in
    ``passphrase_file`` (mode 0600), or what is in ``PQFL_PASSPHRASE``.

    ``policy`` is worked under instead of that of the roster's level: a name, a path to a ``.toml`` file, or a `Policy`.
    ``advisory_path`` is the federation's current advisory, read again before every round; the highest one seen is kept
    in ``advisory_state_path``, beside it unless given.

    The roster, ``ca.pem`` and ``receiving.key`` are read again before every round too; a higher number, other
    authorities and rotated keys are taken on. With ``crl_path``, a file of revocation lists, rounds and models of an
    aggregator whose certificate was revoked are refused with ``CertificateError`` (``revoked``), with a list past its
    next update all of them (``stale_crl``) unless ``crl_stale`` is ``allow``. With ``crl_url``, one or several that are
    tried in this order, lists are fetched there, and the last good ones are kept in ``crl_path``.

    Making one tests the cryptography of this machine (`crypto.selftest`) and raises ``ConfigurationError`` or
    ``MessageError`` naming the file that is wrong.
    """

    def __init__(  # noqa: PLR0913 -- one call says everything; all but the first are keywords
        self,
        url: str,
        *,
        identity_dir: Path | str,
        roster_path: Path | str,
        ca_path: Path | str | None = None,
        aggregator: str | None = None,
        state_path: Path | str | None = None,
        ssl: ssl_module.SSLContext | None = None,
        retry_seconds: float = DEFAULT_RETRY_SECONDS,
        unsafe_url: bool = False,
        codec: str = LOSSLESS,
        passphrase: str | bytes | None = None,
        passphrase_file: Path | str | None = None,
        spool_dir: Path | str | None = None,
        keys_path: Path | str | None = None,
        policy: Policy | str | None = None,
        advisory_path: Path | str | None = None,
        advisory_state_path: Path | str | None = None,
        crl_path: Path | str | None = None,
        crl_url: str | Sequence[str] | None = None,
        crl_stale: Stale | str = Stale.REFUSE,
    ) -> None:
        run_self_test()
        folder = Path(identity_dir)
        self._state_path = None if state_path is None else Path(state_path)
        seen_round, seen_roster = _load_state(self._state_path)
        anchors_path = folder / "ca.pem" if ca_path is None else Path(ca_path)
        named = load_policy(policy) if isinstance(policy, str) else policy
        phrases = _passphrases(passphrase, passphrase_file)

        def load(at_least_number: int) -> Membership:
            return load_membership(
                folder, anchors_path, Path(roster_path), role=Role.SITE, at_least_number=at_least_number, policy=named,
                passphrases=phrases,
            )  # fmt: skip

        member = load(seen_roster)
        trust = Trust.load(anchors_path)
        self._ruling = Ruling(
            member.policy, trust, member.roster.federation,
            None if advisory_path is None else Path(advisory_path),
            None if advisory_state_path is None else Path(advisory_state_path),
        )  # fmt: skip
        member = under_policy(member, trust.certificates, self._ruling.read(), now=datetime.now(UTC))
        key_file = KeyRingFile(folder / "receiving.key", phrases)
        keys = key_file.load(time.time())
        self._participant = Participant(member, keys, aggregator=aggregator, seen_round=seen_round, codec=codec)
        crls, poller = crl_source(crl_path, crl_url, crl_stale, self._ruling)
        self._upkeep = Upkeep(self._participant, self._ruling, Path(roster_path), load, crls, poller, key_file)
        self._keys = None if keys_path is None else load_ring(Path(keys_path))
        self._exchange = Exchange(url, ssl=ssl, retry_seconds=retry_seconds, unsafe_url=unsafe_url)
        spool = None if spool_dir is None else Spool(Path(spool_dir))
        self._submissions = Submissions(self._participant, self._exchange, spool)
        self._retry_seconds = retry_seconds
        self._base: tuple[int, Weights] | None = None
        self._training, self._crypto = Stopwatch(), Stopwatch()

    async def __aenter__(self) -> Self:
        await self._exchange.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._exchange.__aexit__(kind, error, trace)

    @property
    def report(self) -> Report:
        """What was done so far."""
        exchange = self._exchange
        return Report(
            rounds_submitted=self._submissions.submitted,
            rounds_missed=self._submissions.missed,
            train_seconds=self._training.seconds,
            crypto_seconds=self._crypto.seconds,
            transfer_seconds=exchange.seconds,
            bytes_sent=exchange.bytes_sent,
            bytes_received=exchange.bytes_received,
        )

    async def join(self) -> RoundInfo:
        """Wait for a round that takes an update of ours, or for the end of all rounds, and return it.

        Raises ``RoundError`` (``failed``) where the rounds failed, and everything that `Participant.judge` raises. An
        aggregator that does not know this site's advisory yet is given ``retry_seconds`` to take it on.
        """
        give_up: float | None = None
        while True:
            try:
                info = await self._current_round()
            except PolicyError as error:
                give_up = give_up or time.monotonic() + self._retry_seconds
                if not self._is_ahead(error) or time.monotonic() > give_up:
                    raise
                await asyncio.sleep(_AHEAD_SECONDS)
                continue
            give_up = None
            if info.state is RoundState.FAILED:
                raise RoundError(f"the aggregator gave up in round {info.number}", reason="failed")
            if info.is_finished:
                return info
            if info.state is RoundState.COLLECTING and self._submissions.wants(info):
                stored = await self._in_thread(self._submissions.recall, info)
                if stored is None or not await self._submissions.send_stored(stored):
                    return info
                continue
            await self._exchange.news(info.number, info.state.value)

    async def fetch(self, info: RoundInfo) -> Weights:
        """Return the global model that this round starts from; the arrays are the caller's own.

        Raises what `Participant.receive_model` names, and ``CertificateError`` where the aggregator was revoked.
        """
        await self._in_thread(self._upkeep.keep)
        if self._base is None or self._base[0] != info.model_version:
            self._base = None
            receiver = self._participant.receive_model(info, self._keys)
            await self._exchange.model(info.model_version, receiver)
            self._base = (info.model_version, await self._in_thread(receiver.finish))
        # A copy: training may write into what it gets, and the delta is taken against the model as it came.
        return _copy(self._base[1])

    async def submit(self, info: RoundInfo, weights: Weights, samples: int) -> bool:
        """Seal and send the change to the fetched model. False: the round closed before it arrived.

        Raises the aggregator's refusal, and what `Participant.seal_update` or `KeyRing.keys_for` raise. A sealed update
        that could not be brought to the aggregator stays in the spool, if there is one, and `join` goes on with it.
        """
        if self._base is None or self._base[0] != info.model_version:
            raise ConfigurationError("fetch the model of this round before submitting to it", reason="not_fetched")
        base = self._base[1]
        try:
            await self._in_thread(self._upkeep.keep)
            extra = await self._extra_keys()
            update = await self._in_thread(self._submissions.seal, info, base, weights, samples, extra)
        except PqflError as error:
            return self._submissions.missed_or_raise(error, info.number, info.document.challenge)
        return await self._submissions.send(update)

    async def run(self, train: Train) -> Weights:
        """Take part in every round until the last one; return the final model.

        Raises what `join`, `fetch`, ``train`` and `submit` raise.
        """
        trained: tuple[bytes, Trained] | None = None
        give_up: float | None = None
        while True:
            info = await self.join()
            digest = info.document.model_digest
            # A round that was opened again starts from the same model: what was trained still holds.
            if trained is not None and trained[0] == digest and not info.is_finished:
                await self.submit(info, *trained[1])
                continue
            try:
                weights = await self.fetch(info)
            except PolicyError as error:
                # The advisory came between the round and its model: the aggregator seals another one when it has it.
                give_up = give_up or time.monotonic() + self._retry_seconds
                if not self._is_ahead(error) or time.monotonic() > give_up:
                    raise
                await asyncio.sleep(_AHEAD_SECONDS)
                continue
            give_up = None
            if info.is_finished:
                return weights
            trained = (digest, await self._train(train, weights, info))
            await self.submit(info, *trained[1])

    def _is_ahead(self, error: PolicyError) -> bool:
        """Whether this site knows an advisory that the aggregator has still to take on."""
        advised = self._ruling.advised
        return error.reason == "content_suite" and advised is not None and bool(advised.changes)

    async def _current_round(self) -> RoundInfo:
        nonce = secrets.token_hex(_NONCE_BYTES)
        data = await self._exchange.round_document(nonce)
        seen = self._participant.seen_round, self._participant.member.roster.number
        await self._upkeep.fetch()
        await self._in_thread(self._upkeep.keep)
        info = await self._in_thread(self._participant.judge, data, nonce, time.time())
        roster = self._participant.member.roster
        if info.document.roster_number > roster.number:
            _log.warning(
                "the aggregator works with roster %d, this site has %d: get the current one",
                info.document.roster_number, roster.number,
            )  # fmt: skip
        if self._state_path is not None and (self._participant.seen_round, roster.number) != seen:
            _save_state(self._state_path, self._participant.seen_round, roster.number)
        return info

    async def _train(self, train: Train, weights: Weights, info: RoundInfo) -> Trained:
        with self._training.running():
            if inspect.iscoroutinefunction(train):
                returned = await train(weights, info)
            else:
                returned = await asyncio.to_thread(train, weights, info)
        match returned:
            case (dict() | list() as new, samples):
                return new, samples
        raise RoundError("train has to return (weights, samples), weights as a list or a dict", reason="bad_training")

    async def _extra_keys(self) -> tuple[ExtraKey, ...]:
        if self._keys is None:
            return ()
        # In a thread because it may wait for a key manager, and outside the time that cryptography is said to take.
        return await asyncio.to_thread(self._keys.keys_for, [self._participant.aggregator], "update")

    async def _in_thread(self, work: Callable[..., Value], *arguments: object) -> Value:
        def timed() -> Value:
            with self._crypto.running():
                return work(*arguments)

        return await asyncio.to_thread(timed)


class BlockingFederatedClient:
    """`FederatedClient` for programs without an event loop; a context manager with the same arguments and methods."""

    def __init__(self, url: str, **options: Any) -> None:
        self._client = FederatedClient(url, **options)
        self._runner = asyncio.Runner()

    def __enter__(self) -> Self:
        self._await(self._client.__aenter__())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._await(self._client.__aexit__(kind, error, trace))
        finally:
            self._runner.close()

    @property
    def report(self) -> Report:
        """See `FederatedClient.report`."""
        return self._client.report

    def join(self) -> RoundInfo:
        """See `FederatedClient.join`."""
        return self._await(self._client.join())

    def fetch(self, info: RoundInfo) -> Weights:
        """See `FederatedClient.fetch`."""
        return self._await(self._client.fetch(info))

    def submit(self, info: RoundInfo, weights: Weights, samples: int) -> bool:
        """See `FederatedClient.submit`."""
        return self._await(self._client.submit(info, weights, samples))

    def run(self, train: Train) -> Weights:
        """See `FederatedClient.run`."""
        return self._await(self._client.run(train))

    def _await(self, call: Coroutine[Any, Any, Value]) -> Value:
        return self._runner.run(call)


def _copy(weights: Weights) -> Weights:
    if isinstance(weights, list):
        return [array.copy() for array in weights]
    return {name: array.copy() for name, array in weights.items()}


def _passphrases(passphrase: str | bytes | None, file: Path | str | None) -> PassphraseSource:
    if passphrase is not None and file is not None:
        raise ConfigurationError("give passphrase or passphrase_file, not both", reason="two_passphrases")
    return chosen(None if file is None else Path(file)) if passphrase is None else fixed(passphrase)


def _load_state(path: Path | None) -> tuple[int, int]:
    """Return the highest round and the highest roster number seen, zeros where nothing was remembered yet."""
    if path is None or not path.exists():
        return 0, 0
    try:
        facts = require_fields(parse_object(keystore.read_public(path), str(path)), _STATE_FIELDS, str(path))
    except MessageError as error:
        raise ConfigurationError(str(error), reason="malformed") from error
    if facts["pqfl"] != _STATE_TAG:
        raise ConfigurationError(f"{path}: says {facts['pqfl'][:40]!r} and not {_STATE_TAG!r}", reason="malformed")
    return facts["round"], facts["roster"]


def _save_state(path: Path, round_number: int, roster_number: int) -> None:
    facts = {"pqfl": _STATE_TAG, "round": round_number, "roster": roster_number}
    keystore.write_public(path, json.dumps(facts).encode() + b"\n")
