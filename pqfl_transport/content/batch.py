"""Sealing many updates at once: results in order, one failure named without losing the others.

Theory of operation. Signature and body cipher release Python's global lock, so threads share the work of envelopes with
few recipients and nothing is copied. Wrapping the content key holds the lock; with many recipients it is most of the
cost, and the work goes to processes, a batch at a time, each of which is started with the keys and keeps them. No more
than one batch for each worker and one more are under way, so an iterator of any length passes with constant memory.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import islice
from multiprocessing.context import SpawnContext, SpawnProcess
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Any, Self

from pqfl_transport.content.recipients import RecipientKey
from pqfl_transport.content.sealing import EnvelopeParameters, seal_weights
from pqfl_transport.content.tensors import Weights
from pqfl_transport.crypto.pyca import SigningKey
from pqfl_transport.errors import ConfigurationError, PlatformError, PqflError

DEFAULT_BATCH_SIZE = 32
PROCESSES_FROM_RECIPIENTS = 16
"""From so many recipients on, wrapping outweighs signing and processes are faster than threads."""


class Workers(StrEnum):
    """What seals: threads of this process, or processes."""

    THREADS = "threads"
    PROCESSES = "processes"


@dataclass(frozen=True, slots=True)
class Job:
    """One update with what is its own: metadata, and parameters where they differ from the batch's."""

    weights: Weights
    metadata: Mapping[str, str] | None = None
    parameters: EnvelopeParameters | None = None


@dataclass(frozen=True, slots=True)
class Sealed:
    """The outcome for one update: an envelope, or the error that says why there is none."""

    index: int
    """Its place in the input, from 0."""
    envelope: memoryview | None = field(default=None, repr=False)
    error: PqflError | None = None

    def unwrap(self) -> memoryview:
        """Return the envelope, or raise the error."""
        if self.envelope is None:
            raise self.error or PlatformError(f"update {self.index} was not sealed", reason="not_sealed")
        return self.envelope


class BatchSealer:
    """A set of workers that seal for one sender and one set of recipients; a context manager.

    ``workers`` is how many, as many as there are processors unless given. ``kind`` is chosen by the number of
    recipients unless given. Raises ``ConfigurationError`` (``bad_workers``) for less than one worker or an empty
    batch size.
    """

    def __init__(
        self,
        recipients: Sequence[RecipientKey],
        parameters: EnvelopeParameters,
        signing_key: SigningKey,
        *,
        workers: int | None = None,
        batch_size: int = DEFAULT_BATCH_SIZE,
        kind: Workers | None = None,
    ) -> None:
        count = os.cpu_count() or 1 if workers is None else workers
        if count < 1 or batch_size < 1:
            raise ConfigurationError(
                f"{count} workers and batches of {batch_size}: at least one of each", reason="bad_workers"
            )
        many = len(recipients) >= PROCESSES_FROM_RECIPIENTS
        self.kind = kind or (Workers.PROCESSES if many else Workers.THREADS)
        self.workers = count
        self._batch_size = batch_size
        self._keys = _Keys(tuple(recipients), parameters, signing_key)
        self._executor: Executor | None = None
        self._context: _Context | None = None
        self._is_broken = False

    def __enter__(self) -> Self:
        self._executor = self._start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def seal(self, updates: Iterable[Weights | Job]) -> Iterator[Sealed]:
        """Seal each update; yield the outcomes in the order of the input, as they are ready.

        A worker process that dies takes its batch with it, which is named (``worker_died``); the rest goes on.
        """
        if self._executor is None:
            raise ConfigurationError("use the sealer as a context manager: `with BatchSealer(…) as sealer`")
        pending: deque[_Pending] = deque()
        for first, jobs in _numbered(updates, self._size()):
            pending.append(self._submit(first, jobs))
            if len(pending) > self.workers:
                yield from self._outcomes(pending.popleft())
        while pending:
            yield from self._outcomes(pending.popleft())

    def _size(self) -> int:
        # A thread takes one update at a time; a process takes so many at once that handing them over costs little.
        return 1 if self.kind is Workers.THREADS else max(1, self._batch_size // self.workers)

    def _start(self) -> Executor:
        if self.kind is Workers.THREADS:
            return ThreadPoolExecutor(self.workers, thread_name_prefix="pqfl-seal")
        keys = self._keys
        facts = _Facts(
            tuple(recipient.to_bytes() for recipient in keys.recipients), keys.parameters, keys.signing_key.to_pem()
        )
        self._context = _Context()
        return ProcessPoolExecutor(self.workers, mp_context=self._context, initializer=_begin, initargs=(facts,))

    def _stop(self) -> None:
        # A broken pool waits for a worker that it was just starting and forgot, so its workers are ended first.
        if self._is_broken and self._context is not None:
            self._context.end()
        if self._executor is not None:
            self._executor.shutdown(cancel_futures=True)
        self._executor, self._context, self._is_broken = None, None, False

    def _submit(self, first: int, jobs: list[Job]) -> "_Pending":
        assert self._executor is not None  # noqa: S101 -- `seal` has checked
        work: Callable[..., list[Any]] = _seal_in_process if self.kind is Workers.PROCESSES else self._keys.seal
        try:
            return _Pending(first, len(jobs), self._executor.submit(work, first, jobs))
        except (BrokenProcessPool, OSError, ValueError):
            # A pool that is just breaking may fail to start one more worker, on pipes that it has closed already.
            self._is_broken = True
            self._stop()
            self._executor = self._start()
            return _Pending(first, len(jobs), self._executor.submit(work, first, jobs))

    def _outcomes(self, pending: "_Pending") -> list[Sealed]:
        try:
            found = pending.future.result()
        except BrokenProcessPool:
            self._is_broken = True
            numbers = range(pending.first, pending.first + pending.count)
            return [
                Sealed(number, error=PlatformError(f"the process sealing update {number} died", reason="worker_died"))
                for number in numbers
            ]
        return [one.restore() if isinstance(one, _Portable) else one for one in found]


def seal_many(
    updates: Iterable[Weights | Job],
    recipients: Sequence[RecipientKey],
    *,
    parameters: EnvelopeParameters,
    signing_key: SigningKey,
    workers: int | None = None,
    batch_size: int = DEFAULT_BATCH_SIZE,
) -> list[Sealed]:
    """Seal all updates and return the outcomes in order: `BatchSealer` for one call."""
    with BatchSealer(recipients, parameters, signing_key, workers=workers, batch_size=batch_size) as sealer:
        return list(sealer.seal(updates))


class _Context(SpawnContext):
    """Remembers the processes of one pool: a pool that breaks may forget one that it was just starting.

    A forked copy of a process with threads may hang, so workers begin empty and get the keys through a pipe.
    """

    def __init__(self) -> None:
        super().__init__()
        self._started: list[BaseProcess] = []

    def Process(self, *words: Any, **options: Any) -> Any:  # type: ignore[override]  # noqa: N802 -- the base's name
        process = SpawnProcess(*words, **options)
        self._started.append(process)
        return process

    def end(self) -> None:
        """End every process that is left."""
        for process in self._started:
            if process.is_alive():
                process.terminate()
            process.join()


@dataclass(frozen=True, slots=True)
class _Keys:
    recipients: tuple[RecipientKey, ...]
    parameters: EnvelopeParameters
    signing_key: SigningKey

    def seal(self, first: int, jobs: Sequence[Job]) -> list[Sealed]:
        return [self._seal(first + number, job) for number, job in enumerate(jobs)]

    def _seal(self, index: int, job: Job) -> Sealed:
        parameters = job.parameters or self.parameters
        try:
            envelope = seal_weights(job.weights, parameters, self.recipients, self.signing_key, job.metadata)
        except PqflError as error:
            return Sealed(index, error=error)
        return Sealed(index, envelope)


@dataclass(frozen=True, slots=True)
class _Facts:
    """What a worker process is started with: keys in the forms that can be sent."""

    recipients: tuple[bytes, ...]
    parameters: EnvelopeParameters
    signing_key: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class _Pending:
    first: int
    count: int
    future: "Future[list[Sealed] | list[_Portable]]"


def _numbered(updates: Iterable[Weights | Job], size: int) -> Iterator[tuple[int, list[Job]]]:
    """Yield pieces of the input of at most ``size`` updates, each with the number of its first."""
    iterator = iter(updates)
    first = 0
    while piece := [each if isinstance(each, Job) else Job(each) for each in islice(iterator, size)]:
        yield first, piece
        first += len(piece)


_worker: list[_Keys] = []


def _begin(facts: _Facts) -> None:
    recipients = tuple(RecipientKey.from_bytes(data) for data in facts.recipients)
    _worker[:] = [_Keys(recipients, facts.parameters, SigningKey.from_pem(facts.signing_key))]


def _seal_in_process(first: int, jobs: Sequence[Job]) -> list["_Portable"]:
    return [
        _Portable(one.index, None if one.envelope is None else bytes(one.envelope), _describe(one.error))
        for one in _worker[0].seal(first, jobs)
    ]


def _describe(error: PqflError | None) -> "_Fault | None":
    return None if error is None else (type(error), str(error), error.reason)


_Fault = tuple[type[PqflError], str, str]


@dataclass(frozen=True, slots=True)
class _Portable:
    """An outcome in a form that passes from one process to another: neither views nor our errors can be pickled."""

    index: int
    envelope: bytes | None
    fault: _Fault | None

    def restore(self) -> Sealed:
        if self.fault is not None:
            kind, message, reason = self.fault
            return Sealed(self.index, error=kind(message, reason=reason))
        return Sealed(self.index, None if self.envelope is None else memoryview(self.envelope))
