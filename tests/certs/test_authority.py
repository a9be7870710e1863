"""The authority's folder: what is made is whole and verifies, and what fails leaves no trace."""

import json
import shutil
import stat
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from certs import authority as module
from certs import founding
from certs.authority import Authority
from certs.entry import State
from certs.identity import Identity
from certs.ledger import Writing
from certs.rekeying import read_record
from certs.rosters import DEFAULT_WEIGHT_CAP
from pqfl_transport.content.recipients import ReceivingKey, RecipientKey
from pqfl_transport.errors import CertificateError, ConfigurationError, MessageError
from pqfl_transport.pki import chain, keystore
from pqfl_transport.pki.passphrases import fixed
from pqfl_transport.pki.profiles import PROFILES, Usage
from pqfl_transport.pki.statements import Statement, sign_statement
from pqfl_transport.policy import SecurityLevel, Verdict, Withdrawal, for_level

FILES = {
    "federation.json", "root.pem", "root.key", "issuing.pem", "issuing.key", "ca.pem", "roster.json", "ledger.db",
    "log.key", "log.pub",
}  # fmt: skip


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An authority with one site, to be copied."""
    folder = tmp_path_factory.mktemp("template")
    Authority.create(folder / "ca", federation="fed").issue(profile="site", name="first", out=folder / "first")
    return folder / "ca"


@pytest.fixture
def ca(template: Path, tmp_path: Path) -> Authority:
    """An authority of this test's own."""
    return Authority.open(Path(shutil.copytree(template, tmp_path / "ca")))


def snapshot(folder: Path) -> dict[str, bytes]:
    """Every file below a folder with its content."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refusal(error: pytest.ExceptionInfo[ConfigurationError], *parts: object) -> str:
    """The reason of an error whose message has these parts."""
    for part in parts:
        assert str(part) in str(error.value)
    return error.value.reason


@pytest.mark.parametrize("level", list(SecurityLevel))
def test_a_new_authority_is_a_chain_an_empty_roster_and_a_ledger(tmp_path: Path, level: SecurityLevel) -> None:
    """All files are there, private keys 0600, and the roster is number 1 under the root's signature."""
    now = datetime(2026, 7, 1, tzinfo=UTC)
    made = Authority.create(tmp_path / "ca", federation="fed", level=level, now=now)
    assert {path.name for path in made.folder.iterdir()} == FILES
    for name in ("root.key", "issuing.key", "log.key"):
        assert stat.S_IMODE((made.folder / name).stat().st_mode) == 0o600
    root, issuing = keystore.load_anchors(made.ca_path)
    assert chain.is_self_signed(root)
    assert issuing.issuer == root.subject
    roster = made.roster()
    assert (roster.number, roster.level, dict(roster.parties)) == (1, level, {})
    assert roster.issued_at == int(now.timestamp())
    assert [entry.usage for entry in made.ledger.entries()] == ["root", "issuing"]
    assert Authority.open(tmp_path / "ca") == made


def test_the_defaults(tmp_path: Path) -> None:
    """Without further words a federation is called pqfl and is of level high."""
    made = Authority.create(tmp_path / "ca")
    assert (made.federation, made.level) == ("pqfl", SecurityLevel.HIGH)


@pytest.mark.parametrize("profile", list(PROFILES))
def test_what_is_issued_verifies_for_its_use(ca: Authority, profile: str) -> None:
    """A party's certificates lead to the root in its own ca.pem, each for its one use."""
    out = ca.folder.parent / "party"
    hosts = ["localhost"] if PROFILES[profile].hosts is None else []
    issued = ca.issue(profile=profile, name="one", out=out, hosts=hosts)
    anchors = keystore.load_anchors(out / "ca.pem")
    row = PROFILES[profile]
    uses = [("tls.pem", row.tls_usage)] + ([("signing.pem", Usage.SIGNING)] if row.has_content_keys else [])
    for name, usage in uses:
        certificate = keystore.load_certificate(out / name)
        party = chain.verify_chain(certificate, anchors, policy=ca.policy, usage=usage, now=datetime.now(UTC))
        assert party == issued.id
    assert str(issued.id) == f"spiffe://fed/{profile}/one"


def test_admission_is_a_new_roster_with_one_party_more(ca: Authority) -> None:
    """The number rises by one, the others stay, and the cap is the site's; an aggregator's is 0."""
    before = ca.roster()
    issued = ca.issue(profile="site", name="second", out=ca.folder.parent / "second", weight_cap=9)
    ca.issue(profile="aggregator", name="main", out=ca.folder.parent / "main", weight_cap=9)
    after = ca.roster()
    assert issued.roster_number == before.number + 1 == after.number - 1
    first = "spiffe://fed/site/first"
    assert after.party(first) == before.party(first)
    assert after.party(first).weight_cap == DEFAULT_WEIGHT_CAP
    assert after.party("spiffe://fed/site/second").weight_cap == 9
    assert after.party("spiffe://fed/aggregator/main").weight_cap == 0
    identity = keystore.load_signing_identity(ca.folder.parent / "second")
    assert after.party(str(identity.id)).signing_key == identity.key.verifying_key


def test_a_gateway_needs_no_root_key_and_no_roster(ca: Authority) -> None:
    """With the root's key in its safe gateways are still issued, and the roster stays byte for byte."""
    (ca.folder / "root.key").unlink()
    before = ca.roster_path.read_bytes()
    assert ca.issue(profile="gateway", name="hub", out=ca.folder.parent / "hub").roster_number is None
    assert ca.roster_path.read_bytes() == before


def test_without_the_root_key_nobody_is_admitted(ca: Authority) -> None:
    """The message says why the key is needed, and nothing is made."""
    (ca.folder / "root.key").unlink()
    before = snapshot(ca.folder.parent)
    with pytest.raises(ConfigurationError) as caught:
        ca.issue(profile="site", name="second", out=ca.folder.parent / "second")
    assert refusal(caught, ca.folder / "root.key", "offline") == "missing"
    assert snapshot(ca.folder.parent) == before


def test_the_ledger_has_every_certificate(ca: Authority) -> None:
    """What is issued is one line a certificate, with the certificate's own fingerprint."""
    issued = ca.issue(profile="site", name="second", out=ca.folder.parent / "second")
    entries = ca.ledger.entries()
    assert entries[-2:] == issued.entries
    assert [(entry.id, entry.usage) for entry in issued.entries] == [
        ("spiffe://fed/site/second", "client"),
        ("spiffe://fed/site/second", "signing"),
    ]
    assert len({entry.serial for entry in entries}) == len(entries) == 6


def test_a_name_is_issued_once(ca: Authority) -> None:
    """A second identity of one ID is refused; the same name in another role is another party."""
    before = snapshot(ca.folder.parent)
    with pytest.raises(ConfigurationError) as caught:
        ca.issue(profile="site", name="first", out=ca.folder.parent / "again")
    assert refusal(caught, "spiffe://fed/site/first", ca.ledger.path) == "already_issued"
    assert snapshot(ca.folder.parent) == before
    ca.issue(profile="gateway", name="first", out=ca.folder.parent / "gateway")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"profile": "hospital"}, "unknown_profile"),
        ({"name": "Second"}, "bad_name"),
        ({"name": ""}, "bad_name"),
        ({"hosts": ["two words"]}, "bad_host"),
        ({"hosts": ["localhost"]}, "bad_host"),
        ({"days": 0}, "bad_validity"),
        ({"days": 10_000}, "bad_validity"),
        ({"weight_cap": -1}, "bad_weight_cap"),
        ({"weight_cap": 2**63}, "bad_weight_cap"),
    ],
)
def test_a_bad_argument_makes_nothing(ca: Authority, arguments: dict[str, object], reason: str) -> None:
    """Every refusal has its reason and leaves the authority and the target as they were."""
    before = snapshot(ca.folder.parent)
    good = {"profile": "site", "name": "second", "out": ca.folder.parent / "second"}
    with pytest.raises((ConfigurationError, CertificateError)) as caught:
        ca.issue(**good | arguments)  # type: ignore[arg-type]
    assert caught.value.reason == reason
    assert snapshot(ca.folder.parent) == before
    assert not (ca.folder.parent / "second").exists()


def test_nothing_is_issued_over_something(ca: Authority) -> None:
    """A target that holds something is refused before the ledger knows of anything."""
    before = snapshot(ca.folder.parent)
    with pytest.raises(ConfigurationError) as caught:
        ca.issue(profile="site", name="second", out=ca.folder)
    assert refusal(caught, ca.folder) == "exists"
    assert snapshot(ca.folder.parent) == before


class _Crash(BaseException):
    """An end that no code of ours catches."""


def crash(*_arguments: object, **_named: object) -> None:
    """Stand in for a step that fails."""
    raise _Crash


CRASHES: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "making the keys": lambda patch: patch.setattr(module, "make_identity", crash),
    "writing the identity": lambda patch: patch.setattr(Identity, "write", crash),
    "writing the ledger": lambda patch: patch.setattr(Writing, "enter", crash),
    "signing the roster": lambda patch: patch.setattr(module, "sign_planned", crash),
    "describing the party": lambda patch: patch.setattr(Identity, "party", crash),
    "publishing the folder": lambda patch: patch.setattr(Path, "rename", crash),
}


@pytest.mark.parametrize("step", CRASHES.values(), ids=CRASHES.keys())
def test_a_crash_in_the_middle_leaves_nothing_half_made(
    ca: Authority, monkeypatch: pytest.MonkeyPatch, step: Callable[[pytest.MonkeyPatch], None]
) -> None:
    """Roster and folder change together or not at all, and the same name can then be issued.

    What was signed by then stays in the ledger: withdrawn, because it never left.
    """
    before, certificates = snapshot(ca.folder.parent), ca.ledger.entries()
    with monkeypatch.context() as patch:
        step(patch)
        with pytest.raises(_Crash):
            ca.issue(profile="site", name="second", out=ca.folder.parent / "second")
    after = snapshot(ca.folder.parent)
    assert after | {"ca/ledger.db": b""} == before | {"ca/ledger.db": b""}
    assert {entry.state for entry in ca.ledger.entries()[len(certificates) :]} <= {State.WITHDRAWN}
    assert not (ca.folder.parent / "second").exists()
    assert ca.issue(profile="site", name="second", out=ca.folder.parent / "second").roster_number == 3


def test_a_crash_while_it_is_made_leaves_no_authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with a root but without a roster would look like an authority."""
    monkeypatch.setattr(founding, "sign_roster", crash)
    with pytest.raises(_Crash):
        Authority.create(tmp_path / "ca")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("federation", "level"), [("Fed", "high"), ("fed", "low")])
def test_no_authority_of_a_bad_name_or_level(tmp_path: Path, federation: str, level: str) -> None:
    """Names and levels are checked before anything is written."""
    with pytest.raises((ConfigurationError, CertificateError)):
        Authority.create(tmp_path / "ca", federation=federation, level=level)
    assert list(tmp_path.iterdir()) == []


def test_no_authority_over_another(ca: Authority) -> None:
    """Making an authority where one is would lose its keys."""
    before = snapshot(ca.folder)
    with pytest.raises(ConfigurationError) as caught:
        Authority.create(ca.folder)
    assert refusal(caught, ca.folder) == "exists"
    assert snapshot(ca.folder) == before


def test_two_at_once_are_both_admitted(ca: Authority) -> None:
    """Two processes that issue at the same time wait for each other; neither's party is lost from the roster."""
    failures: list[BaseException] = []

    def issue(name: str) -> None:
        try:
            ca.issue(profile="site", name=name, out=ca.folder.parent / name)
        except BaseException as error:  # noqa: BLE001 -- a thread's error is asserted on below
            failures.append(error)

    threads = [threading.Thread(target=issue, args=[f"site-{number}"]) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert ca.roster().number == 2 + 4
    assert len(ca.roster().parties) == 1 + 4


def test_validity_is_the_profiles_or_what_is_left_of_the_issuers(ca: Authority) -> None:
    """90 days where nobody says otherwise, and fewer when the issuing authority ends before."""
    (issuing_end,) = [entry.not_after for entry in ca.ledger.entries() if entry.usage == "issuing"]
    late = datetime.fromisoformat(issuing_end) - timedelta(days=10, hours=1)
    issued = ca.issue(profile="gateway", name="late", out=ca.folder.parent / "late", now=late)
    assert issued.entries[0].not_after == issuing_end
    now = datetime.now(UTC)
    issued = ca.issue(profile="gateway", name="soon", out=ca.folder.parent / "soon", now=now)
    assert issued.entries[0].not_after == f"{now + timedelta(days=90):%Y-%m-%dT%H:%M:%SZ}"


def test_an_expired_issuer_issues_nothing(ca: Authority) -> None:
    """The message names the certificate that has ended."""
    with pytest.raises(ConfigurationError) as caught:
        ca.issue(
            profile="gateway", name="hub", out=ca.folder.parent / "hub", now=datetime.now(UTC) + timedelta(days=2000)
        )
    assert refusal(caught, ca.folder / "issuing.pem") == "expired"


def test_a_key_that_is_not_the_authoritys_is_refused(ca: Authority, tmp_path: Path) -> None:
    """A key brought from the wrong medium would sign what nobody accepts."""
    other = Authority.create(tmp_path / "other", federation="fed")
    for name in ("issuing", "root"):
        kept = (ca.folder / f"{name}.key").read_bytes()
        (ca.folder / f"{name}.key").write_bytes((other.folder / f"{name}.key").read_bytes())
        before = snapshot(ca.folder)
        with pytest.raises(ConfigurationError) as caught:
            ca.issue(profile="site", name="second", out=tmp_path / "second")
        assert refusal(caught, ca.folder / f"{name}.key") == "key_mismatch"
        assert snapshot(ca.folder) == before
        (ca.folder / f"{name}.key").write_bytes(kept)


def test_a_loose_authority_key_is_refused(ca: Authority) -> None:
    """An issuing key that others can read is not used."""
    (ca.folder / "issuing.key").chmod(0o644)
    with pytest.raises(ConfigurationError) as caught:
        ca.issue(profile="gateway", name="hub", out=ca.folder.parent / "hub")
    assert refusal(caught, ca.folder / "issuing.key", "chmod 600") == "loose_permissions"


def test_a_forged_roster_is_not_signed_again(ca: Authority, tmp_path: Path) -> None:
    """A roster that the root did not sign never becomes a signed one by way of the next admission."""
    other = Authority.create(tmp_path / "other", federation="fed")
    ca.roster_path.write_bytes(other.roster_path.read_bytes())
    before = snapshot(ca.folder)
    with pytest.raises(ConfigurationError) as caught:
        ca.issue(profile="site", name="second", out=ca.folder.parent / "second")
    assert caught.value.reason == "unknown_signer"
    assert snapshot(ca.folder) == before


SETTINGS = {"pqfl": "federation/v1", "federation": "fed", "level": "high"}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "malformed"),
        ("[]", "malformed"),
        (json.dumps(SETTINGS | {"pqfl": "federation/v2"}), "malformed"),
        (json.dumps(SETTINGS | {"more": 1}), "malformed"),
        (json.dumps(SETTINGS | {"federation": 1}), "malformed"),
        (json.dumps(SETTINGS | {"federation": "../etc"}), "malformed"),
        (json.dumps(SETTINGS | {"level": "low"}), "malformed"),
    ],
)
def test_damaged_settings_are_named(ca: Authority, text: str, reason: str) -> None:
    """The file is in the message, whatever is wrong in it."""
    path = ca.folder / "federation.json"
    path.write_text(text)
    with pytest.raises(ConfigurationError) as caught:
        Authority.open(ca.folder)
    assert refusal(caught, path) == reason


def test_a_folder_that_is_no_authority_is_named(tmp_path: Path) -> None:
    """The missing file is in the message, for a missing folder and for another one."""
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(ConfigurationError) as caught:
            Authority.open(folder)
        assert refusal(caught, folder / "federation.json") == "missing"


def test_the_policy_is_the_levels(ca: Authority) -> None:
    """An authority of level high makes what the policy of that level lists."""
    assert ca.policy == for_level("high")


def rotated(folder: Path, made: int) -> tuple[bytes, RecipientKey]:
    """A site's statement of a new receiving key, and that key."""
    identity = keystore.load_signing_identity(folder)
    key = ReceivingKey.generate("ML-KEM-768+X25519").public
    statement = Statement(identity.id, key.to_bytes(), made, made + 1000)
    return sign_statement(statement, identity.key), key


def test_a_new_receiving_key_is_a_new_roster(ca: Authority, template: Path) -> None:
    """Number, key and fingerprint change; signing key and weight cap stay, and the record says what was done."""
    now = datetime.now(UTC)
    data, key = rotated(template.parent / "first", int(now.timestamp()))
    before = ca.roster()
    taken, number = ca.rekey(data, now=now)
    (uri,) = before.parties
    after = ca.roster().party(uri)
    assert (number, ca.roster().number) == (before.number + 1, before.number + 1)
    assert (after.receiving_key, after.receiving_fingerprint) == (key.to_bytes(), key.fingerprint)
    assert (after.signing_key, after.weight_cap) == (before.party(uri).signing_key, before.party(uri).weight_cap)
    assert (taken.after, taken.before) == (key.fingerprint.hex(), before.party(uri).receiving_fingerprint.hex())
    assert read_record(ca.record_path) == (taken,)
    with pytest.raises(MessageError) as caught:
        ca.rekey(data, now=now)
    assert caught.value.reason == "already_listed"


def test_a_rekeying_that_fails_leaves_roster_and_record(ca: Authority, template: Path) -> None:
    """Without the root's key nothing is taken, and the same statement is good once it is there."""
    now = datetime.now(UTC)
    data, key = rotated(template.parent / "first", int(now.timestamp()))
    root, roster = (ca.folder / "root.key").read_bytes(), ca.roster_path.read_bytes()
    (ca.folder / "root.key").unlink()
    with pytest.raises(ConfigurationError, match=r"root\.key"):
        ca.rekey(data, now=now)
    assert (ca.roster_path.read_bytes(), read_record(ca.record_path)) == (roster, ())
    keystore.write_secret(ca.folder / "root.key", root)
    assert ca.rekey(data, now=now)[0].after == key.fingerprint.hex()


def test_an_authority_under_a_passphrase(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both of its keys are encrypted, it works with the passphrase alone, and its parties may have another one."""
    monkeypatch.delenv("PQFL_PASSPHRASE", raising=False)
    Authority.create(tmp_path / "ca", federation="fed", passphrase=b"of the authority")
    for name in ("root.key", "issuing.key"):
        assert b"ENCRYPTED" in (tmp_path / "ca" / name).read_bytes()
    locked = Authority.open(tmp_path / "ca")
    with pytest.raises(ConfigurationError) as caught:
        locked.issue(profile="site", name="north", out=tmp_path / "north")
    assert refusal(caught, ".key") == "no_passphrase"
    opened = Authority.open(tmp_path / "ca", fixed("of the authority"))
    opened.issue(profile="site", name="north", out=tmp_path / "north", passphrase=b"of the site")
    assert keystore.load_signing_identity(tmp_path / "north", passphrases=fixed("of the site"))
    assert all(b"ENCRYPTED" in path.read_bytes() for path in (tmp_path / "north").glob("*.key"))


SOON = int(datetime(2030, 1, 1, tzinfo=UTC).timestamp())


def broken(name: str) -> Withdrawal:
    return Withdrawal(name, Verdict.BROKEN, 0, "a paper")


def test_advisories_are_numbered_and_hold_what_the_last_one_held(ca: Authority) -> None:
    """Nothing that was withdrawn comes back by being left out; it comes back by its name alone."""
    assert ca.advisory() is None
    first = ca.advise([broken("SecP256r1MLKEM768")], expires_at=SOON)
    second = ca.advise([broken("RSA")], expires_at=SOON)
    assert (first.number, second.number, ca.advisory()) == (1, 2, second)
    assert [one.algorithm for one in second.withdrawals] == ["SecP256r1MLKEM768", "RSA"]
    third = ca.advise([], expires_at=SOON + 1, restored=["RSA"])
    assert third.withdrawals == first.withdrawals
    assert third.federation == "fed"


@pytest.mark.parametrize("withdrawals", [[broken("ROT13")], [broken("RSA"), broken("")]])
def test_an_advisory_that_no_reader_would_take_is_not_signed(ca: Authority, withdrawals: list[Withdrawal]) -> None:
    """The former one stays as it was."""
    ca.advise([broken("RSA")], expires_at=SOON)
    before = snapshot(ca.folder)
    with pytest.raises(MessageError):
        ca.advise(withdrawals, expires_at=SOON)
    assert snapshot(ca.folder) == before


def test_only_the_root_can_withdraw(ca: Authority) -> None:
    """While root.key is offline nothing is withdrawn, and nothing restored that was not withdrawn."""
    with pytest.raises(ConfigurationError) as caught:
        ca.advise([], expires_at=SOON, restored=["RSA"])
    assert refusal(caught, "RSA") == "not_withdrawn"
    (ca.folder / "root.key").unlink()
    with pytest.raises(ConfigurationError) as caught:
        ca.advise([broken("RSA")], expires_at=SOON)
    assert refusal(caught, "root.key", "offline") == "missing"
    assert ca.advisory() is None


def test_a_changed_advisory_is_no_beginning_for_the_next(ca: Authority) -> None:
    """Numbers would start again, and every reader would refuse them."""
    ca.advise([broken("RSA")], expires_at=SOON)
    ca.advisory_path.write_bytes(ca.advisory_path.read_bytes().replace(b"a paper", b"a tales"))
    with pytest.raises(ConfigurationError) as caught:
        ca.advise([], expires_at=SOON)
    assert refusal(caught, ca.advisory_path) == "malformed"
