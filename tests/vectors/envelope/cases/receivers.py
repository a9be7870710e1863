"""What a receiver is there for: suite, sender, round, and the keys that it has; ENVELOPE.md §4 and §5."""

from typing import Any

from pqfl_transport.crypto.contexts import Context, Label, length_prefixed
from pqfl_transport.crypto.pyca import SigningKey
from tests.support.envelopes import SENDER, Keys, split
from tests.support.forging import Forgery
from tests.vectors.envelope.cases.entries import Entry, bad, encode, good

_NOW = 1_900_000_000


def receivers(keys: Keys) -> list[Entry]:
    """Return envelopes that are good but not for this receiver, and some with the wrong keys or signature."""
    own = keys.receiving.fingerprint
    right: dict[str, Any] = {
        "sender": SENDER, "senders": [SENDER], "federation": "fed", "direction": "update",
        "suite": keys.parameters.suite, "round": 3, "challenge": (b"c" * 32).hex(), "base_model": (b"d" * 32).hex(),
        "recipient": own.hex(), "now": _NOW, "max_plaintext_bytes": 1 << 20,
    }  # fmt: skip
    sealed = Forgery(keys=keys).seal()

    def refused(name: str, error: str, forged: bytes = sealed, **changes: Any) -> Entry:
        return bad("§5", name, forged, error, receiver=right | changes)

    expired = Forgery(keys=keys, items={"not_after": (_NOW - 1).to_bytes(8, "big")}).seal()
    accepted = split(sealed)[0].header.envelope_id.hex()
    several = Forgery(keys=keys, recipients=(keys.receiving, keys.other)).seal()
    return [
        good("§5", "all that a receiver expects", sealed, receiver=right),
        refused(
            "a suite that the policy does not list", "content_suite",
            level="cnsa2", suites=["pqfl/v1/mlkem1024-mldsa87"],
        ),
        refused("a sender that nobody knows", "unknown_sender", senders=["spiffe://fed/site/bank-b"]),
        refused("a sender that was not asked for", "wrong_sender", sender="spiffe://fed/site/bank-b"),
        refused("another federation's", "wrong_federation", federation="other"),
        refused("no update", "wrong_direction", Forgery(keys=keys, items={"direction": b"model"}).seal()),
        refused("another suite than the round's", "wrong_suite", suite="pqfl/v1/mlkem768x25519-chacha-mldsa44"),
        refused("a round that is over", "stale", round=4),
        refused("a round that has not begun", "wrong_round", round=2),
        refused("another challenge", "wrong_challenge", challenge=(b"x" * 32).hex()),
        refused("past its end", "expired", expired),
        refused("sealed to another key than the round's", "misaddressed", recipient=keys.other.fingerprint.hex()),
        refused("sealed to more keys than the round's", "misaddressed", several),
        refused("a change to another model", "wrong_base_model", base_model=(b"x" * 32).hex()),
        refused("larger than what is expected", "too_large", max_plaintext_bytes=8),
        refused("an envelope id that was accepted with another prologue", "replay", accepted=[accepted]),
        refused("a second envelope of one sender", "duplicate", accepted=["00" * 16], one_per_sender=True),
        *_signatures(keys),
    ]  # fmt: skip


def _signatures(keys: Keys) -> list[Entry]:
    stranger = SigningKey.from_seed(keys.signing.algorithm, b"x" * 32)
    ours = {"sender_key": keys.signing.verifying_key.fingerprint}
    forged = Forgery(keys=keys)
    sealed = forged.seal()
    prologue, body, _ = split(sealed)
    others = split(Forgery(keys=keys, items={"round": bytes(8)}).seal())[0]
    more = [
        bad("§5", f"a signature made in the context {context.name.lower()}", envelope, "bad_signature")
        for context in Context
        if context is not Context.PROLOGUE
        for envelope in [forged.having(prologue_context=context).seal()]
    ]
    return [
        bad("§5", "signed with another key, which it names", forged.having(signing=stranger).seal(),
            "wrong_sender_key"),
        bad("§5", "signed with another key under the sender's fingerprint",
            forged.having(signing=stranger, items=ours).seal(), "bad_signature"),
        bad("§5", "the signature of another prologue", forged.having(parts={"S": others.signature}).seal(),
            "bad_signature"),
        bad("§5", "another recipient's wrapped key in W",
            length_prefixed(prologue.header_bytes, length_prefixed(keys.other.public.wrap(
                b"k" * 32, prologue.header_bytes)), prologue.commitment, prologue.signature) + body, "bad_signature"),
        *more,
    ]  # fmt: skip


def unwrapping(keys: Keys) -> list[Entry]:
    """Return envelopes whose keys do not fit: wrapped for others, mixed with others, committed to others."""
    forged = Forgery(keys=keys)
    sealed = forged.seal()
    ids = tuple(f"psk:{number}" for number in range(16))
    materials = tuple(bytes([number]) * (number + 1) for number in range(16))
    named = {"extra_keys": length_prefixed(*(name.encode() for name in ids[:2]))}
    mixed = forged.having(items=named, extra=materials[:2]).seal()
    swapped = dict(zip(ids[:2], (materials[1].hex(), materials[0].hex()), strict=True))
    most = forged.having(items={"extra_keys": length_prefixed(*(i.encode() for i in ids))}, extra=materials).seal()
    known = {name: material.hex() for name, material in zip(ids, materials, strict=True)}
    moved = split(forged.having(items={"round": (4).to_bytes(8, "big")}).seal())[0].wrapped
    return [
        bad("§4", "the key of nobody it is sealed to", sealed, "not_for_us", key=1),
        bad("§4", "wrapped under another header", forged.having(parts={"W": length_prefixed(*moved)}).seal(),
            "not_for_us"),
        bad("§4", "wrapped under the label of shares", forged.having(wrap_label=Label.SHARE_WRAP).seal(), "not_for_us"),
        bad("§4", "another content key wrapped than the body's",
            forged.having(wrapped_plaintexts=(b"x" * 32,)).seal(), "bad_body"),
        bad("§4", "a signed commitment that is another key's",
            forged.having(parts={"K": split(forged.having(content_key=b"x" * 32).seal())[0].commitment}).seal(),
            "bad_body"),
        good("§4", "sixteen extra keys", most, extra=known),
        bad("§4", "an extra key that is not at hand", mixed, "extra_key", extra={ids[0]: materials[0].hex()}),
        bad("§4", "an extra key of other material", mixed, "bad_body", extra=known | {ids[0]: "ff"}),
        bad("§4", "extra keys in another order", mixed, "bad_body", extra=swapped),
        bad("§4", "no extra key where one is required", sealed, "no_extra_key",
            extra={}, receiver={"requires_extra_key": True}),
        *_stored(keys, sealed),
    ]  # fmt: skip


def _stored(keys: Keys, sealed: bytes) -> list[Entry]:
    key = keys.receiving
    good_parts = [b"pqfl-receiving/v1", b"private", key.kem.encode(), key._key.stored, key.fingerprint]

    def stored(*, label: str = "PRIVATE", **changes: bytes) -> str:
        names = ("version", "half", "kem", "seed", "fingerprint")
        parts = [changes.get(name, part) for name, part in zip(names, good_parts, strict=True)]
        text = encode(length_prefixed(*parts))
        lines = "\n".join(text[at : at + 64] for at in range(0, len(text), 64))
        return f"-----BEGIN PQFL RECEIVING {label} KEY-----\n{lines}\n-----END PQFL RECEIVING {label} KEY-----\n"

    cases = {
        "of another version": stored(version=b"pqfl-receiving/v2"),
        "that says it is public": stored(half=b"public"),
        "under another label": stored(label="PUBLIC"),
        "with a seed of 31 bytes": stored(seed=good_parts[3][:31]),
        "with another seed than its fingerprint's": stored(seed=b"x" * 32),
        "with another fingerprint": stored(fingerprint=b"x" * 32),
        "of a KEM for TLS alone": stored(kem=b"ML-KEM-512"),
        "of a KEM in other letters": stored(kem=key.kem.lower().encode()),
    }
    return [
        good("§4", "a stored receiving key", sealed, receiving_pem=key.to_pem().decode()),
        *(bad("§4", f"a stored key {what}", sealed, "bad_key", receiving_pem=pem) for what, pem in cases.items()),
    ]
