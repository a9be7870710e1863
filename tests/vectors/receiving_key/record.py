"""Record files of private receiving keys, encrypted and not; see README.md beside this file."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[2]))

from pqfl_transport.content.receiving_keys import ENCRYPTED_LABEL, KeyEntry, ReceivingKeys  # noqa: E402
from pqfl_transport.content.recipients import ReceivingKey  # noqa: E402
from pqfl_transport.crypto import armour  # noqa: E402
from pqfl_transport.crypto.locking import Cost  # noqa: E402 -- found through the path set above

PASSPHRASE = "correct horse battery staple"
MADE, NOT_AFTER = 1_800_000_000, 1_802_592_000
CHEAP = Cost(passes=1, lanes=1, memory_kib=8)


def entry(kem: str, fill: bytes, *, made: int = 0, not_after: int = 0) -> KeyEntry:
    """Return a key whose seed is one byte again and again."""
    key = ReceivingKey.generate(kem, random=lambda count: fill * count)
    return replace(KeyEntry.of(key), made=made, not_after=not_after)


def good(name: str, ring: ReceivingKeys, passphrase: str | None = None) -> dict[str, Any]:
    """Return an entry that opens."""
    keys = [
        {
            "kem": one.kem, "stored": one.opened.stored.hex(), "fingerprint": one.fingerprint.hex(),
            "made": one.made, "not_after": one.not_after,
        }
        for one in ring.entries
    ]  # fmt: skip
    return {"name": name, "passphrase": passphrase, "keys": keys, "file": ring.to_pem().decode()}


def bad(name: str, pem: bytes, error: str, passphrase: str | None = PASSPHRASE) -> dict[str, Any]:
    """Return an entry that is refused."""
    return {"name": name, "passphrase": passphrase, "error": error, "file": pem.decode()}


def changed(pem: bytes, old: bytes, new: bytes) -> bytes:
    """Return a block with other bytes inside."""
    data = armour.decode(pem, ENCRYPTED_LABEL, max_bytes=1 << 20)
    if old not in data:
        raise ValueError(old)
    return armour.encode(ENCRYPTED_LABEL, data.replace(old, new, 1))


def vectors() -> list[dict[str, Any]]:
    """Return good and bad files."""
    kem, phrase = "ML-KEM-768+X25519", PASSPHRASE.encode()
    current, former = entry(kem, b"\1", made=MADE), entry(kem, b"\2", made=MADE - 1, not_after=NOT_AFTER)
    locked = current.encrypted(phrase, cost=CHEAP)
    pem = locked.to_pem()
    both = (current.encrypted(phrase, cost=CHEAP), former.encrypted(phrase, cost=CHEAP))
    memory = (8).to_bytes(4, "big")
    return [
        good("version 1", ReceivingKeys((entry(kem, b"\1"),))),
        good("version 2", ReceivingKeys((current,))),
        good("two keys, the second ends", ReceivingKeys((current, former))),
        good("ML-KEM-1024 + P-384", ReceivingKeys((entry("ML-KEM-1024+P-384", b"\1", made=MADE),))),
        good("ML-KEM-1024", ReceivingKeys((entry("ML-KEM-1024", b"\1", made=MADE),))),
        good("encrypted at the usual cost", ReceivingKeys((current.encrypted(phrase),)), PASSPHRASE),
        good("encrypted, two keys", ReceivingKeys(both), PASSPHRASE),
        bad("another passphrase", pem, "wrong_passphrase", "correct horse battery stable"),
        bad("another date", changed(pem, MADE.to_bytes(8, "big"), (MADE + 1).to_bytes(8, "big")), "wrong_passphrase"),
        bad("another fingerprint", changed(pem, locked.fingerprint, former.fingerprint), "wrong_passphrase"),
        bad("more memory than allowed", changed(pem, memory + b"\0\0\0\x10", b"\0\4\0\1\0\0\0\x10"), "key_cost"),
        bad("another derivation", changed(pem, b"argon2id", b"argon2ix"), "bad_key"),
        bad(
            "cut short",
            armour.encode(ENCRYPTED_LABEL, armour.decode(pem, ENCRYPTED_LABEL, max_bytes=9999)[:-1]),
            "bad_key",
        ),
    ]


if __name__ == "__main__":
    (HERE / "keys.json").write_text(json.dumps(vectors(), indent=1) + "\n")
