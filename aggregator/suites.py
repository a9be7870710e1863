"""Which content suites a run works with: what the policy of the moment lists and the keys of the roster fit."""

from collections.abc import Iterable

from pqfl_transport.algorithms import ContentSuite
from pqfl_transport.content.recipients import RecipientKey
from pqfl_transport.errors import PolicyError
from pqfl_transport.pki.membership import Membership
from pqfl_transport.pki.spiffe import Role


class Suites:
    """The suites of one run; its policy may be tightened while it lasts, or taken away altogether."""

    def __init__(self, member: Membership, sites: Iterable[tuple[str, str]]) -> None:
        """``sites`` are the signature and the KEM of each site's keys. Raises ``PolicyError`` as `require_fitting`."""
        self.policy = member.policy
        self.withdrawn: PolicyError | None = None
        """Why nothing is left to work with."""
        self._own_signature = self._signatures = self._kems = ""
        self.fit(member, sites)

    def fit(self, member: Membership, sites: Iterable[tuple[str, str]]) -> None:
        """Work with this end's own key and these of the sites from now on.

        Raises ``PolicyError``, and then nothing has changed.
        """
        pairs, before = tuple(sites), (self._own_signature, self._signatures, self._kems)
        self._own_signature = member.identity.key.algorithm
        # Sites with keys of two kinds have no suite in common, and are told so by both names.
        self._signatures = " and ".join(sorted({signature for signature, _ in pairs}))
        self._kems = " and ".join(sorted({kem for _, kem in pairs}))
        if not pairs:
            return
        try:
            self.require_fitting()
        except PolicyError:
            self._own_signature, self._signatures, self._kems = before
            raise

    @property
    def of_updates(self) -> ContentSuite:
        """What updates are sealed with: the sites sign, and the round's key is made to fit."""
        return self.policy.suite_for(self._signatures)

    @property
    def of_models(self) -> ContentSuite:
        """What models are sealed with: this end signs, to the keys of the sites that the roster lists."""
        return self.policy.suite_for(self._own_signature, self._kems)

    def require_fitting(self) -> None:
        """Raise ``PolicyError`` (``content_suite``) where nothing that is listed fits the keys of the roster."""
        _ = self.of_updates, self.of_models

    def allows(self, suite: str) -> bool:
        """Whether something made with this suite counts now."""
        return self.withdrawn is None and suite in self.policy.content_suites

    def require_any(self) -> None:
        """Raise the ``PolicyError`` that took everything away, where one did."""
        if self.withdrawn is not None:
            raise self.withdrawn


def kinds_of(member: Membership) -> list[tuple[str, str]]:
    """Return the signature and the KEM of each site's keys."""
    return [
        (party.signing_key.algorithm, RecipientKey.from_bytes(party.receiving_key).kem)
        for party in member.parties(Role.SITE)
    ]
