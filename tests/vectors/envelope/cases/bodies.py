"""Bodies, trailers and thresholds: what somebody who holds a key, or a share, can try; ENVELOPE.md §6 and §8."""

import hashlib
from typing import Any

from pqfl_transport.algorithms import content_suite
from pqfl_transport.content.envelope import Prologue
from pqfl_transport.content.sealing import share_hash
from pqfl_transport.crypto.contexts import Context, length_prefixed
from pqfl_transport.crypto.pyca import BODY_CHUNK_BYTES, SigningKey
from pqfl_transport.crypto.shamir import split_secret
from tests.support.envelopes import Keys, split
from tests.support.forging import SMALL, Forgery, contribution, layout, resealed_by_recipient
from tests.vectors.envelope.cases.entries import Entry, bad, encode, good

TRUSTEES = ("spiffe://fed/operator/ada", "spiffe://fed/operator/bob", "spiffe://fed/operator/cy")


def bodies(keys: Keys) -> list[Entry]:
    """Return envelopes whose body or trailer is not the sender's."""
    one, two = Forgery(keys=keys), Forgery(keys=keys, recipients=(keys.receiving, keys.other))
    sealed, shared = one.seal(), two.seal()
    prologue, body, _ = split(sealed)
    empty = layout("{}")
    return [
        good("§6", "two recipients, the second opens", shared, key=1),
        good("§7", "a model without tensors", one.having(plaintext=empty).seal(), tensors=[], metadata={}),
        bad("§3", "a body shorter than the header says", _announcing(one, len(SMALL) + 1), "truncated"),
        bad("§3", "another envelope's body", prologue.raw + split(one.having(salt=b"t" * 24).seal())[1], "bad_body"),
        bad("§3", "a bit of the body changed", prologue.raw + bytes([body[0] ^ 1]) + body[1:], "bad_body"),
        *_chunks(one),
        *_resealed(keys, shared),
        *_trailers(two, shared),
    ]


def _announcing(forged: Forgery, length: int) -> bytes:
    return forged.having(items={"length": length.to_bytes(8, "big")}).seal()


def _chunks(forged: Forgery) -> list[Entry]:
    size = 2 * BODY_CHUNK_BYTES - 72
    plaintext = layout(f'{{"w":{{"dtype":"U8","shape":[{size}],"data_offsets":[0,{size}]}}}}', bytes(size))
    rows = [["w", "|u1", [size], bytes(size).hex()]]
    # Length and header take 72 bytes, so the last chunk is empty.
    assert len(plaintext) == 2 * BODY_CHUNK_BYTES
    prologue, body, _ = split(forged.having(plaintext=plaintext).seal())
    size = BODY_CHUNK_BYTES + 16
    first, second, last = body[:size], body[size : 2 * size], body[2 * size :]
    return [
        good("§3", "two full chunks and an empty one", prologue.raw + body, tensors=rows, metadata={}),
        bad("§3", "chunks in another order", prologue.raw + second + first + last, "bad_body"),
        bad("§3", "a chunk twice", prologue.raw + first + first + last, "bad_body"),
        bad("§3", "cut behind a full chunk", prologue.raw + first, "truncated"),
        bad("§3", "cut before the last, empty chunk", prologue.raw + first + second, "truncated"),
    ]


def _resealed(keys: Keys, shared: bytes) -> list[Entry]:
    prologue, _, trailer = split(shared)
    insider = keys.receiving
    body = resealed_by_recipient(shared, insider, SMALL.replace(b"42", b"99"))
    name = "a recipient re-seals under the original salt and commitment"
    mine = SigningKey.from_seed(keys.signing.algorithm, b"i" * 32)
    digest = hashlib.sha256(prologue.commitment + body).digest()
    signed = mine.sign(length_prefixed(prologue.raw, digest), Context.TRAILER)
    unflagged = length_prefixed(
        prologue.header_bytes.replace(b"\0\0\0\1\1", b"\0\0\0\1\0", 1), prologue.wrapped_bytes, prologue.commitment,
        prologue.signature,
    )  # fmt: skip
    return [
        bad("§6", f"{name}, with the original trailer", prologue.raw + body + trailer, "bad_trailer", key=1),
        bad("§6", f"{name}, with a trailer of its own", prologue.raw + body + signed, "bad_trailer", key=1),
        bad("§6", f"{name}, without a trailer", prologue.raw + body, "truncated", key=1),
        bad("§6", f"{name}, and takes the trailer's flag away", unflagged + body, "no_trailer", key=1),
    ]


def _trailers(two: Forgery, shared: bytes) -> list[Entry]:
    prologue, body, trailer = split(shared)
    one = Forgery(keys=two.keys, items={"flags": b"\x01"})
    alone = one.seal()
    single, single_body, _ = split(alone)
    unflagged = length_prefixed(
        single.header_bytes.replace(b"\0\0\0\1\1", b"\0\0\0\1\0", 1), single.wrapped_bytes, single.commitment,
        single.signature,
    )  # fmt: skip
    return [
        good("§6", "one recipient and a trailer", alone),
        bad("§6", "the trailer stripped", single.raw + single_body, "truncated"),
        bad("§6", "the trailer and its flag stripped", unflagged + single_body, "bad_signature"),
        bad("§6", "the trailer of another envelope", prologue.raw + body + split(alone)[2], "bad_trailer"),
        bad("§6", "a trailer of zeros", prologue.raw + body + bytes(len(trailer)), "bad_trailer"),
        bad("§6", "a trailer in the context of prologues", two.having(trailer_context=Context.PROLOGUE).seal(),
            "bad_trailer"),
        bad("§6", "a trailer over half the body",
            two.having(parts={"trailer": two.keys.signing.sign(prologue.raw, Context.TRAILER)}).seal(), "bad_trailer"),
    ]  # fmt: skip


def thresholds(keys: Keys, signers: dict[str, SigningKey]) -> list[Entry]:
    """Return envelopes that two of three trustees open, with contributions of all kinds."""
    made = _Shared(keys, signers)
    first, second, third = (made.contribution(number) for number in (1, 2, 3))
    opened = [
        good("§8", f"two of three: {' and '.join(names)}", made.envelope, contributions=[encode(one) for one in found])
        for names, found in (
            (("ada", "bob"), (first, second)), (("cy", "ada"), (third, first)), (("bob", "cy"), (second, third)),
        )
    ]  # fmt: skip
    liar = made.contribution(2, share=b"\x02" + b"x" * 32)
    good_liar = [encode(first), encode(liar), encode(third)]
    refused = [
        bad("§8", f"a contribution {what}", made.envelope, "too_few_shares",
            contributions=[encode(first), encode(one)], refused=[reason])
        for what, one, reason in made.wrong()
    ]  # fmt: skip
    lied = made.lying()
    return [
        *opened,
        good("§8", "three of three contribute", made.envelope,
             contributions=[encode(first), encode(second), encode(third)]),
        good("§8", "a liar among three is left out", made.envelope, contributions=good_liar, refused=["bad_share"]),
        bad("§8", "nobody contributes", made.envelope, "too_few_shares", contributions=[]),
        bad("§8", "one alone", made.envelope, "too_few_shares", contributions=[encode(first)]),
        bad("§8", "one twice", made.envelope, "too_few_shares", contributions=[encode(first)] * 2,
            refused=["duplicate"]),
        *refused,
        bad("§8", "a trustee's own key", made.envelope, "threshold"),
        bad("§8", "contributions to an envelope that each opens alone",
            Forgery(keys=keys, recipients=made.trustees).seal(), "threshold", contributions=[encode(first)]),
        lied,
    ]  # fmt: skip


class _Shared:
    """One envelope for two of three, its shares, and contributions to it."""

    def __init__(self, keys: Keys, signers: dict[str, SigningKey]) -> None:
        self.keys, self.signers = keys, signers
        self.trustees = (keys.receiving, keys.other, keys.combiner)
        numbers = iter(range(1, 9))
        found = split_secret(b"k" * 32, 2, 3, random=lambda count: bytes([next(numbers)]) * count)
        self.shares = tuple(bytes([index]) + share for index, share in found.items())
        self.envelope = self._seal(tuple(share_hash(share) for share in self.shares))
        self.prologue = split(self.envelope)[0]

    def _seal(self, hashes: tuple[bytes, ...], content_key: bytes = b"k" * 32) -> bytes:
        item = length_prefixed(b"\x02", *hashes)
        return Forgery(
            keys=self.keys, recipients=self.trustees, items={"threshold": item}, wrapped_plaintexts=self.shares,
            content_key=content_key,
        ).seal()  # fmt: skip

    def contribution(self, number: int, prologue: Prologue | None = None, **changes: Any) -> bytes:
        """Return trustee ``number``'s contribution, good but for what is given."""
        prologue = prologue or self.prologue
        name = changes.pop("trustee", TRUSTEES[number - 1])
        signing = changes.pop("signing", self.signers[TRUSTEES[number - 1]])
        combiner = changes.pop("combiner", self.keys.combiner.public)
        facts = [
            changes.pop("tag", b"pqfl-contribution/v1"),
            changes.pop("digest", hashlib.sha256(prologue.raw).digest()),
            changes.pop("index", bytes([number])),
            name.encode(),
            changes.pop("signer", signing.verifying_key.fingerprint),
            changes.pop("combiner_fingerprint", combiner.fingerprint),
        ]
        aead = content_suite(self.keys.parameters.suite).aead
        share = changes.pop("share", self.shares[number - 1])
        return contribution(facts, share, combiner, signing, aead=aead, **changes)

    def wrong(self) -> list[tuple[str, bytes, str]]:
        """Return second contributions that do not hold, beside a first one that does."""
        make, own, ada = self.contribution, self.contribution(2), self.signers[TRUSTEES[0]]
        other = split(self._seal(tuple(share_hash(share) for share in self.shares)))[0]
        return [
            ("of other bytes", b"no contribution", "malformed"),
            ("without its certificate", own[:-4], "malformed"),
            ("with a part behind it", own + length_prefixed(b""), "malformed"),
            ("of another version", make(2, tag=b"pqfl-contribution/v2"), "malformed"),
            ("with the index 0", make(2, index=b"\0"), "malformed"),
            ("with an index of two bytes", make(2, index=b"\0\2"), "malformed"),
            ("with a digest of 31 bytes", make(2, digest=b"x" * 31), "malformed"),
            ("of a trustee without a name", make(2, trustee=""), "malformed"),
            ("of a trustee that nobody knows", make(2, trustee="spiffe://fed/operator/dan"), "unknown_sender"),
            ("to another envelope", make(2, other), "wrong_envelope"),
            ("with the index 4", make(2, index=b"\4"), "wrong_envelope"),
            ("to another combiner", make(2, combiner=self.keys.other.public), "not_for_us"),
            ("sealed to another combiner than it says",
             make(2, combiner=self.keys.other.public, combiner_fingerprint=self.keys.combiner.fingerprint),
             "not_for_us"),
            ("with a changed wrapped share", make(2, wrapped=bytes(1169)), "not_for_us"),
            ("signed with another trustee's key, which it names", make(2, signing=ada), "wrong_sender_key"),
            ("signed with another trustee's key under the right fingerprint",
             make(2, signing=ada, signer=self.signers[TRUSTEES[1]].verifying_key.fingerprint), "bad_signature"),
            ("signed in the context of prologues", make(2, context=Context.PROLOGUE), "bad_signature"),
            ("of a liar: a share of its own", make(2, share=b"\2" + b"x" * 32), "bad_share"),
            ("of a liar: another trustee's share", make(2, share=self.shares[2]), "bad_share"),
            ("of a liar: another trustee's share under its own index",
             make(2, share=b"\2" + self.shares[2][1:]), "bad_share"),
            ("with a share of 31 bytes", make(2, share=self.shares[1][:-1]), "bad_share"),
            ("of another name and the same share", make(1, trustee=TRUSTEES[1], signing=self.signers[TRUSTEES[1]]),
             "duplicate"),
        ]  # fmt: skip

    def lying(self) -> Entry:
        """Return an envelope whose sender shared another key than the body's: every share fits its hash."""
        envelope = self._seal(tuple(share_hash(share) for share in self.shares), content_key=b"x" * 32)
        prologue = split(envelope)[0]
        found = [encode(self.contribution(number, prologue)) for number in (1, 2)]
        return bad("§8", "a sender that shared another key than the body's", envelope, "bad_body", contributions=found)


def shared_contributions(keys: Keys, signers: dict[str, SigningKey]) -> tuple[bytes, list[bytes]]:
    """Return an envelope for two of three together, and two contributions that open it."""
    made = _Shared(keys, signers)
    return made.envelope, [made.contribution(number) for number in (1, 3)]
