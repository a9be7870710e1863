"""Header and prologue: every field at its edges, every length wrong, the envelope cut and lengthened at every part."""

from pqfl_transport.crypto.contexts import length_prefixed
from tests.support.envelopes import Keys, split
from tests.support.forging import ITEMS, Forgery
from tests.vectors.envelope.cases.entries import Entry, bad, good

_LONG = b"x" * 257
_FOUR = (4).to_bytes(4, "big")


def headers(keys: Keys) -> list[Entry]:
    """Return envelopes whose header is at fault, signed all the same, and some whose header is at an edge."""
    found = []
    for name, value, what, error in _fields(keys):
        number = ITEMS.index(name) + 1
        forged = Forgery(keys=keys, items={name: value}).seal()
        # What is refused while the header is read needs nothing behind it; a thousand recipients take a megabyte.
        forged = forged if len(value) < 10_000 else forged[: 4 + int.from_bytes(forged[:4], "big")]
        found.append(bad(f"§2 item {number}", f"item {number}, {name}: {what}", forged, error))
    return found + _two_recipients(keys) + _whole_headers(keys) + _edges(keys)


def _fields(keys: Keys) -> list[tuple[str, bytes, str, str]]:
    own, other = keys.receiving.fingerprint, keys.other.fingerprint
    ids = [b"psk:%d" % number for number in range(17)]
    thousand = length_prefixed(*(number.to_bytes(32, "big") for number in range(1025)))
    words = [
        (name, value, what, "malformed")
        for name in ("suite", "federation", "sender")
        for value, what in ((b"", "empty"), (_LONG, "257 bytes"), (b"\xff", "not ASCII"))
    ]
    lengths = [
        (name, bytes(length), f"{length} bytes", "malformed")
        for name, wrong in (
            ("flags", (0, 2)), ("round", (0, 7, 9)), ("sender_key", (0, 31, 33)), ("challenge", (1, 31, 33)),
            ("envelope_id", (0, 15, 17)), ("not_after", (0, 7, 9)), ("base_model", (1, 31, 33)), ("length", (0, 7, 9)),
        )
        for length in wrong
    ]  # fmt: skip
    return [
        *words,
        ("suite", b"pqfl/v1/mlkem512-mldsa44", "unknown", "unknown_suite"),
        ("suite", b"pqfl/v2/mlkem768x25519-mldsa44", "of a version to come", "unknown_suite"),
        ("flags", b"\x02", "an unknown flag", "malformed"),
        ("flags", b"\x81", "an unknown flag beside the trailer's", "malformed"),
        *lengths,
        ("direction", b"", "empty", "malformed"),
        ("direction", b"download", "unknown", "malformed"),
        ("direction", b"Update", "in capitals", "malformed"),
        ("recipients", b"", "none", "malformed"),
        ("recipients", length_prefixed(own[:31]), "31 bytes", "malformed"),
        ("recipients", length_prefixed(own)[:-1], "cut short", "malformed"),
        ("recipients", length_prefixed(own) + b"\0", "half a length behind them", "malformed"),
        ("recipients", length_prefixed(own, other), "two without the trailer flag", "no_trailer"),
        ("recipients", thousand, "1025", "malformed"),
        ("length", ((1 << 40) + 1).to_bytes(8, "big"), "above 2^40", "too_large"),
        ("codec", b"", "empty", "malformed"),
        ("codec", b"pickle", "unknown", "malformed"),
        ("extra_keys", length_prefixed(b""), "an empty id", "malformed"),
        ("extra_keys", length_prefixed(ids[0], ids[0]), "one twice", "malformed"),
        ("extra_keys", length_prefixed(*ids), "17", "malformed"),
        ("extra_keys", length_prefixed(_LONG), "an id of 257 bytes", "malformed"),
        ("extra_keys", length_prefixed(b"\xff"), "not ASCII", "malformed"),
        ("threshold", length_prefixed(b"\x02", bytes(32), bytes(32)), "with one recipient", "malformed"),
        ("threshold", length_prefixed(b"\x01", bytes(32)), "1 of 1", "malformed"),
        ("threshold", b"\x02", "no list", "malformed"),
    ]


def _two_recipients(keys: Keys) -> list[Entry]:
    own, other = keys.receiving, keys.other
    base = Forgery(keys=keys, recipients=(own, other))
    hashes = [bytes([number]) * 32 for number in range(3)]
    cases = {
        "t = 0": length_prefixed(b"\x00", *hashes[:2]),
        "t = 1": length_prefixed(b"\x01", *hashes[:2]),
        "t above n": length_prefixed(b"\x03", *hashes[:2]),
        "t of two bytes": length_prefixed(b"\x00\x02", *hashes[:2]),
        "t alone": length_prefixed(b"\x02"),
        "three hashes for two recipients": length_prefixed(b"\x02", *hashes),
        "a hash of 31 bytes": length_prefixed(b"\x02", hashes[0], hashes[1][:31]),
    }
    found = [
        bad("§2 item 16", f"item 16, threshold: {what}", base.having(items={"threshold": value}).seal(), "malformed")
        for what, value in cases.items()
    ]
    twice = length_prefixed(own.fingerprint, own.fingerprint)
    return [
        *found,
        bad("§2 item 8", "item 8, recipients: one twice", base.having(items={"recipients": twice}).seal(), "malformed"),
    ]


def _whole_headers(keys: Keys) -> list[Entry]:
    items = list(Forgery(keys=keys).all_items().values())
    cases = {
        "15 items": length_prefixed(*items[:-1]),
        "17 items": length_prefixed(*items, b""),
        "half a length behind the last item": length_prefixed(*items) + b"\0\0",
        "an item longer than what is left": length_prefixed(*items[:-1]) + _FOUR,
        "empty": b"",
    }
    found = [
        bad("§2", f"a header with {what}", Forgery(keys=keys, parts={"H": value}).seal(), "malformed")
        for what, value in cases.items()
    ]
    above = (64 * 1024 + 1).to_bytes(4, "big")
    return [*found, bad("§2", "a header above 64 KiB", above, "too_large")]


def _edges(keys: Keys) -> list[Entry]:
    def sealed(name: str, value: bytes) -> bytes:
        return Forgery(keys=keys, items={name: value}).seal()

    return [
        good("§2 item 3", "item 3, federation: 256 bytes", sealed("federation", b"f" * 256)),
        good("§2 item 4", "item 4, round: the largest", sealed("round", b"\xff" * 8)),
        good("§2 item 5", "item 5, direction: model", sealed("direction", b"model")),
        good("§2 item 5", "item 5, direction: file", sealed("direction", b"file")),
        good("§2 item 9", "item 9, challenge: none", sealed("challenge", b"")),
        good("§2 item 11", "item 11, not-after: no end", sealed("not_after", bytes(8))),
        good("§2 item 12", "item 12, base model: none", sealed("base_model", b"")),
    ]


def prologues(keys: Keys) -> list[Entry]:
    """Return envelopes with a part of the prologue of another length, and cut or lengthened ones."""
    one, two = Forgery(keys=keys), Forgery(keys=keys, recipients=(keys.receiving, keys.other))
    first, second = split(two.seal())[0].wrapped
    single = split(one.seal())[0]
    w, k, s = length_prefixed(*single.wrapped), single.commitment, single.signature

    def forged(base: Forgery, **parts: bytes) -> bytes:
        return base.having(parts=parts).seal()

    return [
        bad("§3", "W longer than the header says", forged(one, W=w + b"\0"), "too_large"),
        bad("§3", "W shorter than the header says", forged(one, W=w[:-1]), "malformed"),
        bad("§3", "W with two keys for one recipient", forged(one, W=w + w), "too_large"),
        bad("§3", "W with one key for two recipients", forged(two, W=length_prefixed(first)), "malformed"),
        bad("§3", "W with one key for two, as long as two", forged(two, W=length_prefixed(first + second + _FOUR)),
            "malformed"),
        bad("§3", "W with a byte moved from one key to the next",
            forged(two, W=length_prefixed(first + second[:1], second[1:])), "malformed"),
        bad("§3", "K of 57 bytes", forged(one, K=k + b"\0"), "too_large"),
        bad("§3", "K of 55 bytes", forged(one, K=k[:-1]), "malformed"),
        bad("§3", "S one byte longer", forged(one, S=s + b"\0"), "too_large"),
        bad("§3", "S one byte shorter", forged(one, S=s[:-1]), "malformed"),
        bad("§3", "S empty", forged(one, S=b""), "malformed"),
        *_cut(keys),
    ]  # fmt: skip


def _cut(keys: Keys) -> list[Entry]:
    envelope = Forgery(keys=keys, items={"flags": b"\x01"}).seal()
    prologue, body, trailer = split(envelope)
    ends, at = {}, 0
    parts = (prologue.header_bytes, prologue.wrapped_bytes, prologue.commitment, prologue.signature)
    for letter, part in zip("HWKS", parts, strict=True):
        ends |= {f"before {letter}": at, f"in the length of {letter}": at + 2, f"in {letter}": at + 4 + len(part) // 2}
        at += 4 + len(part)
    ends |= {
        "before the body": at,
        "in the body": at + len(body) // 2,
        "before the trailer": at + len(body),
        "in the trailer": at + len(body) + len(trailer) // 2,
        "one byte before its end": len(envelope) - 1,
    }
    found = [bad("§3", f"cut {what}", envelope[:end], "truncated") for what, end in ends.items()]
    return [
        *found,
        bad("§3", "one byte behind the body", Forgery(keys=keys).seal() + b"\0", "excess"),
        bad("§3", "one byte behind the trailer", envelope + b"\0", "excess"),
        bad("§3", "a trailer that the flags do not announce", Forgery(keys=keys).seal() + trailer, "excess"),
    ]
