"""Publishing a party's folder so that a crash at any moment leaves all of it or nothing.

    1. keys, certificates and the next roster are made
    2. the ledger takes the certificates as *prepared*, with what is needed to go on        (one transaction)
    3. the folder is written under another name, and then gets its own: from here on it is there
    4. the roster is replaced, and the ledger says that the certificates are *issued*

`recover` is what every command does first. Killed before 3, the certificates are withdrawn: they never left, so the
name is free and the same command again succeeds. Killed after 3, the rest is done, and the same command again finds its
work done.
"""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from certs import twins
from certs.entry import Entry, State, sha256_of
from certs.folder import AuthorityFolder
from certs.identity import Identity
from certs.ledger import Ledger, Preparation
from certs.rosters import publish_roster
from certs.staging import staged_folder
from certs.twins import TwinFolder
from pqfl_transport.errors import ConfigurationError
from pqfl_transport.pki import chain, keystore
from pqfl_transport.pki.authority import Host
from pqfl_transport.pki.profiles import Profile, Usage
from pqfl_transport.pki.spiffe import SpiffeId


@dataclass(frozen=True, slots=True)
class Issued:
    """What ``Authority.issue`` did."""

    id: SpiffeId
    folder: Path
    entries: tuple[Entry, ...]
    """What the ledger has of it, one a certificate."""
    roster_number: int | None
    """The number of the new roster; ``None`` where the party is not in it and the roster stayed as it was."""


def require_free_name(ledger: Ledger, party_id: SpiffeId, *, reissue: bool, now: datetime) -> None:
    """Raise ``ConfigurationError``: ``already_issued``, or ``was_revoked`` unless told to issue the name again."""
    entries = [entry for entry in ledger.entries(party=str(party_id)) if entry.state != State.WITHDRAWN]
    good = [entry for entry in entries if entry.is_good(now)]
    if good or (entries and not reissue and not entries[-1].revoked_at):
        first = entries[0].issued_at[:10]
        raise ConfigurationError(
            f"{party_id} was already issued on {first}; see {ledger.path}", reason="already_issued"
        )
    if entries and not reissue:
        raise ConfigurationError(
            f"{party_id} was revoked on {entries[-1].revoked_at[:10]} ({entries[-1].reason}); its name is not given"
            " away again without --reissue",
            reason="was_revoked",
        )


def describe_request(
    profile: Profile,
    party_id: SpiffeId,
    out: Path,
    hosts: Sequence[Host],
    days: int | None,
    weight_cap: int,
    *,
    twin: bool = False,
) -> str:
    """Return what was asked for, so that the same command is known again."""
    facts = {
        "profile": profile.name, "id": str(party_id), "out": str(out.absolute()),
        "hosts": [str(host) for host in hosts], "days": days, "weight_cap": weight_cap,
    } | ({"twin": True} if twin else {})  # fmt: skip
    return json.dumps(facts, sort_keys=True)


def publish(  # noqa: PLR0913 -- what makes up one party
    authority: AuthorityFolder,
    identity: Identity | TwinFolder,
    entries: Sequence[Entry],
    out: Path,
    *,
    request: str,
    roster: bytes | None,
    passphrase: bytes | None,
    now: datetime,
) -> None:
    """Write the folder and enter the certificates: steps 1 to 3. What fails in between is taken back."""
    ca_pem = keystore.read_public(authority.ca_path)
    try:
        with staged_folder(out) as stage:
            with authority.ledger.writing(now) as book:
                for entry, certificate in zip(entries, identity.certificates, strict=True):
                    book.enter(entry, certificate)
                book.prepare(Preparation(str(identity.id), request, str(stage), str(out.absolute()), roster))
            identity.write(stage, ca_pem, passphrase)
    except BaseException:
        recover(authority, now)
        raise


def recover(authority: AuthorityFolder, now: datetime) -> dict[str, Preparation]:
    """Finish or take back what was begun, under the lock; return what was finished, by what was asked for."""
    finished = {}
    for preparation in authority.ledger.preparations():
        entries = [one for one in authority.ledger.entries(party=preparation.id) if one.state == State.PREPARED]
        if _is_published(preparation, entries):
            finish(authority, preparation, now)
            finished[preparation.request] = preparation
        else:
            _take_back(authority, preparation, entries, now)
    return finished


def finish(authority: AuthorityFolder, preparation: Preparation, now: datetime) -> int | None:
    """Do step 4; return the number of the new roster."""
    number = None
    if preparation.roster is not None:
        number = publish_roster(authority, preparation.roster, now)
    with authority.ledger.writing(now) as book:
        book.settle(preparation.id)
    return number


def _is_published(preparation: Preparation, entries: Sequence[Entry]) -> bool:
    # What is published for a twin alone has no other certificate.
    name = twins.CERTIFICATE if all(entry.is_twin for entry in entries) else "tls.pem"
    try:
        certificate = chain.load_certificates((Path(preparation.target) / name).read_bytes())[0]
    except OSError:
        return False
    return any(entry.sha256 == sha256_of(certificate) for entry in entries if entry.usage != Usage.SIGNING)


def _take_back(authority: AuthorityFolder, preparation: Preparation, entries: Sequence[Entry], now: datetime) -> None:
    # The stage is a name that this program chose: beside the target and hidden. Nothing else is removed.
    stage = Path(preparation.stage)
    if stage.parent == Path(preparation.target).parent and stage.name.startswith("."):
        shutil.rmtree(stage, ignore_errors=True)
    with authority.ledger.writing(now) as book:
        for entry in entries:
            book.revoke(entry, "superseded", state=State.WITHDRAWN)
        book.settle(preparation.id)
