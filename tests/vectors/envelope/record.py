"""Record envelopes for opening, one file a suite; see README.md beside this file."""

import base64
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[2]))

from pqfl_transport.content.header import CODECS  # noqa: E402
from pqfl_transport.content.keysource import ExtraKey  # noqa: E402
from pqfl_transport.content.psk import PreSharedKey  # noqa: E402
from pqfl_transport.content.shares import contribute  # noqa: E402
from pqfl_transport.policy import DEFAULT_LEVEL, SecurityLevel  # noqa: E402 -- found through the path set above
from tests.support.envelopes import Keys, make_keys, split  # noqa: E402

WEIGHTS: dict[str, Any] = {
    "w": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b": np.array(-1.5),
    "n": np.zeros((0, 2)),
}
METADATA = {"samples": "42"}
EXTRA = (ExtraKey("qkd:north-south:0001", bytes(range(32))), ExtraKey("psk:spring", b"p" * 48))


def vectors(keys: Keys) -> list[dict[str, Any]]:
    """Return good and bad envelopes under one set of keys; the damaged ones for the default suite alone."""
    plain = bytes(keys.seal(WEIGHTS, metadata=METADATA))
    trailed = bytes(keys.seal(WEIGHTS, metadata=METADATA, trailer=True))
    shared = bytes(keys.seal(WEIGHTS, metadata=METADATA, recipients=[keys.receiving, keys.other]))
    prologue, _, trailer = split(trailed)
    at_signature = plain.index(split(plain)[0].signature)
    lists = [WEIGHTS["w"], WEIGHTS["b"]]
    found = [
        good("one recipient", plain),
        good("one recipient, trailer", trailed),
        good("two recipients, the first opens", shared),
        good("two recipients, the second opens", shared, key=1),
        good("a list", bytes(keys.seal(lists, metadata=METADATA)), tensors={"0": lists[0], "1": lists[1]}),
        bad("another recipient's", plain, "not_for_us", key=1),
    ]
    found += [
        good("an extra key", bytes(keys.seal(WEIGHTS, metadata=METADATA, extra_keys=EXTRA)), extra=EXTRA),
        bad("an extra key that is not at hand", bytes(keys.seal(WEIGHTS, extra_keys=EXTRA)), "extra_key"),
        *threshold(keys),
    ]
    if keys.policy.level is not DEFAULT_LEVEL:
        return found
    shorter = {"w": np.linspace(-1, 1, 12, dtype=np.float32), "n": WEIGHTS["n"]}
    found += [lossy(keys, shorter, codec) for codec in CODECS[1:3]]
    return [
        *found,
        bad("header changed", flip(plain, plain.index(b"bank-a")), "bad_signature"),
        bad("wrapped key changed", flip(plain, plain.index(split(plain)[0].wrapped[0]) + 9), "bad_signature"),
        bad("commitment changed", flip(plain, plain.index(split(plain)[0].commitment) + 30), "bad_signature"),
        bad("signature changed", flip(plain, at_signature), "bad_signature"),
        bad("body changed", flip(plain, len(plain) - 40), "bad_body"),
        bad("last tag changed", flip(plain, len(plain) - 1), "bad_body"),
        bad("trailer changed", flip(trailed, len(trailed) - 1), "bad_trailer"),
        bad("trailer cut off", trailed[: -len(trailer)], "truncated"),
        bad("cut in the header", plain[:100], "truncated"),
        bad("cut behind the prologue", trailed[: len(prologue.raw)], "truncated"),
        bad("one byte too many", plain + b"\0", "excess"),
        bad("two recipients, body changed", flip(shared, len(shared) - len(trailer) - 1), "bad_body"),
    ]


def threshold(keys: Keys) -> list[dict[str, Any]]:
    """Return envelopes that two trustees open together for a combiner, with their contributions."""
    trustees, combiner = [keys.receiving, keys.other], keys.combiner
    envelope = bytes(keys.seal(WEIGHTS, metadata=METADATA, recipients=trustees, threshold=2))
    prologue = split(envelope)[0]
    made = [
        contribute(
            prologue, key, combiner.public, trustee=f"spiffe://fed/operator/{name}", signing_key=keys.signing,
            certificate=b"",
        )
        for key, name in zip(trustees, ("ada", "bob"), strict=True)
    ]  # fmt: skip
    damaged = flip(made[1], len(made[1]) - 8)
    return [
        good("two trustees together", envelope) | {"contributions": [encode(one) for one in made]},
        bad("one trustee alone", envelope, "too_few_shares") | {"contributions": [encode(made[0])]},
        bad("one trustee twice", envelope, "too_few_shares") | {"contributions": [encode(made[0])] * 2},
        bad("a damaged contribution", envelope, "too_few_shares")
        | {"contributions": [encode(made[0]), encode(damaged)]},
        bad("a trustee's own key", envelope, "threshold"),
    ]


def with_extra_keys(keys: Keys) -> dict[str, Any]:
    """Return envelopes with extra keys whose ids are of the grammar, and the pre-shared key behind one of them."""
    shared = PreSharedKey("spring", bytes(range(64, 112)))
    derived = shared.key("000102030405060708090a0b0c0d0e0f")
    link = ExtraKey("qkd:north-south:bc490419-7d60-487f-adc1-4ddcc177c139", bytes(range(32)))
    one, both = (
        bytes(keys.seal(WEIGHTS, metadata=METADATA, extra_keys=each)) for each in ((derived,), (link, derived))
    )
    other = {"extra": {derived.id: flip(derived.material, 31).hex()}}
    return facts(keys, keys.policy.level.value) | {
        "psk": {"name": "spring", "key": bytes(range(64, 112)).hex()},
        "vectors": [
            good("a key derived from a pre-shared one", one, extra=(derived,)),
            good("a key of a QKD link and a derived one", both, extra=(link, derived)),
            bad("a key of other material", one, "bad_body") | other,
            bad("a derived key that is not at hand", one, "extra_key"),
        ],
    }


def lossy(keys: Keys, weights: dict[str, Any], codec: str) -> dict[str, Any]:
    """Return an envelope under a codec; the tensors are those that come out."""
    envelope = bytes(keys.seal(weights, metadata=METADATA, codec=codec))
    opened = keys.open(envelope).weights
    assert isinstance(opened, dict)
    return good(f"codec {codec}", envelope, tensors=opened)


def good(
    name: str, envelope: bytes, *, key: int = 0, tensors: dict[str, Any] | None = None, extra: tuple[ExtraKey, ...] = ()
) -> dict[str, Any]:
    """Return an entry that opens."""
    rows = [
        [label, array.dtype.str, list(array.shape), array.tobytes().hex()]
        for label, array in (tensors or WEIGHTS).items()
    ]
    found = {"name": name, "key": key, "tensors": rows, "metadata": METADATA, "envelope": encode(envelope)}
    return found | ({"extra": {one.id: one.material.hex() for one in extra}} if extra else {})


def bad(name: str, envelope: bytes, error: str, *, key: int = 0) -> dict[str, Any]:
    """Return an entry that is refused."""
    return {"name": name, "key": key, "error": error, "envelope": encode(envelope)}


def flip(data: bytes, position: int) -> bytes:
    """Return ``data`` with one bit changed."""
    changed = bytearray(data)
    changed[position] ^= 1
    return bytes(changed)


def encode(data: bytes) -> str:
    """Return base64."""
    return base64.b64encode(data).decode()


def facts(keys: Keys, level: str) -> dict[str, Any]:
    """Return what a file says of its keys."""
    return {
        "suite": keys.policy.content_suite.id,
        "level": level,
        "keys": {
            "sender": bytes(range(32)).hex(),
            "receiving": [key._key.stored.hex() for key in (keys.receiving, keys.other)],
            "combiner": keys.combiner._key.stored.hex(),
        },
    }


def write(name: str, found: dict[str, Any]) -> None:
    """Write one file."""
    (HERE / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n")


def main() -> None:
    """Write one file a suite, and one about extra keys."""
    for level in SecurityLevel:
        keys = make_keys(level)
        suite = keys.policy.content_suite.id
        write(suite.rpartition("/")[2], facts(keys, level.value) | {"vectors": vectors(keys)})
    write("extra-keys", with_extra_keys(make_keys()))


if __name__ == "__main__":
    main()
