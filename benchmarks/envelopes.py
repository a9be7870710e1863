"""What an envelope costs beside its parts: small updates, batches, many recipients, layout, what post-quantum adds.

    python benchmarks/envelopes.py [--runs N] [--quick] [--picture FILE.png]

Subjects of one table take turns, and what counts is the median and the ratio to the floor of the same run. The
classical row is what one would have used before: an age-style file (X25519, HKDF, ChaCha20-Poly1305) with an Ed25519
signature, by the same library. Rows of other KEMs need liboqs and are left out, with the reason, where it is missing.
"""

import argparse
import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import safetensors.numpy
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ed25519, x25519
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from support.machine import describe, markdown
from support.turns import Subjects, take_turns

from pqfl_transport.algorithms import CONTENT_SUITES
from pqfl_transport.content.batch import BatchSealer, Workers
from pqfl_transport.content.envelope import decode_prologue
from pqfl_transport.content.opening import Opener
from pqfl_transport.content.recipients import ReceivingKey
from pqfl_transport.content.sealing import EnvelopeParameters, seal_weights
from pqfl_transport.content.tensors import TensorLayout
from pqfl_transport.crypto.contexts import Context
from pqfl_transport.crypto.pyca import SigningKey
from pqfl_transport.errors import PlatformError
from pqfl_transport.policy import DEFAULT_LEVEL, for_level

SUITE = "pqfl/v1/mlkem768x25519-mldsa65"
SMALL_FLOATS = 2_500
BATCH_FLOATS = 25_000
BATCH_UPDATES = 32
EXPERIMENTAL = (
    "pqfl/v1/x-mlkem512-x25519-mldsa44",
    "pqfl/v1/x-frodokem976shake-x25519-mldsa65",
    "pqfl/v1/x-hqc3-x25519-mldsa65",
    "pqfl/v1/x-classicmceliece460896f-x25519-mldsa65",
    "pqfl/v1/x-classicmceliece6688128f-x25519-mldsa87",
)


@dataclass(frozen=True)
class Family:
    """What it costs to seal and open 10 kB in one way, and how many bytes that adds."""

    name: str
    seal_seconds: float
    open_seconds: float
    added_bytes: int


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=int, default=15, help="turns of each table; each turn repeats small things")
    parser.add_argument("--quick", action="store_true", help="one short run, to see that it works")
    parser.add_argument("--picture", type=Path)
    options = parser.parse_args()
    runs = 1 if options.quick else options.runs
    print("\n".join(f"{name}: {value}" for name, value in describe().items()), end="\n\n")
    print(small(runs), recipients(runs), batches(runs), layout(runs, mib=16 if options.quick else 256), sep="\n\n")
    found = families(runs)
    print(f"\n{_family_table(found)}")
    if options.picture:
        draw(found, options.picture)


def parameters(suite: str = SUITE) -> EnvelopeParameters:
    """Return parameters of an update, under a policy that lists the suite: experimental ones are in none."""
    policy = replace(for_level(DEFAULT_LEVEL), content_suites=(suite,))
    return EnvelopeParameters(
        suite=suite, federation="bench", sender="spiffe://bench/site/a", direction="update", policy=policy
    )


def small(runs: int) -> str:
    """An update of 10 kB beside one signature and one wrap, of which its cost should consist."""
    signing, receiving = SigningKey.generate("ML-DSA-65"), ReceivingKey.generate("ML-KEM-768+X25519")
    weights = {"w": np.ones(SMALL_FLOATS, np.float32)}
    message = bytes(1650)

    def parts() -> None:
        signing.sign(message, Context.PROLOGUE)
        receiving.public.wrap(bytes(32), message)

    found = take_turns(
        {"one signature and one wrap": parts,
         "envelope of 10 kB": lambda: seal_weights(weights, parameters(), [receiving.public], signing)},
        runs, 60,
    )  # fmt: skip
    floor = found["one signature and one wrap"]
    return _ratios("10 kB update, ML-DSA-65, X-Wing", found, floor)


def recipients(runs: int) -> str:
    """1 to 64 recipients of 10 kB: each more should cost one wrap more."""
    signing = SigningKey.generate("ML-DSA-65")
    keys = [ReceivingKey.generate("ML-KEM-768+X25519").public for _ in range(64)]
    weights = {"w": np.ones(SMALL_FLOATS, np.float32)}
    subjects: Subjects = {"one wrap": lambda: keys[0].wrap(bytes(32), bytes(400))}
    for count in (1, 2, 8, 64):
        subjects[f"{count} recipients"] = lambda count=count: seal_weights(weights, parameters(), keys[:count], signing)
    found = take_turns(subjects, runs, 20)
    wrap = found.pop("one wrap")
    each = (found["64 recipients"] - found["2 recipients"]) / 62
    rows = [[name, f"{seconds * 1e3:.2f}", ""] for name, seconds in found.items()]
    rows.append(["each further recipient", f"{each * 1e3:.3f}", f"{each / wrap:.2f}"])
    return markdown(["many recipients of 10 kB (from 2 on with a trailer)", "ms", "time / one wrap"], rows)


def batches(runs: int) -> str:
    """32 updates of 100 kB by one worker and by two."""
    signing, receiving = SigningKey.generate("ML-DSA-65"), ReceivingKey.generate("ML-KEM-768+X25519")
    updates = [{"w": np.random.default_rng(number).random(BATCH_FLOATS, np.float32)} for number in range(BATCH_UPDATES)]
    sealers = {
        "one worker": BatchSealer([receiving.public], parameters(), signing, workers=1),
        "two threads": BatchSealer([receiving.public], parameters(), signing, workers=2, kind=Workers.THREADS),
        "two processes": BatchSealer([receiving.public], parameters(), signing, workers=2, kind=Workers.PROCESSES),
    }
    subjects: Subjects = {name: lambda sealer=sealer: list(sealer.seal(updates)) for name, sealer in sealers.items()}
    for sealer in sealers.values():
        sealer.__enter__()
    try:
        found = take_turns(subjects, runs, 2)
    finally:
        for sealer in sealers.values():
            sealer.__exit__(None, None, None)
    rows = [[name, f"{seconds * 1e3:.1f}", f"{found['one worker'] / seconds:.2f}"] for name, seconds in found.items()]
    return markdown(
        [f"{BATCH_UPDATES} updates of 100 kB, {os.cpu_count()} cores", "ms", "faster than one worker"], rows
    )


def layout(runs: int, mib: int) -> str:
    """The scatter list beside what the reference implementation makes."""
    weights = {f"layer{number}": np.ones((mib // 8, 1 << 18), np.float32) for number in range(8)}
    found = take_turns(
        {
            "scatter list": lambda: list(TensorLayout.of(weights).buffers()),
            "safetensors.save": lambda: safetensors.numpy.save(weights),
        },
        min(runs, 5), 1,
    )  # fmt: skip
    return _ratios(f"tensor layout of {mib} MiB", found, found["safetensors.save"])


def families(runs: int) -> list[Family]:
    """Seal and open 10 kB in every way there is here."""
    found = [_classical(runs)]
    for suite in [*(s for s in CONTENT_SUITES if not CONTENT_SUITES[s].is_experimental), *EXPERIMENTAL]:
        try:
            found.append(_suite(suite, runs))
        except PlatformError as error:
            print(f"left out: {suite}: {error}")
    return found


def _classical(runs: int) -> Family:
    data = bytes(4 * SMALL_FLOATS)
    signing, receiving = ed25519.Ed25519PrivateKey.generate(), x25519.X25519PrivateKey.generate()
    public = receiving.public_key()

    def key(shared: bytes) -> bytes:
        return HKDF(hashes.SHA256(), 32, None, b"age-style").derive(shared)

    def seal() -> tuple[bytes, bytes, bytes]:
        ephemeral = x25519.X25519PrivateKey.generate()
        sent = ephemeral.public_key().public_bytes_raw()
        # The key is used once, so a nonce of zeros is what age does too.
        body = ChaCha20Poly1305(key(ephemeral.exchange(public))).encrypt(bytes(12), data, sent)
        return sent, body, signing.sign(sent + body)

    sealed = seal()

    def open_() -> None:
        sent, body, signature = sealed
        signing.public_key().verify(signature, sent + body)
        shared = receiving.exchange(x25519.X25519PublicKey.from_public_bytes(sent))
        ChaCha20Poly1305(key(shared)).decrypt(bytes(12), body, sent)

    seconds = take_turns({"seal": seal, "open": open_}, runs, 40)
    added = sum(len(part) for part in sealed) - len(data)
    return Family("classical: X25519, ChaCha20-Poly1305, Ed25519", seconds["seal"], seconds["open"], added)


def _suite(suite: str, runs: int) -> Family:
    row = CONTENT_SUITES[suite]
    receiving, signing = ReceivingKey.generate(row.kem), SigningKey.generate(row.signature)
    weights = {"w": np.zeros(SMALL_FLOATS, np.float32)}
    envelope = bytes(seal_weights(weights, parameters(suite), [receiving.public], signing))
    buffer = bytearray(len(envelope) + 64 * 1024)

    def open_() -> None:
        prologue, rest = decode_prologue(envelope)
        signing.verifying_key.verify(prologue.signature, prologue.signed_bytes, Context.PROLOGUE)
        opener = Opener(prologue, receiving, sender_key=signing.verifying_key)
        opener.update_into(rest, buffer)
        opener.finalize()

    seconds = take_turns(
        {"seal": lambda: seal_weights(weights, parameters(suite), [receiving.public], signing), "open": open_}, runs, 20
    )
    return Family(suite.removeprefix("pqfl/v1/"), seconds["seal"], seconds["open"], len(envelope) - 4 * SMALL_FLOATS)


def _family_table(found: list[Family]) -> str:
    rows = [
        [one.name, f"{one.seal_seconds * 1e3:.2f}", f"{one.open_seconds * 1e3:.2f}", str(one.added_bytes)]
        for one in found
    ]
    return markdown(["10 kB sealed for one recipient", "seal, ms", "open, ms", "bytes added"], rows)


def _ratios(title: str, found: dict[str, float], floor: float) -> str:
    rows = [[name, f"{seconds * 1e3:.3f}", f"{seconds / floor:.3f}"] for name, seconds in found.items()]
    return markdown([title, "ms", "time / floor"], rows)


def draw(found: list[Family], path: Path) -> None:
    """Draw what each way adds in time and bytes."""
    import matplotlib as mpl  # noqa: PLC0415 -- only for who asks for a picture

    mpl.use("Agg")
    import matplotlib.pyplot as plt  # noqa: PLC0415

    names = [one.name for one in found][::-1]
    figure, (times, sizes) = plt.subplots(1, 2, figsize=(12, 0.42 * len(found) + 1.4), sharey=True)
    places = np.arange(len(found))
    times.barh(places + 0.2, [one.seal_seconds * 1e3 for one in found][::-1], 0.4, label="seal", color="#31688e")
    times.barh(places - 0.2, [one.open_seconds * 1e3 for one in found][::-1], 0.4, label="open", color="#35b779")
    times.set_xscale("log")
    times.set_xlabel("ms for 10 kB (logarithmic)")
    times.set_yticks(places, names)
    times.legend(loc="lower right")
    sizes.barh(places, [one.added_bytes for one in found][::-1], 0.6, color="#443983")
    sizes.set_xscale("log")
    sizes.set_xlabel("bytes added (logarithmic)")
    for axes in (times, sizes):
        axes.grid(axis="x", alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle("What post-quantum costs: one small update, sealed and signed")
    figure.tight_layout()
    figure.savefig(path, dpi=130)


if __name__ == "__main__":
    main()
