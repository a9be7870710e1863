"""The recorded envelopes of tests/vectors/envelope, and how this implementation is led to open one of them.

A vector says what its receiver has and expects; everything is asked of the code that asks it in production: the roster,
the round, `content`.
"""

import base64
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aggregator.rounds import Receipt, Round, Terms
from pqfl_transport.content.codecs import decode, without_codec
from pqfl_transport.content.dtypes import DTYPES, dtype_word
from pqfl_transport.content.envelope import Prologue, decode_prologue, verify_prologue
from pqfl_transport.content.files import Sender, verified_prologue
from pqfl_transport.content.header import Header
from pqfl_transport.content.opening import MAX_WEIGHTS_BYTES, OpenedWeights, Opener, open_weights
from pqfl_transport.content.recipients import ReceivingKey
from pqfl_transport.content.shares import Combined, Contribution, combine
from pqfl_transport.content.tensors import parse
from pqfl_transport.crypto.pyca import BODY_CHUNK_BYTES, SigningKey, VerifyingKey
from pqfl_transport.errors import MessageError, PolicyError
from pqfl_transport.pki.roster import Party, Roster
from pqfl_transport.pki.spiffe import SpiffeId
from pqfl_transport.policy import Policy, SecurityLevel, for_level

FOLDER = Path(__file__).resolve().parents[1] / "vectors" / "envelope"
_WORDS = {dtype.str: word for word, dtype in DTYPES.items()}
_FAR = 1 << 40


def files() -> list[Path]:
    """Return the vector files."""
    return sorted(FOLDER.glob("*.json"))


def load(path: Path) -> list["Vector"]:
    """Return the vectors of a file."""
    facts = json.loads(path.read_text())
    return [Vector(path.stem, facts, entry) for entry in facts["vectors"]]


def rows_in_words(rows: list[list[Any]]) -> list[list[Any]]:
    """Return recorded tensors with the layout's words for types, whichever of the two they were recorded with."""
    return [[name, _WORDS.get(dtype, dtype), shape, data] for name, dtype, shape, data in rows]


@dataclass(frozen=True, slots=True)
class Vector:
    """One recorded envelope with the facts of its file."""

    file: str
    facts: dict[str, Any]
    entry: dict[str, Any]

    @property
    def name(self) -> str:
        """File and name."""
        return f"{self.file}: {self.entry['name']}"

    @property
    def envelope(self) -> bytes:
        """The envelope."""
        return base64.b64decode(self.entry["envelope"])

    @property
    def receiver(self) -> dict[str, Any]:
        """What the receiver expects."""
        found: dict[str, Any] = self.entry.get("receiver", {})
        return found

    @property
    def policy(self) -> Policy:
        """The receiver's policy."""
        policy = for_level(self.receiver.get("level", self.facts["level"]))
        assert set(self.receiver.get("suites", [])) <= set(policy.content_suites)
        return policy

    @property
    def tensors(self) -> list[list[Any]] | None:
        """The recorded tensors in the layout's words, where the envelope opens."""
        return rows_in_words(self.entry["tensors"]) if "tensors" in self.entry else None

    def open(self, folder: Path) -> OpenedWeights:
        """Open the envelope as its receiver; ``folder`` is for files. Raises what the vector expects."""
        receiving = self._receiving_key()
        sender = self._signing_key(self.facts["keys"]["sender"]).verifying_key
        if self.receiver:
            self._admit(sender, folder)
        if "contributions" in self.entry:
            return self._open_together(receiving, sender)
        return open_weights(
            self.envelope,
            receiving_key=receiving,
            sender_key=sender,
            policy=self.policy,
            key_source=self._source(),
            max_plaintext_bytes=self.receiver.get("max_plaintext_bytes"),
        )

    def combined(self) -> Combined:
        """Put the contributions together. Raises ``MessageError``."""
        sender = self._signing_key(self.facts["keys"]["sender"]).verifying_key
        prologue, _ = decode_prologue(self.envelope)
        verify_prologue(prologue, sender_key=sender, policy=self.policy)
        return self._combine(prologue, self._receiving_key(), sender)

    def _open_together(self, receiving: ReceivingKey, sender: VerifyingKey) -> OpenedWeights:
        prologue, rest = decode_prologue(self.envelope)
        verify_prologue(prologue, sender_key=sender, policy=self.policy)
        opener = Opener(prologue, self._combine(prologue, receiving, sender).key, sender_key=sender)
        plaintext = bytearray(len(rest) + 2 * BODY_CHUNK_BYTES)
        written = opener.update_into(rest, plaintext)
        weights, metadata = parse(plaintext[:written] + opener.finalize())
        decoded = decode(weights, metadata, prologue.header.codec, max_bytes=MAX_WEIGHTS_BYTES)
        return OpenedWeights(prologue.header, decoded, without_codec(metadata))

    def _combine(self, prologue: Prologue, receiving: ReceivingKey, sender: VerifyingKey) -> Combined:
        given = [(str(number), base64.b64decode(one)) for number, one in enumerate(self.entry["contributions"])]
        trustees: dict[str, str] | None = self.facts["keys"].get("trustees")

        def key_of(contribution: Contribution) -> VerifyingKey:
            if trustees is None:
                return sender
            if contribution.trustee not in trustees:
                raise MessageError("none of the trustees", reason="unknown_sender")
            return self._signing_key(trustees[contribution.trustee]).verifying_key

        return combine(prologue, given, receiving, key_of)

    def _receiving_key(self) -> ReceivingKey:
        if "receiving_pem" in self.entry:
            return ReceivingKey.from_pem(self.entry["receiving_pem"].encode())
        seeds = self.facts["keys"]
        seed = bytes.fromhex(seeds["combiner"] if "contributions" in self.entry else seeds["receiving"][self._key])
        return ReceivingKey.generate(for_level(self.facts["level"]).content_suite.kem, random=lambda _count: seed)

    @property
    def _key(self) -> int:
        key: int = self.entry["key"]
        return key

    def _signing_key(self, seed: str) -> SigningKey:
        return SigningKey.from_seed(for_level(self.facts["level"]).content_suite.signature, bytes.fromhex(seed))

    def _source(self) -> "Given | None":
        required = self.receiver.get("requires_extra_key", False)
        return Given(self.entry.get("extra", {}), required=required) if "extra" in self.entry or required else None

    def _admit(self, sender: VerifyingKey, folder: Path) -> None:
        """Ask policy, registry and round, each by its own code (§5, steps 2 to 4)."""
        prologue, _ = decode_prologue(self.envelope)
        header, receiver = prologue.header, self.receiver
        self.policy.require_content_suite(header.suite)
        if "sender" in receiver:
            path = folder / "envelope.pqfl"
            path.write_bytes(self.envelope)
            verified_prologue(path, Sender(receiver["sender"], sender, self.policy))
        if "senders" in receiver:
            party = self._roster(receiver["senders"], sender).party(header.sender)
            self._round(header).admit(prologue, party, receiver["now"])

    def _roster(self, senders: list[str], key: VerifyingKey) -> Roster:
        parties = {uri: Party(SpiffeId.parse(uri), key, b"", b"", 100) for uri in senders}
        return Roster("fed", SecurityLevel(self.facts["level"]), 1, 0, parties)

    def _round(self, header: Header) -> Round:
        receiver = self.receiver
        terms = Terms(
            federation=receiver["federation"], number=receiver["round"], suite=receiver["suite"],
            challenge=bytes.fromhex(receiver["challenge"]), base_digest=bytes.fromhex(receiver["base_model"]),
            receiving_fingerprint=bytes.fromhex(receiver["recipient"]),
            max_plaintext_bytes=receiver["max_plaintext_bytes"], expected=frozenset({header.sender}), quorum=1,
            deadline=_FAR, not_after=_FAR,
        )  # fmt: skip
        round_ = Round(terms)
        for accepted in receiver.get("accepted", []):
            round_._receipts[header.sender] = Receipt(
                terms.number, header.sender, bytes.fromhex(accepted), b"another", b""
            )
        return round_


class Given:
    """A source of the extra keys that a vector brings along."""

    def __init__(self, keys: dict[str, str], *, required: bool = False) -> None:
        self._keys, self._required = keys, required

    def fetch(self, prologue: Prologue) -> tuple[bytes, ...]:
        """Return the material that the header asks for."""
        header = prologue.header
        if self._required and not header.extra_key_ids:
            raise PolicyError("an extra key is required", reason="no_extra_key")
        if missing := [name for name in header.extra_key_ids if name not in self._keys]:
            raise MessageError(f"no extra key {missing[0]!r}", reason="extra_key")
        return tuple(bytes.fromhex(self._keys[name]) for name in header.extra_key_ids)

    def settle(self, prologue: Prologue) -> None:
        """Forget nothing: the same vector may be opened again."""


def opened_rows(opened: OpenedWeights) -> list[list[Any]]:
    """Return opened tensors as vectors record them, in the layout's words."""
    weights = opened.weights if isinstance(opened.weights, dict) else dict(enumerate(opened.weights))
    return [
        [str(name), dtype_word(array.dtype, str(name)), list(array.shape), array.tobytes().hex()]
        for name, array in weights.items()
    ]
