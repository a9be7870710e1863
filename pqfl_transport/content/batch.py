"""Sealing many updates at once: results in order, one failure named without losing the others.

Theory of operation. Signature and body cipher release Python's global lock, so threads share the work of envelopes with
few recipients and nothing is copied. Wrapping the content key holds the lock; with many recipients it is most of the
cost, and the work goes to processes, a batch at a time, each of which is started with the keys and keeps them. No more
than one batch for each worker and one more are under way, so an iterator of any length passes with constant memory.
"""

import os
import pickle
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import islice
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from queue import SimpleQueue
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

_PIECES_FOR_A_THREAD = 4


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
        self._executor: ThreadPoolExecutor | None = None
        self._processes: _Processes | None = None

    def __enter__(self) -> Self:
        self._executor = ThreadPoolExecutor(self.workers, thread_name_prefix="pqfl-seal")
        if self.kind is Workers.PROCESSES:
            self._processes = _Processes(self._keys, self.workers)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._executor is not None:
            self._executor.shutdown(cancel_futures=True)
        if self._processes is not None:
            self._processes.close()
        self._executor = self._processes = None

    def seal(self, updates: Iterable[Weights | Job]) -> Iterator[Sealed]:
        """Seal each update; yield the outcomes in the order of the input, as they are ready.

        A worker process that dies takes its batch with it, which is named (``worker_died``); the rest goes on.
        """
        if self._executor is None:
            raise ConfigurationError("use the sealer as a context manager: `with BatchSealer(…) as sealer`")
        pending: deque[Future[list[Sealed]]] = deque()
        work = self._keys.seal if self._processes is None else self._processes.seal
        for first, jobs in _numbered(updates, self._size()):
            pending.append(self._executor.submit(work, first, jobs))
            if len(pending) > self.workers:
                yield from pending.popleft().result()
        while pending:
            yield from pending.popleft().result()

    def _size(self) -> int:
        # So many at once that handing them over costs little, which it does most between processes, and so few that
        # all workers end together.
        shares = self.workers if self.kind is Workers.PROCESSES else self.workers * _PIECES_FOR_A_THREAD
        return max(1, self._batch_size // shares)


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


def _numbered(updates: Iterable[Weights | Job], size: int) -> Iterator[tuple[int, list[Job]]]:
    """Yield pieces of the input of at most ``size`` updates, each with the number of its first."""
    iterator = iter(updates)
    first = 0
    while piece := [each if isinstance(each, Job) else Job(each) for each in islice(iterator, size)]:
        yield first, piece
        first += len(piece)


class _Processes:
    """So many worker processes at most, each behind a pipe that one thread at a time talks through."""

    def __init__(self, keys: _Keys, count: int) -> None:
        self._keys = keys
        self._facts = _Facts(
            tuple(recipient.to_bytes() for recipient in keys.recipients), keys.parameters, keys.signing_key.to_pem()
        )
        self._idle: SimpleQueue[_Process | None] = SimpleQueue()
        for _ in range(count):
            self._idle.put(None)
        self._count = count

    def seal(self, first: int, jobs: Sequence[Job]) -> list[Sealed]:
        """Seal a batch in an idle process, which is started where there is none yet."""
        process = self._idle.get()
        try:
            process = process or _Process(self._facts)
            return [one.restore() for one in process.run(first, jobs)]
        except (EOFError, OSError):
            if process is not None:
                process.end()
            process = None
            numbers = range(first, first + len(jobs))
            return [
                Sealed(number, error=PlatformError(f"the process sealing update {number} died", reason="worker_died"))
                for number in numbers
            ]
        except (pickle.PicklingError, TypeError, AttributeError):
            # What cannot be sent to another process is sealed here, or gets here the error that says why not.
            return self._keys.seal(first, jobs)
        finally:
            self._idle.put(process)

    def close(self) -> None:
        """End all processes; nothing may be under way."""
        for _ in range(self._count):
            process = self._idle.get()
            if process is not None:
                process.end()


class _Process:
    """One worker process.

    A forked copy of a process with threads may hang, so it begins empty and gets the keys through its pipe.
    """

    def __init__(self, facts: _Facts) -> None:
        self._pipe, theirs = Pipe()
        # A daemon: it never keeps this program from ending.
        self._process = SpawnProcess(target=_work, args=(theirs,), daemon=True, name="pqfl-seal")
        self._process.start()
        theirs.close()
        self._pipe.send(facts)

    def run(self, first: int, jobs: Sequence[Job]) -> list["_Portable"]:
        """Return the outcomes of a batch. Raises ``EOFError`` or ``OSError`` when the process is gone."""
        self._pipe.send((first, jobs))
        found: list[_Portable] = self._pipe.recv()
        return found

    def end(self) -> None:
        """End the process and wait for it."""
        self._pipe.close()
        self._process.terminate()
        self._process.join()


def _work(pipe: "Connection[Any, Any]") -> None:
    """Seal batches until the other end goes away: what a worker process runs."""
    facts: _Facts = pipe.recv()
    recipients = tuple(RecipientKey.from_bytes(data) for data in facts.recipients)
    keys = _Keys(recipients, facts.parameters, SigningKey.from_pem(facts.signing_key))
    with suppress(EOFError, OSError):
        while True:
            first, jobs = pipe.recv()
            pipe.send([_Portable.of(one) for one in keys.seal(first, jobs)])


_Fault = tuple[type[PqflError], str, str]


@dataclass(frozen=True, slots=True)
class _Portable:
    """An outcome in a form that passes from one process to another: neither views nor our errors can be pickled."""

    index: int
    envelope: bytes | None
    fault: _Fault | None

    @classmethod
    def of(cls, one: Sealed) -> Self:
        envelope = None if one.envelope is None else bytes(one.envelope)
        return cls(
            one.index, envelope, None if one.error is None else (type(one.error), str(one.error), one.error.reason)
        )

    def restore(self) -> Sealed:
        if self.fault is not None:
            kind, message, reason = self.fault
            return Sealed(self.index, error=kind(message, reason=reason))
        return Sealed(self.index, None if self.envelope is None else memoryview(self.envelope))
