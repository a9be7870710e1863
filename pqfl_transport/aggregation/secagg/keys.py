"""The secrets of a round and what is derived from them (SECAGG.md §3): pairs, pair keys, shares, commitments, packets.

Theory of operation. ML-KEM is no non-interactive key exchange, so each of two sites sends the other half of their key.
All halves that a site sends, and the pair that opens those it is sent, derive from its ``master``: whoever restores
these 32 bytes can take a dropped site's masks away. Shares travel under another pair, which does not, so restoring a
dropped site opens nothing that was sent to it.
"""

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from pqfl_transport.aggregation.secagg.messages import SALT_BYTES, SECRET_BYTES, Advertise, Packet, Secret
from pqfl_transport.aggregation.secagg.parameters import RoundParameters
from pqfl_transport.algorithms import Kind, find
from pqfl_transport.crypto.contexts import Label, length_prefixed
from pqfl_transport.crypto.kems import Decapsulation, Encapsulation, decapsulation_key, encapsulation_key, generate
from pqfl_transport.crypto.pyca import hkdf_sha512
from pqfl_transport.crypto.shamir import split_secret
from pqfl_transport.errors import ConfigurationError, MessageError

_SHARES = b"shares"
_KEY = b"key"
_SELF_MASK = b"self-mask"
_OPENED_BYTES = 2 * (SECRET_BYTES + SALT_BYTES)

Random = Callable[[int], bytes]


@dataclass(frozen=True, slots=True)
class Salted:
    """A share with the salt of its commitment."""

    share: bytes = field(repr=False)
    salt: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class MaskKey:
    """A key of a mask, and how the mask stands in a site's vector: added (1) or subtracted (-1)."""

    site: str
    """Whose vector the mask is in; in what a site is told about itself, the neighbour that has it too."""
    key: bytes = field(repr=False)
    """32 bytes."""
    sign: int


@dataclass(frozen=True, slots=True)
class PublicKeys:
    """What a site advertised, parsed."""

    transport: Encapsulation
    mask: Encapsulation

    def require_usable(self) -> None:
        """Raise ``MessageError`` (``bad_key``) for a key that nothing can be sealed to, such as a degenerate one."""
        for key in (self.transport, self.mask):
            try:
                key.wrap(b"", b"")
            except ConfigurationError as error:
                raise MessageError(str(error), reason="bad_key") from None


@dataclass(frozen=True, slots=True)
class Link:
    """The direction from one site, the dealer, to another, the holder, under a transcript ``T``. Indices are 1 to n."""

    parameters: RoundParameters
    transcript: bytes
    dealer: int
    holder: int

    def commit_share(self, secret: Secret, salted: Salted) -> bytes:
        """Return the commitment to a share of one of the dealer's secrets."""
        return self._digest(bytes([secret.value]), salted.share, salted.salt)

    def commit_key(self, key: bytes) -> bytes:
        """Return the commitment to the dealer's half of the pair key."""
        return self._digest(_KEY, key)

    def directed_key(self, master: bytes) -> bytes:
        """Return the dealer's half of the pair key, ``a``, from its master."""
        info = length_prefixed(Label.SECAGG_DIRECTED_KEY.value, self.transcript, bytes([self.holder]))
        return hkdf_sha512(master, info, SECRET_BYTES)

    def packet_hash(self, packet: bytes) -> bytes:
        """Return the hash by which a Share's signed part names a packet."""
        return self.parameters.digest(Label.SECAGG_PACKET, packet)

    def seal(self, to: PublicKeys, halves: Mapping[Secret, Salted], key: bytes) -> Packet:
        """Return the packet of one dealer for one holder."""
        opened = b"".join(halves[one].share + halves[one].salt for one in (Secret.SELF_MASK, Secret.MASTER))
        aead = self.parameters.suite.aead
        return Packet(
            to.transport.wrap(opened, self._info(_SHARES), aead=aead),
            to.mask.wrap(key, self._info(_KEY), aead=aead),
            self.commit_share(Secret.SELF_MASK, halves[Secret.SELF_MASK]),
            self.commit_share(Secret.MASTER, halves[Secret.MASTER]),
            self.commit_key(key),
        )

    def own(self, halves: Mapping[Secret, Salted]) -> Packet:
        """Return the packet of a dealer for itself, which has nothing but commitments."""
        return Packet(
            b"", b"",
            self.commit_share(Secret.SELF_MASK, halves[Secret.SELF_MASK]),
            self.commit_share(Secret.MASTER, halves[Secret.MASTER]),
            b"",
        )  # fmt: skip

    def open_shares(self, packet: Packet, transport: Decapsulation) -> dict[Secret, Salted]:
        """Return the holder's shares. Raises ``MessageError``: ``not_for_us``, ``bad_packet``, ``bad_share``."""
        opened = transport.unwrap(packet.sealed_shares, self._info(_SHARES), aead=self.parameters.suite.aead)
        if len(opened) != _OPENED_BYTES:
            raise MessageError(f"{len(opened)} bytes are no shares", reason="bad_packet")
        middle = _OPENED_BYTES // 2
        found = {Secret.SELF_MASK: _salted(opened[:middle]), Secret.MASTER: _salted(opened[middle:])}
        for secret, salted in found.items():
            self.require_share(packet, secret, salted)
        return found

    def open_key(self, packet: Packet, mask: Decapsulation) -> bytes:
        """Return the dealer's half of the pair key. Raises ``MessageError``: ``not_for_us``, ``bad_key_half``."""
        key = mask.unwrap(packet.sealed_key, self._info(_KEY), aead=self.parameters.suite.aead)
        self.require_key(packet, key)
        return key

    def require_share(self, packet: Packet, secret: Secret, salted: Salted) -> None:
        """Raise ``MessageError`` (``bad_share``) unless this is the share that the dealer committed to."""
        commitment = packet.self_mask_commitment if secret is Secret.SELF_MASK else packet.master_commitment
        if self.commit_share(secret, salted) != commitment:
            raise MessageError("a share that is not the one committed to", reason="bad_share")

    def require_key(self, packet: Packet, key: bytes) -> None:
        """Raise ``MessageError`` (``bad_key_half``) unless this is the half that the dealer committed to."""
        if len(key) != SECRET_BYTES or self.commit_key(key) != packet.key_commitment:
            raise MessageError("half of a pair key that is not the one committed to", reason="bad_key_half")

    def _digest(self, *items: bytes) -> bytes:
        return self.parameters.digest(Label.SECAGG_COMMITMENT, self.transcript, self._ends, *items)

    def _info(self, purpose: bytes) -> bytes:
        # What HPKE must bind goes into `info`, hashed, because its `aad` is not public in the library.
        return self.parameters.digest(Label.SECAGG_SEAL, self.transcript, purpose, self._ends)

    @property
    def _ends(self) -> bytes:
        return bytes([self.dealer, self.holder])


class SiteSecrets:
    """What a site makes for one round and keeps in memory only: own seed, master, and two pairs."""

    __slots__ = ("mask_pair", "master", "self_seed", "transport_pair")

    def __init__(self, parameters: RoundParameters, site: str, random: Random = secrets.token_bytes) -> None:
        self.self_seed = random(SECRET_BYTES)
        self.master = random(SECRET_BYTES)
        self.transport_pair = generate(parameters.suite.kem, random=random)
        self.mask_pair = mask_pair(parameters, site, self.master)

    def __reduce_ex__(self, protocol: object) -> str:
        """Refuse to be pickled or copied: a second copy could answer a second time."""
        raise TypeError("the secrets of a round stay in the memory where they were made")

    def deal(self, threshold: int, holders: frozenset[int], random: Random) -> dict[int, dict[Secret, Salted]]:
        """Return a share of both secrets for each holder."""
        count = max(holders)
        split = {
            secret: split_secret(value, threshold, count, random=random)
            for secret, value in ((Secret.SELF_MASK, self.self_seed), (Secret.MASTER, self.master))
        }
        return {
            holder: {secret: Salted(split[secret][holder], random(SALT_BYTES)) for secret in Secret}
            for holder in sorted(holders)
        }


def mask_pair(parameters: RoundParameters, site: str, master: bytes) -> Decapsulation:
    """Return the pair ``s`` of a site, from its master."""
    kem = parameters.suite.kem
    info = length_prefixed(Label.SECAGG_MASK_PAIR.value, parameters.transcript, site.encode("ascii"))
    return decapsulation_key(kem, hkdf_sha512(master, info, find(kem, Kind.KEM).seed_bytes or 0))


def commit_seed(parameters: RoundParameters, transcript: bytes, index: int, seed: bytes) -> bytes:
    """Return the commitment to a site's self-mask seed."""
    return parameters.digest(Label.SECAGG_COMMITMENT, transcript, bytes([index]), _SELF_MASK, seed)


def pair_key(uploaders: bytes, halves: Mapping[int, bytes]) -> bytes:
    """Return ``s`` of two sites from the half that each of them sent, by index, under the transcript ``T2``."""
    (low, of_low), (high, of_high) = sorted(halves.items())
    info = length_prefixed(Label.SECAGG_PAIR_KEY.value, uploaders, bytes([low]), bytes([high]))
    return hkdf_sha512(of_low + of_high, info, SECRET_BYTES)


def sign_of(index: int, neighbour: int) -> int:
    """Return how a pair's mask stands in the vector of ``index``: the lower one adds it, the other subtracts it."""
    return 1 if index < neighbour else -1


def public_keys(parameters: RoundParameters, advertise: Advertise) -> PublicKeys:
    """Return the keys that a message brought. Raises ``MessageError`` (``bad_key``)."""
    kem = parameters.suite.kem
    try:
        return PublicKeys(
            encapsulation_key(kem, advertise.transport_key), encapsulation_key(kem, advertise.mask_key)
        )  # fmt: skip
    except ConfigurationError as error:
        raise MessageError(str(error), reason="bad_key") from None


def _salted(data: bytes) -> Salted:
    return Salted(data[:SECRET_BYTES], data[SECRET_BYTES:])
