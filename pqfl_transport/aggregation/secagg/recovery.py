"""What the server restores from released shares: own seeds of survivors, pair keys of dropouts (SECAGG.md §5).

Every share is held against its commitment when it comes, and every secret against its own commitment when it is
restored; so what does not fit is always somebody's lie, and the error says whose.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from pqfl_transport.aggregation.secagg.keys import MaskKey, Salted, commit_seed, mask_pair, pair_key, sign_of
from pqfl_transport.aggregation.secagg.messages import Packet, Secret, Unmask
from pqfl_transport.aggregation.secagg.transcript import Members, Shares, open_packet
from pqfl_transport.crypto.kems import Decapsulation
from pqfl_transport.crypto.shamir import combine_shares
from pqfl_transport.errors import MessageError, PqflError, RoundError

Value = TypeVar("Value")
Packets = Mapping[int, Mapping[int, bytes]]
"""dealer → holder → packet, for all of U1."""


@dataclass(frozen=True, slots=True)
class Recovered:
    """The masks that are left in the sum of the survivors' vectors."""

    self_seeds: Mapping[str, bytes] = field(repr=False)
    """``b`` of each survivor, by SPIFFE ID."""
    pair_keys: tuple[MaskKey, ...]
    """The keys that survivors shared with dropouts, each with the sign it has in the survivor's vector."""


class LiarError(RoundError):
    """A site signed what cannot be true; ``site`` is its SPIFFE ID."""

    def __init__(self, site: str, why: str, *, reason: str) -> None:
        super().__init__(f"{site}: {why}", reason=reason)
        self.site = site


class Recovery:
    """Collects shares for one U2, and restores what they restore. Never takes both kinds of share for one site."""

    def __init__(self, members: Members, uploaders: Shares, packets: Packets, survivors: Sequence[int]) -> None:
        members.require_survivors(survivors, uploaders.indices)
        self._members, self._uploaders, self._packets = members, uploaders, packets
        self._survivors = tuple(survivors)
        self._shares: dict[int, dict[int, bytes]] = {owner: {} for owner in uploaders.indices}

    def wanted(self, owner: int) -> Secret:
        """Return which secret of a site is restored: its own seed where its update arrived, else its master."""
        return Secret.SELF_MASK if owner in self._survivors else Secret.MASTER

    def take(self, holder: int, unmask: Unmask) -> None:
        """Take what a survivor releases, all of it or nothing.

        Raises `LiarError`: ``equivocation`` for another U2 than it signed, ``wrong_shares`` unless there is exactly one
        of each site of U1 that it holds shares of, and of the right kind, ``bad_share`` for one that is not the one
        committed to; ``RoundError`` (``not_a_survivor``).
        """
        name = self._members.name(holder)
        if holder not in self._survivors:
            raise RoundError(f"{name} is not among those whose update arrived", reason="not_a_survivor")
        if unmask.survivors != self._survivors:
            raise LiarError(name, "releases shares for another U2", reason="equivocation")
        expected = [(owner, self.wanted(owner)) for owner in self._owners(holder)]
        if [(share.owner, share.secret) for share in unmask.shares] != expected:
            raise LiarError(name, "releases other shares than U2 asks for", reason="wrong_shares")
        for share in unmask.shares:
            link = self._members.link(share.owner, holder)
            try:
                link.require_share(self._packet(share.owner, holder), share.secret, Salted(share.share, share.salt))
            except MessageError as error:
                dealer = self._members.name(share.owner)
                raise LiarError(name, f"its share of {dealer}: {error}", reason=error.reason) from None
        for share in unmask.shares:
            self._shares[share.owner][holder] = share.share

    @property
    def is_complete(self) -> bool:
        """Whether there are enough shares of every site."""
        return all(len(shares) >= self._threshold(owner) for owner, shares in self._shares.items())

    def restore(self) -> Recovered:
        """Return the masks that are left.

        Raises `LiarError` for a dealer whose shares, committed to one by one, do not make the secret it committed to
        (``bad_secret``), or whose half of a pair key is not the one committed to (``bad_key_half``, ``not_for_us``);
        ``RoundError`` (``too_few_shares``).
        """
        seeds = {self._members.name(owner): self._seed(owner) for owner in self._survivors}
        return Recovered(seeds, tuple(key for owner in self._dropouts for key in self._pair_keys(owner)))

    @property
    def _dropouts(self) -> list[int]:
        return [owner for owner in self._uploaders.indices if owner not in self._survivors]

    def _owners(self, holder: int) -> list[int]:
        return [owner for owner in self._uploaders.indices if owner in self._members.holders(holder)]

    def _threshold(self, owner: int) -> int:
        return self._members.parameters.threshold_for(len(self._members.holders(owner)))

    def _packet(self, dealer: int, holder: int) -> Packet:
        link = self._members.link(dealer, holder)
        return open_packet(self._packets[dealer][holder], self._uploaders.shares[dealer], link)

    def _combined(self, owner: int) -> bytes:
        threshold, shares = self._threshold(owner), self._shares[owner]
        if len(shares) < threshold:
            raise RoundError(
                f"{len(shares)} shares of {self._members.name(owner)}, and {threshold} are needed",
                reason="too_few_shares",
            )
        return combine_shares(dict(sorted(shares.items())[:threshold]))

    def _seed(self, owner: int) -> bytes:
        seed = self._combined(owner)
        members = self._members
        commitment = commit_seed(members.parameters, members.transcript, owner, seed)
        if commitment != self._uploaders.shares[owner].seed_commitment:
            raise LiarError(
                members.name(owner), "the shares that it dealt do not make the seed it committed to",
                reason="bad_secret",
            )  # fmt: skip
        return seed

    def _pair_keys(self, dropout: int) -> Iterator[MaskKey]:
        members, name = self._members, self._members.name(dropout)
        master = self._combined(dropout)
        pair = mask_pair(members.parameters, name, master)
        if pair.public.raw != members.advertised[name].mask_key:
            raise LiarError(
                name, "the shares that it dealt do not make the master of its advertised key", reason="bad_secret"
            )
        for survivor in self._survivors:
            if survivor in members.near(dropout):
                halves = {
                    dropout: self._half_of(dropout, survivor, master),
                    survivor: self._half_for(dropout, survivor, pair),
                }
                key = pair_key(self._uploaders.transcript, halves)
                yield MaskKey(members.name(survivor), key, sign_of(survivor, dropout))

    def _half_of(self, dropout: int, survivor: int, master: bytes) -> bytes:
        link = self._members.link(dropout, survivor)
        half = link.directed_key(master)
        self._hold(dropout, lambda: link.require_key(self._packet(dropout, survivor), half))
        return half

    def _half_for(self, dropout: int, survivor: int, pair: Decapsulation) -> bytes:
        link = self._members.link(survivor, dropout)
        return self._hold(survivor, lambda: link.open_key(self._packet(survivor, dropout), pair))

    def _hold(self, dealer: int, check: Callable[[], Value]) -> Value:
        try:
            return check()
        except PqflError as error:
            raise LiarError(self._members.name(dealer), str(error), reason=error.reason) from None
