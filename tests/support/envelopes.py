"""Envelopes for tests: fixed keys, one small model, and the four parts of a sealed one taken apart."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pqfl_transport.content.envelope import Prologue, decode_prologue, encode_prologue, trailer_bytes
from pqfl_transport.content.header import encode_header
from pqfl_transport.content.opening import OpenedWeights, open_weights
from pqfl_transport.content.recipients import ReceivingKey
from pqfl_transport.content.sealing import EnvelopeParameters, seal_weights
from pqfl_transport.crypto.contexts import Context
from pqfl_transport.crypto.pyca import SigningKey
from pqfl_transport.policy import Policy, SecurityLevel, for_level

SENDER = "spiffe://fed/site/bank-a"
WEIGHTS: dict[str, np.ndarray[Any, np.dtype[Any]]] = {
    "w": np.arange(30_000, dtype=np.float32).reshape(3, 100, 100), "b": np.linspace(-1, 1, 7), "step": np.array(9),
}  # fmt: skip
"""Large enough for several chunks of the body."""


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys of one level: a sender's, a recipient's, another recipient's, a combiner's."""

    policy: Policy
    signing: SigningKey
    receiving: ReceivingKey
    other: ReceivingKey
    combiner: ReceivingKey
    """Of who opens with the contributions of others."""

    @property
    def parameters(self) -> EnvelopeParameters:
        """Parameters of a good update."""
        return EnvelopeParameters(
            suite=self.policy.content_suite.id, federation="fed", sender=SENDER, direction="update", round=3,
            challenge=b"c" * 32, not_after=2_000_000_000, base_model_digest=b"d" * 32,
        )  # fmt: skip

    def seal(
        self,
        weights: Any = None,
        *,
        metadata: Mapping[str, str] | None = None,
        recipients: Sequence[ReceivingKey] | None = None,
        signing: SigningKey | None = None,
        **changes: Any,
    ) -> memoryview:
        """Seal weights, good but for what is given."""
        chosen = [key.public for key in (recipients or [self.receiving])]
        parameters = replace(self.parameters, **changes)
        return seal_weights(
            WEIGHTS if weights is None else weights, parameters, chosen, signing or self.signing, metadata
        )  # fmt: skip

    def open(self, envelope: bytes | bytearray, **changes: Any) -> OpenedWeights:
        """Open an envelope as its recipient does."""
        options: dict[str, Any] = {
            "receiving_key": self.receiving, "sender_key": self.signing.verifying_key, "policy": self.policy,
        }  # fmt: skip
        return open_weights(envelope, **(options | changes))

    def resign(self, prologue: Prologue, *, signing: SigningKey | None = None, **changes: Any) -> bytes:
        """Change header fields of a prologue and sign it again, as somebody with a signing key could."""
        header = encode_header(replace(prologue.header, **changes))
        changed = replace(prologue, header_bytes=header)
        signature = (signing or self.signing).sign(changed.signed_bytes, Context.PROLOGUE)
        return encode_prologue(header, prologue.wrapped, prologue.commitment, signature).raw


def make_keys(level: SecurityLevel | str = "high") -> Keys:
    """Make keys from fixed seeds, so that two runs work with the same ones."""
    policy = for_level(level)
    suite = policy.content_suite
    seeds = iter(bytes([number]) * 64 for number in range(1, 9))
    receiving, other, combiner = (
        ReceivingKey.generate(suite.kem, random=lambda count: next(seeds)[:count]) for _ in range(3)
    )  # fmt: skip
    return Keys(policy, SigningKey.from_seed(suite.signature, bytes(range(32))), receiving, other, combiner)


def split(envelope: bytes | bytearray) -> tuple[Prologue, bytes, bytes]:
    """Take an envelope apart: prologue, body behind the commitment, trailer."""
    prologue, rest = decode_prologue(bytes(envelope))
    cut = len(rest) - trailer_bytes(prologue.header)
    return prologue, rest[:cut], rest[cut:]
