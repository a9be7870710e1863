import shutil
from pathlib import Path

import pytest

from pqfl_transport import renewal
from pqfl_transport.crypto import pkcs8
from pqfl_transport.errors import CertificateError, ConfigurationError, MessageError, PeerError, TransportError
from pqfl_transport.pki import chain, keystore
from pqfl_transport.pki.keystore import load_certificate, load_signing_key, write_secret
from pqfl_transport.pki.passphrases import fixed
from pqfl_transport.renewal import RenewalFiles
from tests.support.enrolment import serving
from tests.support.pki import Federation, expired, make_federation


@pytest.fixture
def federation(tmp_path: Path) -> Federation:
    return make_federation(tmp_path / "fed", sites=("north", "south"))


def key_of(folder: Path) -> bytes:
    return load_signing_key(folder / "tls.key").verifying_key.spki


def pair_fits(folder: Path) -> bool:
    return chain.verifying_key(load_certificate(folder / "tls.pem")).spki == key_of(folder)


def test_a_site_renews_both_certificates(federation: Federation) -> None:
    """The TLS certificate gets a new key, the signing certificate keeps the key that the roster names."""
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


def test_keys_are_kept_where_that_is_asked_for(federation: Federation) -> None:
    """With kept keys only the certificate is another one."""
    north = federation.site("north")
    before = key_of(north)
    with serving(federation) as service:
        service.renewer(keep_keys=True).renew_folder(north)
    assert key_of(north) == before
    assert pair_fits(north)


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
        assert len(entries) == 4
        assert renewer.renew_folder(north).tls != renewed.tls


def _interrupt(*_: object) -> None:
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
