import shutil
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pqfl_transport import renewal
from pqfl_transport.crypto import pkcs8
from pqfl_transport.errors import (
    CertificateError,
    ConfigurationError,
    MessageError,
    PeerError,
    PolicyError,
    TransportError,
)
from pqfl_transport.pki import chain, keystore
from pqfl_transport.pki.keystore import load_certificate, load_signing_key, write_secret
from pqfl_transport.pki.membership import load_membership
from pqfl_transport.pki.passphrases import fixed
from pqfl_transport.pki.ruling import load_policy
from pqfl_transport.pki.signing_files import SWITCH_SECONDS, has_next
from pqfl_transport.pki.spiffe import Role
from pqfl_transport.policy import SecurityLevel
from pqfl_transport.renewal import RenewalFiles, Renewer
from tests.support.enrolment import serving
from tests.support.pki import Federation, expired, make_federation
from tests.support.rekeying import name_next, prepare_next

ROOT = Path(__file__).resolve().parents[2]
MOVING = ROOT / "certs" / "moving.toml"


@pytest.fixture
def federation(tmp_path: Path) -> Federation:
    return make_federation(tmp_path / "fed", sites=("north", "south"))


def key_of(folder: Path) -> bytes:
    return load_signing_key(folder / "tls.key").verifying_key.spki


def pair_fits(folder: Path) -> bool:
    return chain.verifying_key(load_certificate(folder / "tls.pem")).spki == key_of(folder)


def test_a_site_renews_both_certificates(federation: Federation) -> None:
    """The TLS certificate gets a new key; the signing key stays, as the roster names it, and the next one waits."""
    north = federation.site("north")
    before, signing_before = load_certificate(north / "tls.pem"), load_certificate(north / "signing.pem")
    with serving(federation) as service:
        renewed = service.renewer().renew_folder(north)
    assert load_certificate(north / "tls.pem") == renewed.tls != before
    assert chain.verifying_key(renewed.tls) != chain.verifying_key(before)
    assert renewed.signing is not None
    assert renewed.signing != signing_before
    assert chain.verifying_key(renewed.signing) == chain.verifying_key(signing_before)
    assert pair_fits(north)
    assert keystore.load_signing_identity(north).certificate == renewed.signing
    following = keystore.load_signing_identity(north, name="signing-next")
    assert following.certificate == renewed.next_signing
    assert (north / "signing-next.key").stat().st_mode & 0o777 == 0o600
    assert following.key.verifying_key != keystore.load_signing_identity(north).key.verifying_key
    (candidate,) = federation.authority.ledger.candidates()
    assert candidate.signing_key == following.key.verifying_key.spki


def test_keys_are_kept_where_that_is_asked_for(federation: Federation) -> None:
    """With kept keys only the certificates are others, also that of a next key that waits already."""
    north = federation.site("north")
    before = key_of(north)
    with serving(federation) as service:
        assert service.renewer(keep_keys=True).renew_folder(north).next_signing is None
        assert key_of(north) == before
        assert pair_fits(north)
        assert not has_next(north)
        following = prepare_next(federation, north)
        renewed = service.renewer(keep_keys=True).renew_folder(north)
    assert renewed.next_signing is not None
    assert chain.verifying_key(renewed.next_signing) == following


@pytest.mark.parametrize("who", ["gateway", "aggregator"])
def test_who_only_listens_renews_without_a_client_certificate(federation: Federation, who: str) -> None:
    """A server's certificate is no client's: its key signs the request, and the host names stay."""
    folder: Path = getattr(federation, who)
    before = load_certificate(folder / "tls.pem")
    with serving(federation) as service:
        renewed = service.renewer().renew_folder(folder)
    assert pair_fits(folder)
    names = [one.value for one in before.extensions if one.oid.dotted_string == "2.5.29.17"]
    assert names == [one.value for one in renewed.tls.extensions if one.oid.dotted_string == "2.5.29.17"]


def test_a_sidecar_renews_with_its_tls_key_alone(federation: Federation, tmp_path: Path) -> None:
    """A folder without signing key, as a sidecar should have it, renews its TLS certificate."""
    sidecar = tmp_path / "sidecar"
    sidecar.mkdir()
    for name in ("tls.pem", "tls.key", "ca.pem"):
        shutil.copy2(federation.site("north") / name, sidecar / name)
    files = RenewalFiles.within(sidecar / "tls.pem", sidecar / "tls.key", sidecar / "ca.pem")
    with serving(federation) as service:
        renewed = service.renewer().renew_tls(files, sidecar / "ca.pem")
    assert renewed.signing is None
    assert pair_fits(sidecar)


def test_an_encrypted_key_stays_encrypted(federation: Federation) -> None:
    """The new key is under the same passphrase, and never lies about without it."""
    north = federation.site("north")
    pem = pkcs8.encrypt(load_signing_key(north / "tls.key").to_pem(), b"correct horse battery")
    write_secret(north / "tls.key", pem, overwrite=True)
    with serving(federation) as service:
        service.renewer(passphrases=fixed("correct horse battery")).renew_folder(north)
    stored = (north / "tls.key").read_bytes()
    assert pkcs8.is_encrypted(stored)
    key = load_signing_key(north / "tls.key", fixed("correct horse battery"))
    assert chain.verifying_key(load_certificate(north / "tls.pem")) == key.verifying_key


def test_an_interrupted_renewal_goes_on_with_the_same_key(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut off before the files changed, the next attempt gets the very certificates that were made already."""
    north = federation.site("north")
    with serving(federation) as service:
        renewer = service.renewer()
        with monkeypatch.context() as patched:
            patched.setattr(renewal, "replace_together", _interrupt)
            with pytest.raises(KeyboardInterrupt):
                renewer.renew_folder(north)
        assert pair_fits(north)
        renewed = renewer.renew_folder(north)
        assert pair_fits(north)
        entries = federation.authority.ledger.entries(party=federation.site_uri("north"))
        assert len(entries) == 5
        assert renewer.renew_folder(north).tls != renewed.tls


def _interrupt(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def test_nothing_changes_when_the_service_is_down(federation: Federation) -> None:
    """A renewal that cannot be made leaves the folder as it works."""
    north = federation.site("north")
    with serving(federation) as service:
        pass
    before = load_certificate(north / "tls.pem")
    with pytest.raises(TransportError):
        service.renewer(timeout_seconds=5).renew_folder(north)
    assert load_certificate(north / "tls.pem") == before
    assert pair_fits(north)


def test_a_certificate_that_is_over_is_not_renewed(federation: Federation, tmp_path: Path) -> None:
    """Who let it expire has to join again."""
    gone = expired(federation, tmp_path / "gone")
    with serving(federation) as service:
        with pytest.raises((ConfigurationError, PeerError, CertificateError)) as caught:
            service.renewer().renew_folder(gone)
        assert caught.value.reason == "expired"
        assert service.requests == []


def test_answers_that_are_not_what_was_asked_for_change_nothing(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody else's certificate, and authorities with a root that nobody vouches for, are refused."""
    north, south = federation.site("north"), federation.site("south")
    theirs = renewal.Grant(
        load_certificate(south / "tls.pem"), load_certificate(south / "signing.pem"), federation.ca_pem.read_bytes()
    )
    with serving(federation) as service:
        monkeypatch.setattr(renewal, "open_grant", lambda _: (None, theirs))
        with pytest.raises(CertificateError) as caught:
            service.renewer().renew_folder(north)
        assert caught.value.reason == "wrong_answer"
        monkeypatch.setattr(renewal, "open_grant", lambda _: (None, None))
        with pytest.raises(MessageError):
            service.renewer().renew_folder(north)
    assert pair_fits(north)


def test_a_strange_root_is_not_taken_over(federation: Federation, tmp_path: Path) -> None:
    """A service whose authority slipped another root into ca.pem is refused by who renews there."""
    stranger = make_federation(tmp_path / "stranger", sites=())
    with serving(federation) as service:
        federation.ca_pem.write_bytes(federation.ca_pem.read_bytes() + stranger.ca_pem.read_bytes())
        with pytest.raises(CertificateError) as caught:
            service.renewer().renew_folder(federation.site("north"))
    assert caught.value.reason == "wrong_root"
    assert pair_fits(federation.site("north"))


def test_a_pair_in_two_folders_is_refused(tmp_path: Path) -> None:
    """Files that could not be replaced in one step are no files to renew."""
    with pytest.raises(ConfigurationError) as caught:
        RenewalFiles.within(tmp_path / "a" / "tls.pem", tmp_path / "b" / "tls.key", tmp_path / "ca.pem")
    assert caught.value.reason == "two_folders"
    apart = RenewalFiles.within(tmp_path / "a" / "tls.pem", tmp_path / "a" / "tls.key", tmp_path / "ca.pem")
    assert apart.anchors is None


def test_under_a_policy_of_two_levels_keys_follow_the_issuing_authority(tmp_path: Path) -> None:
    """Nothing changes while the next one is announced; then new keys are of its kind, over an interruption too.

    The signing key that the roster names is certified no more, and works until its certificate ends.
    """
    federation = make_federation(tmp_path / "fed", level="standard", sites=("north",))
    north, both = federation.site("north"), load_policy(str(MOVING))
    with serving(federation, policy=both) as service:
        renewer = Renewer(service.address, both)
        federation.authority.rotate_issuing(level=SecurityLevel.HIGH, announce=True)
        signing = load_signing_key(north / "signing.key").verifying_key
        first = renewer.renew_folder(north)
        assert chain.key_algorithm_name(first.tls) == "ML-DSA-44"
        assert load_signing_key(north / "signing-next.key").algorithm == "ML-DSA-44"
        federation.authority.rotate_issuing()
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(renewal, "replace_together", _interrupt)
            with pytest.raises(KeyboardInterrupt):
                renewer.renew_folder(north)
        assert load_signing_key(north / "signing-next.key").algorithm == "ML-DSA-44"
        renewed = renewer.renew_folder(north)
        assert chain.key_algorithm_name(renewed.tls) == "ML-DSA-65"
        assert pair_fits(north)
        assert renewed.signing is None
        assert keystore.load_signing_identity(north).certificate == first.signing
        assert keystore.load_signing_identity(north).key.verifying_key == signing
        assert keystore.load_signing_identity(north, name="signing-next").certificate == renewed.next_signing
        assert load_signing_key(north / "signing-next.key").algorithm == "ML-DSA-65"
        # Two of its making, three under the announced one, two of the new kind: the interrupted attempt got no others.
        assert len(federation.authority.ledger.entries(party=federation.site_uri("north"))) == 7
        name_next(federation)
    with serving(federation, policy=both) as service:
        assert Renewer(service.address, both).renew_folder(north).took_over
    assert load_signing_key(north / "signing.key").algorithm == "ML-DSA-65"


def test_without_that_policy_the_service_knows_nobody_of_the_former_level(tmp_path: Path) -> None:
    """Whoever renews with the old kind of key after the change is told, and keeps what it has."""
    federation = make_federation(tmp_path / "fed", level="standard", sites=("north",))
    north = federation.site("north")
    before = key_of(north)
    with serving(federation, policy=load_policy(str(MOVING))) as service:
        federation.authority.rotate_issuing(level=SecurityLevel.HIGH)
        with pytest.raises(PolicyError) as caught:
            service.renewer().renew_folder(north)
        assert caught.value.reason == "bad_sigalg"
    assert key_of(north) == before


def signing_keys(folder: Path) -> tuple[bytes, ...]:
    """The keys that a folder has, the ordinary one first, each with the certificate that belongs to it."""
    names = ("signing", "signing-next") if has_next(folder) else ("signing",)
    return tuple(keystore.load_signing_identity(folder, name=name).key.verifying_key.spki for name in names)


def test_one_next_key_waits_at_most(federation: Federation) -> None:
    """Until a roster names it, renewals certify it again; when one does, and the overlap lasts, they go on so."""
    north = federation.site("north")
    with serving(federation) as service:
        first = service.renewer().renew_folder(north)
        keys = signing_keys(north)
        assert len(keys) == 2
        for _ in range(2):
            renewed = service.renewer().renew_folder(north)
            assert not renewed.took_over
            assert signing_keys(north) == keys
            assert renewed.next_signing != first.next_signing
            assert load_certificate(north / "signing-next.pem") == renewed.next_signing
            name_next(federation)
    assert federation.authority.roster().party(federation.site_uri("north")).signing_key.spki == keys[1]


def test_the_next_key_takes_over_when_the_former_one_is_over(federation: Federation) -> None:
    """In one step; the former key is erased, and another next one is made."""
    north = federation.site("north")
    with serving(federation) as service:
        service.renewer().renew_folder(north)
        former, following = signing_keys(north)
        secret = (north / "signing.key").read_bytes()
        until = int(time.time()) + 86_400
        name_next(federation, former_until=until)
        assert not service.renewer().renew_folder(north).took_over

        def later() -> datetime:
            return datetime.fromtimestamp(until - SWITCH_SECONDS + 1, UTC)

        renewed = service.renewer(clock=later).renew_folder(north)
        assert renewed.took_over
        keys = signing_keys(north)
        assert keys[0] == following
        assert len({*keys, former}) == 3
        assert load_certificate(north / "signing.pem") == renewed.signing
        assert all(path.read_bytes() != secret for path in north.rglob("*.key"))


def test_with_no_overlap_the_next_key_takes_over_at_once(federation: Federation) -> None:
    """A roster that names the former key no more is the end of it, with kept keys as well."""
    north = federation.site("north")
    with serving(federation) as service:
        service.renewer().renew_folder(north)
        (_, following) = signing_keys(north)
        name_next(federation, former_until=0)
        assert service.renewer(keep_keys=True).renew_folder(north).took_over
    assert signing_keys(north) == (following,)
    assert not (north / "signing-next.key").is_symlink()


def test_a_candidate_has_no_next_key(federation: Federation, tmp_path: Path) -> None:
    """Its words were read to the hub, and the roster that admits it names that very key."""
    with serving(federation) as service:
        out = tmp_path / "west"
        joined = service.joiner(service.token("west"), out).join()
        assert service.renewer().renew_folder(out).next_signing is None
        name_next(federation)
        fingerprint = federation.authority.roster().party("spiffe://fed/site/west").signing_key.fingerprint
        assert fingerprint == joined.signing_fingerprint
        assert service.renewer().renew_folder(out).next_signing is not None


def test_an_encrypted_signing_key_has_an_encrypted_next_one(federation: Federation) -> None:
    """Under the same passphrase, also after it took over."""
    north = federation.site("north")
    phrase = b"correct horse battery"
    pem = pkcs8.encrypt(load_signing_key(north / "signing.key").to_pem(), phrase)
    write_secret(north / "signing.key", pem, overwrite=True)
    with serving(federation) as service:
        renewer = service.renewer(passphrases=fixed(phrase))
        renewer.renew_folder(north)
        for name in ("signing.key", "signing-next.key"):
            assert pkcs8.is_encrypted((north / name).read_bytes())
        name_next(federation, former_until=0)
        assert renewer.renew_folder(north).took_over
    assert pkcs8.is_encrypted((north / "signing.key").read_bytes())
    load_signing_key(north / "signing.key", fixed(phrase))


def test_another_root_s_roster_moves_nothing(federation: Federation, tmp_path: Path) -> None:
    """A roster that our root has not signed is no reason to let a key take over."""
    north = federation.site("north")
    stranger = make_federation(tmp_path / "stranger", sites=("north",))
    with serving(federation) as service:
        service.renewer().renew_folder(north)
        keys = signing_keys(north)
        federation.roster.write_bytes(stranger.roster.read_bytes())
        with pytest.raises(MessageError) as caught:
            service.renewer().renew_folder(north)
        assert caught.value.reason == "unknown_signer"
    assert signing_keys(north) == keys


KILLED = """
import os, signal, sys
from pathlib import Path
from pqfl_transport.pki import swapping
from pqfl_transport.renewal import _take_over
count, at = 0, int(sys.argv[2])
def dying(function):
    def call(*arguments, **options):
        global count
        count += 1
        if count == at:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **options)
    return call
for name in ("write_public", "write_secret", "sync_folder", "replace_secret", "_point"):
    setattr(swapping, name, dying(getattr(swapping, name)))
_take_over(Path(sys.argv[1]))
print(count)
"""


def test_killed_while_a_key_takes_over_the_folder_works(federation: Federation, tmp_path: Path) -> None:
    """Wherever the process dies, the folder has the former pair and the next or the next alone; renewing goes on."""
    north = federation.site("north")
    former = signing_keys(north)[0]
    prepare_next(federation, north)
    following = signing_keys(north)[1]
    name_next(federation, former_until=0)

    def take_over(at: int) -> tuple[Path, subprocess.CompletedProcess[str]]:
        trial = shutil.copytree(north, tmp_path / f"trial-{at}", symlinks=True)
        words = [sys.executable, "-c", KILLED, str(trial), str(at)]
        return trial, subprocess.run(words, check=False, cwd=ROOT, capture_output=True, text=True)

    steps = int(take_over(0)[1].stdout)
    seen = set()
    for at in (1, steps // 3, steps // 2, *range(steps - 9, steps + 1, 3)):
        trial, done = take_over(at)
        assert done.returncode == -9, done.stderr
        seen.add(signing_keys(trial))
        member = load_membership(trial, federation.ca_pem, federation.roster, role=Role.SITE)
        assert member.identity.key.verifying_key.spki == following
    assert seen == {(former, following), (following,)}
    with serving(federation) as service:
        for at in (1, steps // 2, steps - 9):
            trial = tmp_path / f"trial-{at}"
            service.renewer().renew_folder(trial)
            assert signing_keys(trial)[0] == following
