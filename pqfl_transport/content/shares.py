"""Opening by t of n trustees: what each contributes, and what the one who combines makes of it (ENVELOPE.md §8).

Theory of operation. Each trustee finds in the prologue its share of the content key, wrapped to its own receiving key.
It seals that share to the combiner and signs the result together with the prologue's digest, so a contribution serves
this envelope and this combiner alone and an eavesdropper gains nothing. The header, which the sender signed, holds the
hash of every share: a wrong one is recognised by itself, before anything is combined, and its trustee named.
"""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from pqfl_transport.algorithms import content_suite
from pqfl_transport.content.envelope import SHARE_BYTES, Prologue
from pqfl_transport.content.header import FINGERPRINT_BYTES, MAX_NAME_BYTES, split_items
from pqfl_transport.content.opening import ContentKey, unwrap_secret
from pqfl_transport.content.recipients import ReceivingKey, RecipientKey
from pqfl_transport.content.sealing import share_hash
from pqfl_transport.crypto.contexts import Context, Label, length_prefixed
from pqfl_transport.crypto.pyca import SigningKey, VerifyingKey
from pqfl_transport.crypto.shamir import combine_shares
from pqfl_transport.errors import ConfigurationError, MessageError, PqflError

MAX_CONTRIBUTION_BYTES = 256 * 1024

_TAG = b"pqfl-contribution/v1"
_PARTS = 3
_ITEMS = 7


@dataclass(frozen=True, slots=True)
class Contribution:
    """One trustee's contribution as it was received: nothing in it has been verified."""

    index: int
    """The share's index, 1 to n: the trustee's place among the envelope's recipients."""
    trustee: str
    """SPIFFE ID that the signer claims."""
    signer_fingerprint: bytes
    """Of the signing key, 32 bytes."""
    certificate: bytes
    """DER of the signing certificate that the trustee sent along; what it is worth is the reader's decision."""
    prologue_digest: bytes = field(repr=False)
    combiner: bytes = field(repr=False)
    wrapped: bytes = field(repr=False)
    binding: bytes = field(repr=False)
    signed: bytes = field(repr=False)
    signature: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Refused:
    """A contribution that did not hold: where it came from, whose it says it is, what is wrong."""

    source: str
    trustee: str
    error: PqflError


@dataclass(frozen=True, slots=True)
class Combined:
    """A content key that enough trustees restored, and the contributions that were refused on the way."""

    key: ContentKey
    trustees: tuple[str, ...]
    refused: tuple[Refused, ...]


KeyLookup = Callable[[Contribution], VerifyingKey]
"""Returns the key that may sign for ``contribution.trustee``, from the reader's registry, or raises."""


def contribute(
    prologue: Prologue,
    receiving_key: ReceivingKey,
    combiner: RecipientKey,
    *,
    trustee: str,
    signing_key: SigningKey,
    certificate: bytes,
) -> bytes:
    """Return a trustee's contribution to opening the envelope of this *verified* prologue.

    ``certificate`` is the DER of ``signing_key``'s certificate. Raises ``MessageError`` (``not_for_us``, ``threshold``
    where the envelope is not for several together) and ``ConfigurationError`` (``wrong_key``) where the combiner's or
    the signing key is of another algorithm than the suite's.
    """
    header, suite = prologue.header, content_suite(prologue.header.suite)
    if not header.threshold:
        raise MessageError("the envelope opens for each recipient alone and takes no contributions", reason="threshold")
    if combiner.kem != suite.kem or signing_key.algorithm != suite.signature:
        raise ConfigurationError(
            f"{suite.id} takes contributions sealed with {suite.kem} and signed with {suite.signature}, not"
            f" {combiner.kem} and {signing_key.algorithm}",
            reason="wrong_key",
        )
    share = _share(prologue, receiving_key)
    facts = (
        _TAG,
        hashlib.sha256(prologue.raw).digest(),
        share[:1],
        trustee.encode("ascii"),
        signing_key.verifying_key.fingerprint,
        combiner.fingerprint,
    )
    wrapped = combiner.wrap(share, length_prefixed(*facts), label=Label.SHARE_WRAP, aead=suite.aead)
    signed = length_prefixed(*facts, wrapped)
    return length_prefixed(signed, signing_key.sign(signed, Context.CONTRIBUTION), certificate)


def parse_contribution(data: bytes) -> Contribution:
    """Take a contribution apart. Raises ``MessageError`` (``malformed``, ``too_large``)."""
    if len(data) > MAX_CONTRIBUTION_BYTES:
        raise MessageError(f"a contribution of {len(data)} bytes", reason="too_large")
    parts = split_items(data, "contribution", maximum=_PARTS)
    if len(parts) != _PARTS:
        raise _malformed(f"{len(parts)} parts and not {_PARTS}")
    signed, signature, certificate = parts
    items = split_items(signed, "contribution", maximum=_ITEMS)
    if len(items) != _ITEMS or items[0] != _TAG:
        raise _malformed("not a contribution of version 1")
    _, digest, index, trustee, signer, combiner, wrapped = items
    if {len(digest), len(signer), len(combiner)} != {FINGERPRINT_BYTES} or len(index) != 1 or not index[0]:
        raise _malformed("a digest, fingerprint or index of another length")
    if not 0 < len(trustee) <= MAX_NAME_BYTES or not trustee.isascii():
        raise _malformed("the trustee's name")
    return Contribution(
        index[0], trustee.decode("ascii"), signer, certificate, digest, combiner, wrapped,
        length_prefixed(*items[:-1]), signed, signature,
    )  # fmt: skip


def open_contribution(
    contribution: Contribution, prologue: Prologue, combiner_key: ReceivingKey, signer_key: VerifyingKey
) -> bytes:
    """Verify a contribution to the envelope of this *verified* prologue; return the share, 32 bytes.

    Raises ``MessageError``: ``wrong_envelope``, ``not_for_us``, ``wrong_sender_key``, ``bad_signature``, ``bad_share``.
    """
    header, suite = prologue.header, content_suite(prologue.header.suite)
    if contribution.prologue_digest != prologue.digest or contribution.index > len(header.share_hashes):
        raise MessageError("the contribution is to another envelope", reason="wrong_envelope")
    if contribution.combiner != combiner_key.fingerprint:
        raise MessageError("the contribution is sealed to another combiner", reason="not_for_us")
    if signer_key.algorithm != suite.signature or signer_key.fingerprint != contribution.signer_fingerprint:
        raise MessageError(
            f"the contribution is not signed with the key of {contribution.trustee}", reason="wrong_sender_key"
        )
    signer_key.verify(contribution.signature, contribution.signed, Context.CONTRIBUTION)
    share = combiner_key.unwrap(
        contribution.wrapped, contribution.binding, label=Label.SHARE_WRAP, aead=suite.aead
    )  # fmt: skip
    _require_share(prologue, share, contribution.index)
    return share[1:]


def combine(
    prologue: Prologue, contributions: Iterable[tuple[str, bytes]], combiner_key: ReceivingKey, key_of: KeyLookup
) -> Combined:
    """Restore the content key of a *verified* prologue from contributions, each with a word for where it came from.

    A wrong contribution is left out and named in the result, as long as enough others hold. Raises ``MessageError``
    (``too_few_shares``) naming every refused one, ``threshold`` where the envelope is not for several together.
    """
    threshold = prologue.header.threshold
    if not threshold:
        raise MessageError("the envelope opens for each recipient alone and takes no contributions", reason="threshold")
    shares: dict[int, bytes] = {}
    trustees: list[str] = []
    refused: list[Refused] = []
    for source, data in contributions:
        trustee = "nobody"
        try:
            contribution = parse_contribution(data)
            trustee = contribution.trustee
            share = open_contribution(contribution, prologue, combiner_key, key_of(contribution))
            if contribution.index in shares:
                raise MessageError(f"share {contribution.index} was contributed already", reason="duplicate")
        except PqflError as error:
            refused.append(Refused(source, trustee, error))
            continue
        shares[contribution.index] = share
        trustees.append(trustee)
    if len(shares) < threshold:
        wrong = "".join(f"; {one.source} (of {one.trustee}): {one.error}" for one in refused)
        raise MessageError(
            f"{threshold} trustees have to contribute, {len(shares)} did{wrong}", reason="too_few_shares"
        )
    chosen = dict(sorted(shares.items())[:threshold])
    return Combined(ContentKey(combine_shares(chosen)), tuple(trustees), tuple(refused))


def _share(prologue: Prologue, receiving_key: ReceivingKey) -> bytes:
    share = unwrap_secret(prologue, receiving_key)
    # A sender that wrapped something else than what its header promises is found out by the first trustee.
    _require_share(prologue, share, prologue.header.recipients.index(receiving_key.fingerprint) + 1)
    return share


def _require_share(prologue: Prologue, share: bytes, index: int) -> None:
    if len(share) != SHARE_BYTES or share[0] != index or share_hash(share) != prologue.header.share_hashes[index - 1]:
        raise MessageError(f"what is contributed is not share {index} of this envelope", reason="bad_share")


def _malformed(what: str) -> MessageError:
    return MessageError(f"malformed contribution: {what}", reason="malformed")
