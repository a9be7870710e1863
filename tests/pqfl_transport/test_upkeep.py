"""What a site reads again: a later roster counts, an earlier one does not, a revoked aggregator is refused."""

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta, tzinfo
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from pqfl_transport.content.key_files import KeyRingFile, load_receiving_keys
from pqfl_transport.crypto.pyca import VerifyingKey
from pqfl_transport.errors import CertificateError, ConfigurationError, PqflError, TransportError
from pqfl_transport.pki import membership as membership_module
from pqfl_transport.pki.keystore import load_signing_identity
from pqfl_transport.pki.membership import Membership, load_membership
from pqfl_transport.pki.ruling import Ruling
from pqfl_transport.pki.spiffe import Role
from pqfl_transport.pki.trust import Trust
from pqfl_transport.upkeep import Upkeep, crl_source
from tests.support.commands import good
from tests.support.pki import Federation, make_federation
from tests.support.rekeying import name_next, prepare_next
from tests.support.revoking import crl, publish_crl
from tests.support.revoking import crl_source as serving
from tests.support.rounds import participant


@pytest.fixture
def federation(tmp_path: Path) -> Federation:
    return make_federation(tmp_path / "federation", sites=("bank-a",))


def upkeep(
    federation: Federation,
    crl_path: Path | None = None,
    url: str | Sequence[str] | None = None,
    stale: str = "refuse",
) -> Upkeep:
    folder = federation.site("bank-a")
    trust = Trust.load(federation.ca_pem)
    ruling = Ruling(federation.authority.policy, trust, "fed")

    def load(at_least_number: int) -> Membership:
        return load_membership(
            folder, federation.ca_pem, federation.roster, role=Role.SITE, at_least_number=at_least_number
        )  # fmt: skip

    crls, poller = crl_source(crl_path, url, stale, ruling)
    return Upkeep(
        participant(federation, "bank-a"),
        ruling,
        federation.roster,
        load,
        crls,
        poller,
        KeyRingFile(folder / "receiving.key"),
    )


def reason(found: Upkeep) -> str:
    with pytest.raises(PqflError) as caught:
        found.keep()
    return caught.value.reason


def test_a_later_roster_is_taken_on_and_shown(federation: Federation, caplog: pytest.LogCaptureFixture) -> None:
    """The log names who joined; an earlier one after it changes nothing."""
    found, early = upkeep(federation), federation.roster.read_bytes()
    found.keep()
    federation.authority.issue(profile="site", name="bank-b", out=federation.site("bank-b"))
    with caplog.at_level(logging.WARNING):
        found.keep()
    assert f"joined {federation.site_uri('bank-b')}; left nobody" in caplog.text
    number = found._participant.member.roster.number
    federation.roster.write_bytes(early)
    with caplog.at_level(logging.WARNING):
        found.keep()
    assert "the roster changes nothing" in caplog.text
    assert found._participant.member.roster.number == number


def test_another_root_is_taken_on_before_what_it_signed(
    federation: Federation, caplog: pytest.LogCaptureFixture
) -> None:
    """Authorities, roster and lists are replaced at once, as a rotation does; a broken file changes nothing."""
    authority = federation.authority
    authority.make_crl()
    found = upkeep(federation, authority.crl_path)
    found.keep()
    authority.rotate_root()
    authority.sign_roster(authority.plan_roster())
    authority.make_crl()
    with caplog.at_level(logging.WARNING):
        found.keep()
    assert "the trusted authorities are now" in caplog.text
    assert "CN=root-2" in caplog.text
    assert "changes nothing" not in caplog.text
    number = found._participant.member.roster.number
    assert number == authority.roster().number
    federation.ca_pem.write_bytes(b"broken")
    with caplog.at_level(logging.WARNING):
        found.keep()
    assert "the trusted authorities stay as they are" in caplog.text


def test_a_rotated_receiving_key_is_taken_on_before_the_roster_that_names_it(
    federation: Federation, caplog: pytest.LogCaptureFixture
) -> None:
    """The site rotates and the authority signs while it runs; a file without the roster's key changes nothing."""
    found, folder = upkeep(federation), federation.site("bank-a")
    found.keep()
    before = (folder / "receiving.key").read_bytes()
    good("key", "rotate", "--identity", folder)
    federation.authority.rekey((folder / "receiving-key.json").read_bytes())
    with caplog.at_level(logging.WARNING):
        found.keep()
    held = found._participant
    new = load_receiving_keys(folder / "receiving.key", time.time()).newest
    assert held.member.party.receiving_fingerprint == new.fingerprint
    assert held._keys.newest.fingerprint == new.fingerprint
    assert "changes nothing" not in caplog.text
    (folder / "receiving.key").write_bytes(before)
    with caplog.at_level(logging.WARNING):
        found.keep()
    assert "the receiving keys stay as they are: roster" in caplog.text
    assert held._keys.newest.fingerprint == new.fingerprint


def test_a_revoked_aggregator_is_refused(federation: Federation, tmp_path: Path) -> None:
    """From the moment the list is there, and an earlier list or a broken one does not bring it back."""
    path = publish_crl(federation, tmp_path / "crl.pem", number=1)
    found = upkeep(federation, path)
    found.keep()
    publish_crl(federation, path, [federation.aggregator], number=2)
    assert reason(found) == "revoked"
    publish_crl(federation, path, number=1)
    assert reason(found) == "revoked"
    assert reason(upkeep(federation, path)) == "stale_crl"
    path.write_text("broken")
    assert reason(found) == "revoked"


def test_a_stale_list_is_a_matter_of_policy(federation: Federation, tmp_path: Path) -> None:
    """Refused unless the caller says otherwise."""
    path = publish_crl(federation, tmp_path / "crl.pem", age_seconds=86400, seconds_left=-600)
    with pytest.raises(CertificateError) as caught:
        upkeep(federation, path).keep()
    assert caught.value.reason == "stale_crl"
    upkeep(federation, path, stale="allow").keep()


def test_lists_are_fetched_when_that_is_due(federation: Federation, tmp_path: Path) -> None:
    """Once in a while and not for every question, from the first source that is up; without any there is no round."""
    path = tmp_path / "crl.pem"
    with serving(b"garbage") as source:
        found = upkeep(federation, path, ("http://127.0.0.1:1/v1/crl", source.url))
        with pytest.raises(TransportError, match="none could be fetched"):
            asyncio.run(found.fetch())
        assert reason(found) == "missing"
        source.body = crl(federation, [federation.aggregator])
        found._next_poll = 0.0
        asyncio.run(found.fetch())
        asked = source.asked
        asyncio.run(found.fetch())
        assert source.asked == asked
    assert reason(found) == "revoked"


def test_mistakes_are_said_at_once(federation: Federation, tmp_path: Path) -> None:
    """Each names the argument."""
    for path, url, stale, named in (
        (None, "https://h/x", "refuse", "crl_url needs crl_path"),
        (tmp_path / "a", "gopher://h", "refuse", "crl_url 'gopher://h'"),
        (tmp_path / "a", ("https://h/x", "gopher://h"), "refuse", "crl_url 'gopher://h'"),
        (None, ("https://h/x",), "refuse", "crl_url needs crl_path"),
        (tmp_path / "a", None, "maybe", "crl_stale 'maybe'"),
    ):
        with pytest.raises(ConfigurationError, match=named):
            upkeep(federation, path, url, stale)


def test_the_next_key_is_taken_on_with_the_roster_or_when_the_former_one_is_ending(
    federation: Federation, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The site signs with the key that everybody knows, and says when that becomes another one."""
    folder = federation.site("bank-a")
    found = upkeep(federation)
    former = load_signing_identity(folder).key.verifying_key
    for until in (int(time.time()) + 3600, 0):
        following = prepare_next(federation, folder)
        name_next(federation, former_until=until)
        found.keep()
        if until:
            assert key_of(found) == former
            number = found._participant.member.roster.number
            monkeypatch.setattr(time, "time", lambda at=until: float(at))
            monkeypatch.setattr(membership_module, "datetime", Later)
            with caplog.at_level(logging.WARNING):
                found.keep()
            monkeypatch.undo()
            assert f"signs with the key {following.fingerprint.hex()} instead of" in caplog.text
            assert found._participant.member.roster.number == number
            for end in ("pem", "key"):
                (folder / f"signing-next.{end}").replace(folder / f"signing.{end}")
        assert key_of(found) == following


class Later(datetime):
    """An hour later than it is."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
        """Return the time of an hour from now."""
        return datetime.now(tz) + timedelta(hours=1)


def key_of(found: Upkeep) -> VerifyingKey:
    return found._participant.member.identity.key.verifying_key


def test_a_former_key_of_the_aggregator_that_was_revoked_signs_no_round(federation: Federation, tmp_path: Path) -> None:
    """The aggregator itself is a member as before."""
    prepare_next(federation, federation.aggregator)
    former = name_next(federation).party(federation.aggregator_uri).former
    assert former is not None
    path = publish_crl(federation, tmp_path / "crl.pem", number=1)
    found = upkeep(federation, path)
    found.keep()
    aggregator = found._participant._aggregator
    assert aggregator.former == former
    publish_crl(federation, path, [federation.aggregator], number=2, certificates=["signing.pem"])
    found.keep()
    # The list has the certificate in the folder, and the roster names the one that was made with the next key.
    assert found._participant._aggregator.former == former
    (tmp_path / "revoked").mkdir()
    assert former.certificate is not None
    (entry,) = [
        one for one in federation.authority.ledger.entries() if int(one.serial, 16) == former.certificate.serial
    ]
    certificate = federation.authority.ledger.certificate(entry.sha256)
    assert certificate is not None
    (tmp_path / "revoked" / "signing.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    publish_crl(federation, path, [tmp_path / "revoked"], number=3)
    found.keep()
    assert found._participant._aggregator == replace(aggregator, former=None)
