"""The messages of a round of secure aggregation: one byte layout, parsed strictly (SECAGG.md §2).

    message = LP(signed, signature, attachment)
    signed  = LP("pqfl-secagg/v1", kind, federation, round, transcript, sender, body…)

An attachment is not signed itself; the body holds the hash of every part of it. Nothing is allocated for a message
beyond the cap of its kind, and a message that parses is written again to the same bytes.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import Self

from pqfl_transport.aggregation.secagg.parameters import MAX_SITES, MODEL_DIGEST_BYTES, NUMBER_BYTES, RoundParameters
from pqfl_transport.crypto.contexts import Context, length_prefixed, split_prefixed
from pqfl_transport.crypto.pyca import SigningKey, VerifyingKey
from pqfl_transport.errors import MessageError

SECRET_BYTES = 32
"""Length of every secret of the protocol, and so of every share of one."""
SALT_BYTES = 16
DIGEST_BYTES = (32, 48)
"""What transcripts and commitments may be long."""

_TAG = b"pqfl-secagg/v1"
_PARTS = 3
_FIELDS = 6
_MAX_NAME_BYTES = 256
_MAX_SIGNATURE_BYTES = 8 << 10
_MAX_PUBLIC_KEY_BYTES = 4 << 10
_MAX_SEALED_BYTES = 4 << 10
_KIB = 1 << 10
_PACKET_ITEMS = 5
_SHARE_FIELDS_BYTES = 2 + SECRET_BYTES + SALT_BYTES


class Kind(Enum):
    """Each kind of message: its word, the context of its signature, the most bytes, the number of body items."""

    ADVERTISE = ("advertise", Context.SECAGG_ADVERTISE, 16 * _KIB, 5)
    ADVERTISED = ("advertised", Context.SECAGG_ADVERTISED, 512 * _KIB, 1)
    SHARE = ("share", Context.SECAGG_SHARE, 384 * _KIB, 2)
    SHARED = ("shared", Context.SECAGG_SHARED, 768 * _KIB, 2)
    UPLOADED = ("uploaded", Context.SECAGG_UPLOADED, 16 * _KIB, 1)
    CONSISTENCY = ("consistency", Context.SECAGG_CONSISTENCY, 16 * _KIB, 1)
    AGREED = ("agreed", Context.SECAGG_AGREED, 512 * _KIB, 2)
    UNMASK = ("unmask", Context.SECAGG_UNMASK, 16 * _KIB, 2)

    @property
    def word(self) -> str:
        """How the message calls itself."""
        return self.value[0]

    @property
    def context(self) -> Context:
        """The ML-DSA context string of its signature."""
        return self.value[1]

    @property
    def max_bytes(self) -> int:
        """The most that a message of this kind may be long, attachment included."""
        return self.value[2]

    @property
    def items(self) -> int:
        """How many items its body has."""
        return self.value[3]


_BY_WORD = {kind.word.encode("ascii"): kind for kind in Kind}


class Secret(Enum):
    """Which of a site's two secrets a share is of. Nobody may ever release both kinds for one site."""

    SELF_MASK = 1
    """Of the seed of the mask that a site puts on by itself: for sites whose update arrived."""
    MASTER = 2
    """Of what all of a site's pair keys derive from: for sites that dropped out."""


@dataclass(frozen=True, slots=True)
class Message:
    """A message as it was received: nothing in it has been verified."""

    kind: Kind
    federation: str
    round: int
    transcript: bytes
    sender: str
    """SPIFFE ID that the signer claims."""
    body: tuple[bytes, ...] = field(repr=False)
    signed: bytes = field(repr=False)
    signature: bytes = field(repr=False)
    attachment: bytes = field(repr=False)

    @property
    def statement(self) -> bytes:
        """The message without its attachment: what the signature vouches for, to be handed on."""
        return length_prefixed(self.signed, self.signature, b"")

    @property
    def raw(self) -> bytes:
        """The bytes that were received."""
        return length_prefixed(self.signed, self.signature, self.attachment)


@dataclass(frozen=True, slots=True)
class Advertise:
    """Step 1, a site: the keys of this round, for what it has seen of the round."""

    model_digest: bytes
    roster_number: int
    suite: str
    transport_key: bytes
    """``pk_c``, raw: shares are sealed to it."""
    mask_key: bytes
    """``pk_s``, raw: halves of pair keys are sealed to it."""

    def encode(self) -> tuple[bytes, ...]:
        """Return the body."""
        return (
            self.model_digest, self.roster_number.to_bytes(NUMBER_BYTES, "big"), self.suite.encode("ascii"),
            self.transport_key, self.mask_key,
        )  # fmt: skip

    @classmethod
    def decode(cls, message: Message) -> Self:
        """Read the body. Raises ``MessageError`` (``malformed``)."""
        digest, roster, suite, transport, mask = message.body
        return cls(
            _fixed("model digest", digest, MODEL_DIGEST_BYTES),
            int.from_bytes(_fixed("roster number", roster, NUMBER_BYTES), "big"),
            _text("suite", suite),
            _bounded("transport key", transport, _MAX_PUBLIC_KEY_BYTES),
            _bounded("mask key", mask, _MAX_PUBLIC_KEY_BYTES),
        )


@dataclass(frozen=True, slots=True)
class Packet:
    """What one Share holds for one holder: two ciphertexts, and commitments that holder and server check."""

    sealed_shares: bytes
    """The shares of both secrets with their salts, sealed to the holder's ``pk_c``; empty in a site's own packet."""
    sealed_key: bytes
    """Half of the pair key, sealed to the holder's ``pk_s``; empty in a site's own packet."""
    self_mask_commitment: bytes
    master_commitment: bytes
    key_commitment: bytes
    """Of the half of the pair key; empty in a site's own packet."""

    def encode(self) -> bytes:
        """Return the packet as an attachment holds it."""
        return length_prefixed(
            self.sealed_shares, self.sealed_key, self.self_mask_commitment, self.master_commitment, self.key_commitment
        )

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Read a packet. Raises ``MessageError`` (``malformed``)."""
        items = _split("packet", data, _PACKET_ITEMS)
        if len(items) != _PACKET_ITEMS:
            raise _malformed("packet", f"{len(items)} items and not {_PACKET_ITEMS}")
        if max(len(items[0]), len(items[1])) > _MAX_SEALED_BYTES:
            raise _malformed("packet", "a ciphertext that is too long")
        for commitment in items[2:4]:
            _fixed("commitment", commitment, *DIGEST_BYTES)
        if len({bool(items[0]), bool(items[1]), bool(items[4])}) != 1:
            raise _malformed("packet", "neither of one's own nor for somebody else")
        _fixed("commitment", items[4], 0, *DIGEST_BYTES)
        return cls(*items)


@dataclass(frozen=True, slots=True)
class Share:
    """Step 2, a site: what it commits to. The packets themselves are the attachment, in the order of their hashes."""

    seed_commitment: bytes
    """Of the self-mask seed."""
    packet_hashes: tuple[tuple[int, bytes], ...]
    """(index of the holder, hash of its packet), the site's own included, by ascending index."""

    def encode(self) -> tuple[bytes, ...]:
        """Return the body."""
        hashes = (bytes([index]) + digest for index, digest in self.packet_hashes)
        return self.seed_commitment, length_prefixed(*hashes)

    @classmethod
    def decode(cls, message: Message) -> Self:
        """Read the body. Raises ``MessageError`` (``malformed``)."""
        seed, hashes = message.body
        found = tuple(
            (item[0], item[1:])
            for item in _split("packet hashes", hashes, MAX_SITES)
            if _fixed("packet hash", item, *(1 + size for size in DIGEST_BYTES))
        )
        _require_ascending("packet hashes", [index for index, _ in found])
        return cls(_fixed("commitment", seed, *DIGEST_BYTES), found)


@dataclass(frozen=True, slots=True)
class Shared:
    """Step 2, the server: ``T2``, and the statements of all whose Share arrived, in the order of their indices.

    The attachment holds the packets for the reader, in the same order, without one of its own.
    """

    transcript: bytes
    """``T2``, which steps 3 to 5 are bound to."""
    statements: tuple[bytes, ...]

    def encode(self) -> tuple[bytes, ...]:
        """Return the body."""
        return self.transcript, length_prefixed(*self.statements)

    @classmethod
    def decode(cls, message: Message) -> Self:
        """Read the body. Raises ``MessageError`` (``malformed``)."""
        transcript, statements = message.body
        return cls(_fixed("transcript", transcript, *DIGEST_BYTES), tuple(_split("statements", statements, MAX_SITES)))


@dataclass(frozen=True, slots=True)
class Survivors:
    """Steps 3 and 4: ``U2``, those whose upload arrived, by ascending index."""

    indices: tuple[int, ...]

    def encode(self) -> tuple[bytes, ...]:
        """Return the body."""
        return (bytes(self.indices),)

    @classmethod
    def decode(cls, message: Message) -> Self:
        """Read the first item of the body. Raises ``MessageError`` (``malformed``)."""
        return cls(_indices("survivors", message.body[0]))


@dataclass(frozen=True, slots=True)
class ReleasedShare:
    """A share that a site releases, with the salt that opens its commitment."""

    owner: int
    secret: Secret
    share: bytes = field(repr=False)
    salt: bytes = field(repr=False)

    def encode(self) -> bytes:
        """Return 50 bytes."""
        return bytes([self.owner, self.secret.value]) + self.share + self.salt


@dataclass(frozen=True, slots=True)
class Unmask:
    """Step 5, a site: one share of every site of U1 that it has one of, by ascending index of the owner."""

    survivors: tuple[int, ...]
    shares: tuple[ReleasedShare, ...]

    def encode(self) -> tuple[bytes, ...]:
        """Return the body."""
        return bytes(self.survivors), length_prefixed(*(share.encode() for share in self.shares))

    @classmethod
    def decode(cls, message: Message) -> Self:
        """Read the body. Raises ``MessageError`` (``malformed``)."""
        shares = tuple(_released(item) for item in _split("shares", message.body[1], MAX_SITES))
        _require_ascending("shares", [share.owner for share in shares])
        return cls(_indices("survivors", message.body[0]), shares)


def split_many(message: Message, item: bytes) -> tuple[bytes, ...]:
    """Return the messages, statements or packets that a message carries. Raises ``MessageError`` (``malformed``)."""
    return tuple(_split(message.kind.word, item, MAX_SITES))


def sign_message(
    parameters: RoundParameters, kind: Kind, transcript: bytes, sender: tuple[str, SigningKey], body: Iterable[bytes]
) -> Message:
    """Return a signed message without an attachment. Takes about half a millisecond: off the event loop."""
    name, key = sender
    signed = length_prefixed(
        _TAG, kind.word.encode("ascii"), parameters.federation.encode("ascii"),
        parameters.round.to_bytes(NUMBER_BYTES, "big"), transcript, name.encode("ascii"), *body,
    )  # fmt: skip
    return parse_message(length_prefixed(signed, key.sign(signed, kind.context), b""))


def parse_message(data: bytes) -> Message:
    """Take a message of any kind apart. Raises ``MessageError`` (``malformed``, ``too_large``)."""
    largest = max(kind.max_bytes for kind in Kind)
    if len(data) > largest:
        raise MessageError(f"a message of {len(data)} bytes; {largest} are allowed", reason="too_large")
    parts = _split("message", data, _PARTS)
    if len(parts) != _PARTS:
        raise _malformed("message", f"{len(parts)} parts and not {_PARTS}")
    signed, signature, attachment = parts
    items = _split("signed part", signed, _FIELDS + max(kind.items for kind in Kind))
    if len(items) < _FIELDS or items[0] != _TAG or items[1] not in _BY_WORD:
        raise _malformed("message", "not a message of secure aggregation of version 1")
    kind = _BY_WORD[items[1]]
    if len(data) > kind.max_bytes:
        raise MessageError(f"{kind.word}: {len(data)} bytes; {kind.max_bytes} are allowed", reason="too_large")
    if len(items) != _FIELDS + kind.items:
        raise _malformed(kind.word, f"{len(items) - _FIELDS} items and not {kind.items}")
    if attachment and kind not in {Kind.SHARE, Kind.SHARED}:
        raise _malformed(kind.word, "takes no attachment")
    return Message(
        kind=kind,
        federation=_text("federation", items[2]),
        round=int.from_bytes(_fixed("round", items[3], NUMBER_BYTES), "big"),
        transcript=_fixed("transcript", items[4], *DIGEST_BYTES),
        sender=_text("sender", items[5]),
        body=tuple(items[_FIELDS:]),
        signed=signed,
        signature=_bounded("signature", signature, _MAX_SIGNATURE_BYTES),
        attachment=attachment,
    )


def verify_message(message: Message, parameters: RoundParameters, kind: Kind, transcript: bytes) -> None:
    """Raise ``MessageError`` unless this is an authentic message of this kind, round and transcript.

    Reasons: ``wrong_kind``, ``wrong_round`` for another federation or round, ``unknown_sender`` for one that the roster
    does not list in this role, ``bad_signature``, ``wrong_transcript`` for an authentic message whose signer saw
    another round than we did.
    """
    if message.kind is not kind:
        raise MessageError(f"{message.kind.word} where {kind.word} is expected", reason="wrong_kind")
    if (message.federation, message.round) != (parameters.federation, parameters.round):
        raise MessageError(
            f"{kind.word} of round {message.round} of {message.federation!r}: it is not of this round",
            reason="wrong_round",
        )
    try:
        _key_of(message, parameters).verify(message.signature, message.signed, kind.context)
    except MessageError as error:
        raise MessageError(f"{kind.word} of {message.sender[:200]!r}: {error}", reason=error.reason) from None
    if message.transcript != transcript:
        raise MessageError(
            f"{kind.word} of {message.sender}: signed for another transcript than ours", reason="wrong_transcript"
        )


_OF_SITES = frozenset({Kind.ADVERTISE, Kind.SHARE, Kind.CONSISTENCY, Kind.UNMASK})


def _key_of(message: Message, parameters: RoundParameters) -> VerifyingKey:
    if message.kind in _OF_SITES and message.sender in parameters.sites:
        return parameters.sites[message.sender]
    if message.kind not in _OF_SITES and message.sender == parameters.aggregator:
        return parameters.aggregator_key
    raise MessageError(f"is nobody who sends it in roster {parameters.roster_number}", reason="unknown_sender")


def _released(item: bytes) -> ReleasedShare:
    _fixed("share", item, _SHARE_FIELDS_BYTES)
    if item[1] not in {secret.value for secret in Secret}:
        raise _malformed("share", "of neither secret")
    end = 2 + SECRET_BYTES
    return ReleasedShare(item[0], Secret(item[1]), item[2:end], item[end:])


def _indices(what: str, data: bytes) -> tuple[int, ...]:
    _require_ascending(what, list(data))
    return tuple(data)


def _require_ascending(what: str, indices: list[int]) -> None:
    if not indices or indices[0] < 1 or indices[-1] > MAX_SITES or indices != sorted(set(indices)):
        raise _malformed(what, f"not some of 1 to {MAX_SITES} in ascending order, each once")


def _split(what: str, data: bytes, maximum: int) -> list[bytes]:
    try:
        return split_prefixed(data, maximum=maximum)
    except MessageError as error:
        raise _malformed(what, str(error)) from None


def _text(what: str, data: bytes) -> str:
    if not 0 < len(data) <= _MAX_NAME_BYTES or not data.isascii():
        raise _malformed(what, "not 1 to 256 ASCII characters")
    return data.decode("ascii")


def _fixed(what: str, data: bytes, *lengths: int) -> bytes:
    if len(data) not in lengths:
        raise _malformed(what, f"{len(data)} bytes")
    return data


def _bounded(what: str, data: bytes, most: int) -> bytes:
    if not 0 < len(data) <= most:
        raise _malformed(what, f"{len(data)} bytes")
    return data


def _malformed(what: str, why: str) -> MessageError:
    return MessageError(f"malformed message of secure aggregation: {what}: {why}", reason="malformed")
