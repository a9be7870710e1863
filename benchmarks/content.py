"""GB/s of sealing and opening an envelope in memory, one thread, beside the bare ciphers, in one run.

    python benchmarks/content.py [--mib N …] [--runs N] [--quick] [--json FILE]

The measured things take turns, so that whatever else the machine does meets all of them; what counts is the median and
the ratio to bare Cobblestone-256, which is the floor: an envelope is that cipher with a signature and a wrapped key
in front. ``in memory`` includes the pages of a fresh output buffer, ``as a stream`` writes into one that is used again.
"""

import argparse
import json
import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from cryptography.cobblestone import Cobblestone256Decryptor, Cobblestone256Encryptor
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from support.machine import describe, markdown

from pqfl_transport.content.envelope import decode_prologue
from pqfl_transport.content.opening import Opener, open_weights
from pqfl_transport.content.recipients import ReceivingKey
from pqfl_transport.content.sealing import SLICE_BYTES, EnvelopeParameters, Sealer, seal_weights
from pqfl_transport.content.tensors import TensorLayout
from pqfl_transport.crypto.pyca import BODY_CHUNK_BYTES, SigningKey
from pqfl_transport.policy import for_level

MIB = 1 << 20
FLOOR = {"seal": "Cobblestone-256, encrypt", "open": "Cobblestone-256, decrypt"}
_ROOM_BYTES = SLICE_BYTES + 4 * BODY_CHUNK_BYTES
_NONCE = bytes(12)


@dataclass(frozen=True, slots=True)
class Sample:
    """One measurement."""

    wall_seconds: float
    cpu_seconds: float


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--mib", type=int, nargs="+", default=[256, 512], help="sizes of the model in MiB")
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="one short run, to see that it works")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.quick:
        options.runs, options.mib = 1, [16]
    results = {mib: measure(subjects(mib), options.runs) for mib in options.mib}
    machine = describe()
    print("\n".join(f"{name}: {value}" for name, value in machine.items()))
    print(f"{options.runs} runs; GB/s by wall time, medians; one thread\n")
    for mib, samples in results.items():
        print(table(mib, samples), end="\n\n")
    if options.json:
        found = {
            mib: {name: [[one.wall_seconds, one.cpu_seconds] for one in each] for name, each in samples.items()}
            for mib, samples in results.items()
        }
        options.json.write_text(json.dumps({"machine": machine, "seconds": found}, indent=1))


def subjects(mib: int) -> dict[str, Callable[[], None]]:
    """Return what is measured for a model of this size."""
    weights = {f"layer{number}": np.full((mib // 8, MIB // 4), 0.5, np.float32) for number in range(8)}
    size = mib * MIB
    plain = memoryview(bytearray(size))
    target = memoryview(bytearray(size))
    return {
        "copy of memory": lambda: _copy(plain, target),
        **_ciphers(plain),
        **_envelopes(weights),
    }


def _copy(source: memoryview, target: memoryview) -> None:
    target[:] = source


def _ciphers(plain: memoryview) -> dict[str, Callable[[], None]]:
    key = bytes(range(32))
    buffer, small = memoryview(bytearray(_ROOM_BYTES)), memoryview(bytearray(SLICE_BYTES + 16))
    gcm = AESGCM(key)
    sealed_slice = gcm.encrypt(_NONCE, bytes(SLICE_BYTES), None)
    opened = memoryview(bytearray(SLICE_BYTES))
    encryptor = Cobblestone256Encryptor(key, b"")
    ciphertext = encryptor.update(plain) + encryptor.finalize()

    def encrypt_gcm() -> None:
        # One nonce for all slices: this is about speed, and nobody gets to see it.
        for start in range(0, len(plain), SLICE_BYTES):
            gcm.encrypt_into(_NONCE, plain[start : start + SLICE_BYTES], None, small)

    def decrypt_gcm() -> None:
        for _ in range(0, len(plain), SLICE_BYTES):
            gcm.decrypt_into(_NONCE, sealed_slice, None, opened)

    def encrypt() -> None:
        cipher = Cobblestone256Encryptor(key, b"")
        for start in range(0, len(plain), SLICE_BYTES):
            cipher.update_into(plain[start : start + SLICE_BYTES], buffer)
        cipher.finalize()

    def decrypt() -> None:
        cipher = Cobblestone256Decryptor(key, b"")
        view = memoryview(ciphertext)
        for start in range(0, len(view), SLICE_BYTES):
            cipher.update_into(view[start : start + SLICE_BYTES], buffer)
        cipher.finalize()

    return {
        "AES-256-GCM, encrypt": encrypt_gcm,
        "AES-256-GCM, decrypt": decrypt_gcm,
        FLOOR["seal"]: encrypt,
        FLOOR["open"]: decrypt,
    }


def _envelopes(weights: dict[str, np.ndarray]) -> dict[str, Callable[[], None]]:
    policy = for_level("high")
    signing, receiving = SigningKey.generate("ML-DSA-65"), ReceivingKey.generate(policy.content_suite.kem)
    parameters = EnvelopeParameters(
        suite=policy.content_suite.id, federation="bench", sender="spiffe://bench/site/a", direction="file"
    )
    envelope = seal_weights(weights, parameters, [receiving.public], signing)
    sender = signing.verifying_key
    buffer = memoryview(bytearray(_ROOM_BYTES))

    def seal() -> None:
        seal_weights(weights, parameters, [receiving.public], signing)

    def open_() -> None:
        open_weights(envelope, receiving_key=receiving, sender_key=sender, policy=policy)

    def seal_stream() -> None:
        layout = TensorLayout.of(weights)
        sealer = Sealer(parameters, layout.total_bytes, [receiving.public], signing)
        for piece in layout.buffers():
            for start in range(0, len(piece), SLICE_BYTES):
                sealer.update_into(piece[start : start + SLICE_BYTES], buffer)
        sealer.finalize()

    def open_stream() -> None:
        prologue, _ = decode_prologue(memoryview(envelope)[: 64 * 1024])
        opener = Opener(prologue, receiving, sender_key=sender)
        rest = memoryview(envelope)[len(prologue.raw) :]
        for start in range(0, len(rest), SLICE_BYTES):
            opener.update_into(rest[start : start + SLICE_BYTES], buffer)
        opener.finalize()

    return {
        "envelope, seal in memory": seal,
        "envelope, open in memory": open_,
        "envelope, seal as a stream": seal_stream,
        "envelope, open as a stream": open_stream,
    }


def measure(what: dict[str, Callable[[], None]], runs: int) -> dict[str, list[Sample]]:
    """Return the samples of each subject, the subjects taking turns; the first turn warms up and is dropped."""
    samples: dict[str, list[Sample]] = {name: [] for name in what}
    for number in range(runs + 1):
        for name, subject in what.items():
            wall, cpu = time.perf_counter(), _cpu_seconds()
            subject()
            sample = Sample(time.perf_counter() - wall, _cpu_seconds() - cpu)
            if number:
                samples[name].append(sample)
    return samples


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def table(mib: int, samples: dict[str, list[Sample]]) -> str:
    """Return the results of one size as Markdown."""
    gigabytes = mib * MIB / 1e9
    wall = {name: statistics.median(one.wall_seconds for one in each) for name, each in samples.items()}
    cpu = {name: statistics.median(one.cpu_seconds for one in each) for name, each in samples.items()}
    rows = []
    for name in samples:
        floor = FLOOR["open"] if "open" in name or "decrypt" in name else FLOOR["seal"]
        rows.append(
            [name, f"{gigabytes / wall[name]:.2f}", f"{cpu[name] / gigabytes:.3f}", f"{wall[name] / wall[floor]:.2f}"]
        )
    return markdown([f"{mib} MiB of float32", "GB/s", "CPU s/GB", "time / bare Cobblestone"], rows)


if __name__ == "__main__":
    main()
