"""What a site reads again before every round.

The trusted authorities, the advisory, its receiving keys, the roster with the own signing key, and who was revoked.

A file that is broken, older or not its signer's changes nothing and is said. An advisory that leaves nothing, a later
roster without this site, and an aggregator whose certificate does not count any more are errors: the round is not gone
on with.
"""

import hashlib
import logging
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from pqfl_transport.content.key_files import KeyRingFile
from pqfl_transport.crl_source import asking, require_first
from pqfl_transport.errors import ConfigurationError, PolicyError, PqflError
from pqfl_transport.net.crl_fetch import CrlPoller, require_url
from pqfl_transport.participant import Participant
from pqfl_transport.pki.crl_files import CrlFile
from pqfl_transport.pki.extensions import describe
from pqfl_transport.pki.keystore import read_public
from pqfl_transport.pki.membership import Membership, under_policy
from pqfl_transport.pki.revocation import Stale
from pqfl_transport.pki.roster import MAX_ROSTER_BYTES
from pqfl_transport.pki.ruling import Ruling
from pqfl_transport.pki.standing import Standing
from pqfl_transport.policy import Policy

_log = logging.getLogger(__name__)

Load = Callable[[int], Membership]
"""Reads the membership again; takes the lowest number that the roster may have."""


class Upkeep:
    """Keeps one participant current. ``crls`` and ``poller`` are there where the site checks its aggregator."""

    def __init__(
        self,
        participant: Participant,
        ruling: Ruling,
        roster_path: Path,
        load: Load,
        crls: CrlFile | None = None,
        poller: CrlPoller | None = None,
        key_file: KeyRingFile | None = None,
    ) -> None:
        self._participant, self._ruling, self._trust = participant, ruling, ruling.trust
        self._roster_path, self._load = roster_path, load
        self._roster_seen = b""
        self._crls, self._poller, self._key_file = crls, poller, key_file
        self._next_poll = 0.0

    async def fetch(self) -> None:
        """Fetch revocation lists where that is due. Raises ``TransportError`` where there never were any."""
        poller, crls = self._poller, self._crls
        if poller is None or crls is None or time.monotonic() < self._next_poll:
            return
        await poller.poll()
        self._next_poll = time.monotonic() + poller.seconds_to_next()
        require_first(poller, crls.path)

    def keep(self) -> None:
        """Read the files again; may wait for the disk and verifies signatures.

        Raises ``PolicyError`` (``withdrawn``), ``ConfigurationError`` (``not_in_roster``), and ``CertificateError`` as
        `Revocations.check_party` does for the aggregator.
        """
        self._keep_trust()
        self._keep_policy()
        # Before the roster: a later one may name a key that was not there before.
        self._keep_keys()
        self._keep_roster()
        self._keep_revocations()

    def _keep_trust(self) -> None:
        try:
            if self._trust.refresh():
                names = ", ".join(describe(one) for one in self._trust.certificates)
                _log.warning("the trusted authorities are now %s", names)
        except PqflError as error:
            _log.warning("the trusted authorities stay as they are: %s", error)

    def _keep_policy(self) -> None:
        before = self._ruling.policy
        try:
            policy = self._ruling.read()
        except PolicyError:
            raise
        except PqflError as error:
            _log.warning("the advisory changes nothing: %s", error)
            return
        if policy != before:
            participant, advised = self._participant, self._ruling.advised
            participant.member = self._under(policy, participant.member)
            why = "" if advised is None else advised.facts()["why"]
            _log.warning("policy %s instead of %s: %s", policy.name, before.name, why)

    def _keep_keys(self) -> None:
        if self._key_file is None:
            return
        try:
            keys = self._key_file.reload(time.time())
            if keys is not None:
                self._participant.hold(keys)
        except PqflError as error:
            _log.warning("the receiving keys stay as they are: %s", error)

    def _keep_roster(self) -> None:
        participant, former = self._participant, self._participant.member.roster
        try:
            digest = hashlib.sha256(read_public(self._roster_path, max_bytes=MAX_ROSTER_BYTES)).digest()
            if digest == self._roster_seen and not participant.member.has_to_switch(time.time()):
                return
            member = self._load(former.number)
            self._roster_seen = digest
            if member.roster.level is not former.level:
                raise ConfigurationError("another level is taken on by a restart", reason="needs_restart")
            before, key = participant.member.identity.key.verifying_key, member.identity.key.verifying_key
            if member.roster.number == former.number and key == before:
                return
            member = self._under(self._ruling.policy, member)
            participant.take_on(member)
        except PqflError as error:
            if isinstance(error, ConfigurationError) and error.reason == "not_in_roster":
                raise
            _log.warning("the roster changes nothing: %s", error)
            return
        if key != before:
            _log.warning("signs with the key %s instead of %s", key.fingerprint.hex(), before.fingerprint.hex())
        if member.roster.number == former.number:
            return
        came = ", ".join(sorted(member.roster.parties.keys() - former.parties.keys())) or "nobody"
        left = ", ".join(sorted(former.parties.keys() - member.roster.parties.keys())) or "nobody"
        _log.warning("roster %d instead of %d: joined %s; left %s", member.roster.number, former.number, came, left)

    def _under(self, policy: Policy, member: Membership) -> Membership:
        return under_policy(member, self._trust.certificates, policy, now=datetime.now(UTC))

    def _keep_revocations(self) -> None:
        if self._crls is None:
            return
        try:
            self._crls.read(self._ruling.policy)
        except PqflError as error:
            if self._crls.revocations is None:
                raise
            _log.warning("the revocation lists change nothing: %s", error)
        standing = Standing(self._participant.member, time.time, self._crls.revocations)
        self._participant.know(standing.party(self._participant.aggregator))


def crl_source(
    path: Path | str | None, url: str | Sequence[str] | None, stale: Stale | str, ruling: Ruling
) -> tuple[CrlFile | None, CrlPoller | None]:
    """Return where a site's revocation lists are, and what keeps that file current, where there are any.

    Several of ``url`` are tried in their order. Raises ``ConfigurationError``.
    """
    if path is None:
        if url:
            raise ConfigurationError("crl_url needs crl_path, where the last good lists are kept", reason="missing")
        return None, None
    if stale not in tuple(Stale):
        raise ConfigurationError(f"crl_stale {stale!r}: expected {' or '.join(Stale)}", reason="bad_config")
    crls = CrlFile(Path(path), ruling.trust, Stale(stale))
    urls = (url,) if isinstance(url, str) else tuple(url or ())
    if not urls:
        return crls, None
    for one in urls:
        require_url(one, "crl_url")

    fetch = asking(lambda: (ruling.trust.pem, ruling.policy, ruling.federation))

    def store(data: bytes) -> bool:
        return crls.store(data, ruling.policy)

    return crls, CrlPoller(urls, fetch, store, lambda: crls.revocations, _report)


def _report(event: str, facts: dict[str, object]) -> None:
    if event == "crl_fetch_failed" and facts["is_news"]:
        _log.warning("no revocation list was fetched: %s", facts["detail"])
