"""A twin is renewed over the post-quantum certificate, and nothing changes where the answer is not what was asked."""

import shutil
from pathlib import Path

import pytest
from cryptography import x509

from pqfl_transport import twin_renewal
from pqfl_transport.crypto import pkcs8
from pqfl_transport.errors import CertificateError, ConfigurationError, PqflError, TransportError
from pqfl_transport.pki import chain, keystore
from pqfl_transport.pki.passphrases import fixed
from pqfl_transport.pki.spiffe import SpiffeId
from pqfl_transport.pki.twin_renewal import TwinGrant
from pqfl_transport.pki.twins import create_classical, key_from_pem
from pqfl_transport.renewal import RenewalFiles
from pqfl_transport.twin_renewal import TwinFiles, TwinRenewer
from tests.support.classical import make_leaf, make_root, pem, write_classical
from tests.support.enrolment import Service, serving
from tests.support.pki import Federation, make_federation

NAMES = ("classical.pem", "classical.key", "classical-ca.pem")


@pytest.fixture
def federation(tmp_path: Path) -> Federation:
    """A gateway and two sites, each with its twin beside its other files."""
    made = make_federation(tmp_path / "fed", sites=("north", "south"))
    made.authority.create_classical()
    for uri, folder in identities(made).items():
        out = tmp_path / "out" / folder.name
        made.authority.issue_twin(SpiffeId.parse(uri), out=out)
        for name in NAMES:
            (out / name).rename(folder / name)
    return made


def identities(federation: Federation) -> dict[str, Path]:
    sites = {federation.site_uri(name): federation.site(name) for name in federation.sites}
    return sites | {federation.gateway_uri: federation.gateway}


def renewer(service: Service, **options: object) -> TwinRenewer:
    return TwinRenewer(service.address, service.federation.authority.policy, **options)  # type: ignore[arg-type]


def renew(service: Service, folder: Path, **options: object) -> x509.Certificate:
    files = TwinFiles.in_folder(folder)
    assert files is not None
    tls = RenewalFiles(folder / "tls.pem", folder / "tls.key")
    return renewer(service, **options).renew(tls, folder / "ca.pem", files)


def present(folder: Path) -> x509.Certificate:
    return keystore.load_certificate(folder / "classical.pem")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def reason(service: Service, folder: Path, **options: object) -> str:
    """The reason for which it is refused, and not one byte is another one afterwards."""
    before = contents(folder)
    with pytest.raises(PqflError) as caught:
        renew(service, folder, **options)
    assert contents(folder) == before
    return caught.value.reason


def test_sites_and_gateways_renew_their_twins(federation: Federation) -> None:
    """A new key, the same names, beside a TLS certificate that stays; the ledger knows it."""
    for uri, folder in identities(federation).items():
        before, tls = present(folder), (folder / "tls.pem").read_bytes()
        with serving(federation) as service:
            renewed = renew(service, folder)
        assert present(folder) == renewed != before
        assert key_from_pem((folder / "classical.key").read_bytes()).public_key() == renewed.public_key()
        assert renewed.public_key() != before.public_key()
        names = [one.extensions.get_extension_for_class(x509.SubjectAlternativeName) for one in (before, renewed)]
        assert names[0] == names[1]
        assert (folder / "tls.pem").read_bytes() == tls
        assert "classical" in federation.authority.ledger.entries(party=uri)[-1].usage
        assert service.reports.names() == ["twin_renewed"]


def test_a_folder_without_a_twin_has_nothing_to_renew(federation: Federation) -> None:
    """So says the folder."""
    assert TwinFiles.in_folder(federation.aggregator) is None


def test_who_was_revoked_renews_no_twin(federation: Federation) -> None:
    """The party, or its twin alone."""
    north, south = federation.site("north"), federation.site("south")
    federation.authority.revoke("north", "keyCompromise")
    federation.authority.revoke(f"{present(south).serial_number:x}", "keyCompromise")
    with serving(federation) as service:
        assert reason(service, north) == "revoked"
        assert reason(service, south) == "revoked"


def test_a_twin_of_another_authority_is_left_alone(federation: Federation) -> None:
    """Whoever brings a certificate of his own authority renews it himself: nothing is asked."""
    north = federation.site("north")
    own = make_root("own authority")
    write_classical(north / "own", own, *make_leaf(own, uris=(federation.site_uri("north"),)))
    files = TwinFiles(north / "own" / "tls.pem", north / "own" / "tls.key", north / "own" / "ca.pem")
    assert files.present(SpiffeId.parse(federation.site_uri("north"))) is None
    with serving(federation) as service, pytest.raises(ConfigurationError) as caught:
        renewer(service).renew(RenewalFiles(north / "tls.pem", north / "tls.key"), north / "ca.pem", files)
    assert caught.value.reason == "no_twin"
    assert service.requests == []


def test_somebody_elses_twin_is_not_renewed(federation: Federation) -> None:
    """South's twin in north's folder is none of north."""
    north, south = federation.site("north"), federation.site("south")
    for name in NAMES:
        shutil.copy(south / name, north / name)
    with serving(federation) as service:
        assert reason(service, north) == "no_twin"


def test_after_the_migration_there_is_no_issuer(federation: Federation) -> None:
    """Its files were removed at the hub, and the twin goes on to its end."""
    (federation.ca / "classical.pem").unlink()
    with serving(federation) as service:
        assert reason(service, federation.site("north")) == "no_classical_issuer"


def test_an_encrypted_key_stays_encrypted(federation: Federation) -> None:
    """Under the same passphrase; without it nothing is asked."""
    north = federation.site("north")
    words = "correct horse battery"
    encrypted = pkcs8.encrypt((north / "classical.key").read_bytes(), words.encode())
    keystore.write_secret(north / "classical.key", encrypted, overwrite=True)
    with serving(federation) as service:
        assert reason(service, north, passphrases=fixed("wrong")) == "wrong_passphrase"
        renewed = renew(service, north, passphrases=fixed(words))
    stored = (north / "classical.key").read_bytes()
    assert pkcs8.is_encrypted(stored)
    assert key_from_pem(pkcs8.decrypt(stored, words.encode())).public_key() == renewed.public_key()


def test_an_interrupted_renewal_goes_on_with_the_same_key(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut off before the files changed, the next attempt gets the very twin that was made already."""
    north = federation.site("north")
    with serving(federation) as service:
        with monkeypatch.context() as patched:
            patched.setattr(twin_renewal, "replace_together", _interrupt)
            with pytest.raises(KeyboardInterrupt):
                renew(service, north)
        made = federation.authority.ledger.entries(party=federation.site_uri("north"))[-1]
        assert f"{renew(service, north).serial_number:x}" == made.serial
        assert f"{renew(service, north).serial_number:x}" != made.serial


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def test_nothing_changes_when_the_service_is_down(federation: Federation) -> None:
    """A renewal that cannot be made leaves the folder as it works."""
    with serving(federation) as service:
        pass
    with pytest.raises(TransportError):
        renew(service, federation.site("north"), timeout_seconds=5.0)


def test_an_answer_that_is_not_what_was_asked_for_changes_nothing(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The former twin again, or an issuer that is not of this federation, from a hub that lost its way."""
    north = federation.site("north")
    ours = tuple(chain.load_certificates((north / "classical-ca.pem").read_bytes()))
    foreign = create_classical("other", now=present(north).not_valid_before_utc).certificate
    with serving(federation) as service:
        for grant in (TwinGrant(present(north), ours), TwinGrant(present(north), (*ours, foreign))):
            monkeypatch.setattr(twin_renewal, "open_twin_answer", lambda _body, grant=grant: grant)
            with pytest.raises(CertificateError) as caught:
                renew(service, north)
            assert caught.value.reason == "wrong_answer"
            assert present(north) == grant.twin


def test_other_authorities_stay_in_the_trust_store(federation: Federation) -> None:
    """A store that holds an own authority beside the federation's issuer keeps it."""
    north, own = federation.site("north"), make_root("own authority").certificate
    issuer = (north / "classical-ca.pem").read_bytes()
    (north / "classical-ca.pem").write_bytes(pem(own) + issuer)
    with serving(federation) as service:
        renew(service, north)
    assert (north / "classical-ca.pem").read_bytes() == issuer + pem(own)
