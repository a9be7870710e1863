"""What one end is given: wrong files stop it at its start, with their names; rules about peers are exact."""

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat, pkcs12

from pqfl_transport.crypto import pkcs8
from pqfl_transport.errors import ConfigurationError
from pqfl_transport.pki import keystore
from pqfl_transport.pki.passphrases import fixed
from pqfl_transport.pki.profiles import Usage
from pqfl_transport.pki.revocation import open_crls
from pqfl_transport.policy import for_level, for_name
from pqfl_transport.tls import allowed
from pqfl_transport.tls.config import AllowedPeers, ClassicalSide, Role, TlsConfig, TlsIdentity
from pqfl_transport.tls.engine import TlsContext
from tests.support import classical, pki
from tests.support.pki import Federation, make_federation

PREFER = for_name("pq-prefer-2026")


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return make_federation(tmp_path_factory.mktemp("federation"), sites=("bank-a",))


def load(folder: Path, **changes: Path) -> TlsIdentity:
    facts = {"cert_path": folder / "tls.pem", "key_path": folder / "tls.key", "ca_path": folder / "ca.pem"}
    return TlsIdentity.load(**(facts | changes))


def configure(identity: TlsIdentity, role: Role = Role.SERVER, **options: Any) -> TlsConfig:
    facts: dict[str, Any] = {"policy": for_level("high"), "allowed": AllowedPeers(any_of_federation=True)}
    return TlsConfig(role, identity, **(facts | options))


def test_a_good_identity_is_loaded_and_knows_itself(federation: Federation) -> None:
    """The own certificate is checked like a peer's, and no secret is shown when it is printed."""
    config = configure(load(federation.gateway))
    assert str(config.own.id) == federation.gateway_uri
    assert config.own.sigalg == "ML-DSA-65"
    assert "PRIVATE KEY" not in repr(config)


def test_only_a_client_may_be_nobody(federation: Federation) -> None:
    """A client can do without a certificate, where it trusts somebody; a server never can."""
    nobody = TlsIdentity.of_nobody(federation.ca_pem.read_bytes())
    config = configure(nobody, Role.CLIENT)
    assert config.own.id is None
    TlsContext(config)
    with pytest.raises(ConfigurationError):
        configure(nobody, Role.SERVER)
    with pytest.raises(ConfigurationError):
        TlsContext(configure(TlsIdentity.of_nobody(b""), Role.CLIENT))


@pytest.mark.parametrize("which", ["cert_path", "key_path", "ca_path"])
def test_missing_and_malformed_files_are_named(federation: Federation, tmp_path: Path, which: str) -> None:
    """A file that is not there, or is something else, is an error with its path."""
    with pytest.raises(ConfigurationError, match="nowhere"):
        load(federation.gateway, **{which: tmp_path / "nowhere"})
    if which != "key_path":
        (tmp_path / "text.pem").write_text("certificate")
        with pytest.raises(ConfigurationError, match=r"text\.pem"):
            load(federation.gateway, **{which: tmp_path / "text.pem"})


def test_a_key_that_others_can_read_is_refused(federation: Federation, tmp_path: Path) -> None:
    """The error has the command that mends it."""
    shutil.copy(federation.gateway / "tls.key", tmp_path / "tls.key")
    (tmp_path / "tls.key").chmod(0o644)
    with pytest.raises(ConfigurationError, match="chmod 600") as caught:
        load(federation.gateway, key_path=tmp_path / "tls.key")
    assert caught.value.reason == "loose_permissions"


def test_authorities_without_a_root_are_refused(federation: Federation) -> None:
    """A leaf in place of ca.pem trusts nobody."""
    with pytest.raises(ConfigurationError, match="root") as caught:
        load(federation.gateway, ca_path=federation.gateway / "tls.pem")
    assert caught.value.reason == "no_root"


@pytest.mark.parametrize("oddity", list(pki.ODDITIES), ids=lambda oddity: oddity.__name__)
def test_an_own_certificate_that_peers_would_refuse_is_refused_at_the_start(
    federation: Federation, tmp_path: Path, oddity: pki.Oddity
) -> None:
    """The reason is the one that every peer would have given."""
    identity = load(oddity(federation, tmp_path / "odd", "gateway"), ca_path=federation.ca_pem)
    with pytest.raises(ConfigurationError, match=r"odd/tls\.pem") as caught:
        configure(identity)
    assert caught.value.reason in {pki.ODDITIES[oddity], "untrusted"}


def test_roles_need_their_own_usage(federation: Federation) -> None:
    """A site's certificate serves nobody, a gateway's dials nobody."""
    assert (Role.SERVER.own_usage, Role.CLIENT.own_usage) == (Usage.SERVER, Usage.CLIENT)
    assert Role.SERVER.peer is Role.CLIENT
    for folder, role in ((federation.site("bank-a"), Role.SERVER), (federation.gateway, Role.CLIENT)):
        with pytest.raises(ConfigurationError) as caught:
            configure(load(folder), role)
        assert caught.value.reason == "bad_usage"


def test_an_expired_own_certificate_is_refused(federation: Federation) -> None:
    """The clock that is given decides."""
    with pytest.raises(ConfigurationError) as caught:
        configure(load(federation.gateway), clock=lambda: datetime.now(UTC) + timedelta(days=365))
    assert caught.value.reason == "expired"


def test_a_level_that_the_certificate_does_not_meet(federation: Federation) -> None:
    """An ML-DSA-65 certificate does not serve under a policy that lists ML-DSA-87 alone."""
    with pytest.raises(ConfigurationError) as caught:
        configure(load(federation.gateway), policy=for_level("maximum"))
    assert caught.value.reason == "bad_sigalg"


def test_a_server_has_to_be_told_whom_it_allows(federation: Federation) -> None:
    """No rule is not every rule."""
    with pytest.raises(ConfigurationError) as caught:
        configure(load(federation.gateway), allowed=AllowedPeers())
    assert caught.value.reason == "nobody_allowed"


@pytest.mark.parametrize("alpn", [("",), ("x" * 256,)])
def test_protocol_names_have_a_length(federation: Federation, alpn: tuple[str, ...]) -> None:
    """RFC 7301 has one byte for it."""
    with pytest.raises(ConfigurationError, match="ALPN"):
        configure(load(federation.gateway), alpn=alpn)


def test_the_rules_about_peers_are_at_hand_here() -> None:
    """Who makes a configuration needs one import."""
    assert AllowedPeers is allowed.AllowedPeers


@pytest.fixture(scope="module")
def side(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a classical trust store and a certificate for both roles, under an intermediate authority."""
    root = classical.make_root("classical root")
    issuing = classical.make_root("classical issuing", parent=root)
    leaf, key = classical.make_leaf(issuing, uris=["spiffe://fed/gateway/hub"])
    return classical.write_classical(tmp_path_factory.mktemp("side"), root, leaf, key, issuing.certificate)


def classical_side(folder: Path) -> ClassicalSide:
    return ClassicalSide.load(folder / "ca.pem", [folder / "tls.pem"], [folder / "tls.key"])


def test_a_migration_has_a_second_trust_store_and_perhaps_a_second_certificate(
    federation: Federation, side: Path
) -> None:
    """Both are checked at the start, and what they say is known."""
    identity = load(federation.gateway)
    plain = configure(identity, policy=PREFER, classical=ClassicalSide.load(side / "ca.pem"))
    assert plain.own_classical is None
    dual = configure(identity, policy=PREFER, classical=classical_side(side))
    assert dual.own_classical is not None
    assert (dual.own.sigalg, dual.own.classical) == ("ML-DSA-65", False)
    assert (dual.own_classical.sigalg, dual.own_classical.classical) == ("ECDSA-P256", True)
    assert str(dual.own_classical.id) == federation.gateway_uri
    assert [one.subject for one in dual.certificates()][-1] == "CN=classical root"
    assert len(dual.certificates()) == 5
    assert "PRIVATE KEY" not in repr(dual)


def test_a_policy_and_a_trust_store_for_classical_peers_come_together(federation: Federation, side: Path) -> None:
    """One without the other is a mistake in either direction."""
    identity = load(federation.gateway)
    for options, message in (
        ({"policy": PREFER}, "needs a trust store"),
        ({"classical": ClassicalSide.load(side / "ca.pem")}, "lists nothing classical"),
        ({"policy": PREFER, "classical": ClassicalSide((), anchors_name="empty.pem")}, "empty.pem: holds no authority"),
    ):
        with pytest.raises(ConfigurationError, match=message) as caught:
            configure(identity, **options)
        assert caught.value.reason == "classical"


def test_no_authority_is_in_both_trust_stores(federation: Federation) -> None:
    """Otherwise one that vouches for classical peers would vouch for the others as well."""
    with pytest.raises(ConfigurationError, match=r"ca\.pem: certificate .* is in .*ca\.pem too") as caught:
        configure(load(federation.gateway), policy=PREFER, classical=ClassicalSide.load(federation.ca_pem))
    assert caught.value.reason == "classical"


def test_a_second_certificate_that_peers_would_refuse_is_refused_at_the_start(
    federation: Federation, side: Path, tmp_path: Path
) -> None:
    """A stranger's, a post-quantum one, one for clients only, an expired one: with file and reason."""
    root = classical.make_root("root")
    p521 = ec.generate_private_key(ec.SECP521R1())
    # The gateway's own certificate may have been made long after this module was loaded.
    today = datetime.now(UTC)
    cases = {
        "untrusted": (*classical.make_leaf(classical.make_root("stranger")), today),
        "bad_sigalg": (*classical.make_leaf(root, p521), today),
        "bad_usage": (*classical.make_leaf(root, usages=[Usage.CLIENT.oid]), today),
        "expired": (*classical.make_leaf(root, days=1), today + timedelta(days=2)),
    }
    identity = load(federation.gateway)
    for reason, (leaf, key, now) in cases.items():
        folder = classical.write_classical(tmp_path / reason, root, leaf, key)
        with pytest.raises(ConfigurationError, match=rf"{reason}/tls\.pem") as caught:
            configure(identity, policy=PREFER, classical=classical_side(folder), clock=lambda now=now: now)
        assert caught.value.reason == reason
    own = federation.gateway
    mixed = ClassicalSide.load(side / "ca.pem", [own / "tls.pem"], [own / "tls.key"])
    with pytest.raises(ConfigurationError) as caught:
        configure(identity, policy=PREFER, classical=mixed)
    assert caught.value.reason == "bad_sigalg"


def test_a_classical_certificate_is_no_first_one(federation: Federation, tmp_path: Path) -> None:
    """Under a policy that serves classical peers this end still shows a post-quantum certificate to whoever can."""
    odd = load(pki.classical(federation, tmp_path / "odd", "gateway"), ca_path=federation.ca_pem)
    side = ClassicalSide(tuple(x509.load_pem_x509_certificates((tmp_path / "odd" / "ca.pem").read_bytes())))
    with pytest.raises(ConfigurationError) as caught:
        configure(odd, policy=PREFER, classical=side)
    assert caught.value.reason == "bad_sigalg"


def test_a_second_certificate_has_its_key_and_there_is_no_third(side: Path) -> None:
    """Counts that do not fit are an error and nothing is left out."""
    cert, key = side / "tls.pem", side / "tls.key"
    for certs, keys in (([cert], []), ([], [key]), ([cert, cert], [key, key])):
        with pytest.raises(ConfigurationError, match="there is one at most") as caught:
            ClassicalSide.load(side / "ca.pem", certs, keys)
        assert caught.value.reason == "classical"


@pytest.mark.parametrize("which", ["ca.pem", "tls.pem", "tls.key"])
def test_missing_files_of_the_classical_side_are_named(side: Path, tmp_path: Path, which: str) -> None:
    """Like those of the first certificate."""
    shutil.copytree(side, tmp_path / "side")
    (tmp_path / "side" / which).unlink()
    with pytest.raises(ConfigurationError, match=which) as caught:
        classical_side(tmp_path / "side")
    assert caught.value.reason == "missing"


@pytest.mark.parametrize("encrypted", [False, True])
def test_a_bundle_is_an_identity(federation: Federation, tmp_path: Path, encrypted: bool) -> None:
    """One file gives certificate and key, and the key is in nothing that is printed."""
    key = (federation.gateway / "tls.key").read_bytes()
    if encrypted:
        opened = keystore.load_signing_key(federation.gateway / "tls.key").pyca_key
        key = opened.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"pw"))
    path = tmp_path / "hub.pem"
    keystore.write_secret(path, (federation.gateway / "tls.pem").read_bytes() + key)
    identity = TlsIdentity.load_keystore(path, federation.ca_pem, b"pw" if encrypted else None)
    config = configure(identity)
    assert str(config.own.id) == federation.gateway_uri
    assert "PRIVATE KEY" not in repr(config)
    assert b"ENCRYPTED" not in identity.private_key_pem
    path.chmod(0o640)
    with pytest.raises(ConfigurationError, match="chmod 600"):
        TlsIdentity.load_keystore(path, federation.ca_pem)


def test_a_pkcs12_file_of_a_classical_key_is_no_identity_of_a_federation(side: Path, tmp_path: Path) -> None:
    """It is read; that its certificate is not post-quantum is said where it is used."""
    key = ec.generate_private_key(ec.SECP256R1())
    root = classical.make_root("root")
    leaf, _ = classical.make_leaf(root, key)
    path = tmp_path / "hub.p12"
    keystore.write_secret(
        path, pkcs12.serialize_key_and_certificates(b"hub", key, leaf, None, BestAvailableEncryption(b"pw"))
    )
    with pytest.raises(ConfigurationError, match="no self-signed ML-DSA root") as caught:
        TlsIdentity.load_keystore(path, side / "ca.pem", b"pw")
    assert caught.value.reason == "no_root"


@pytest.mark.parametrize("seconds", [-1, 24 * 3600 + 1])
def test_sessions_are_resumed_within_a_day(federation: Federation, seconds: int) -> None:
    """Off unless asked for, and never longer than anybody keeps a revoked peer waiting."""
    identity = load(federation.gateway)
    assert configure(identity).resume_seconds == 0
    assert configure(identity, resume_seconds=24 * 3600).resume_seconds == 24 * 3600
    with pytest.raises(ConfigurationError) as caught:
        configure(identity, resume_seconds=seconds)
    assert caught.value.reason == "bad_resume"


def test_a_list_that_revokes_this_end_is_taken_all_the_same(federation: Federation) -> None:
    """Refusing it would keep the last list, and with it everybody else whom the new one revokes."""
    signer = pki.federation_signer(federation)
    identity = load(federation.gateway)
    crl = classical.make_crl(
        classical.Signer(signer.certificate, signer.key), revoked={identity.leaf.serial_number: None}
    )
    lists = open_crls(classical.pem(crl), identity.anchors, policy=for_level("high"), now=classical.BEGIN)
    assert configure(identity, revocations=lists).revocations is lists


def test_an_encrypted_key_is_read_and_its_passphrase_is_in_nothing(federation: Federation, tmp_path: Path) -> None:
    """Post-quantum and classical keys alike; a wrong passphrase is told by the key file's name."""
    path = tmp_path / "tls.key"
    keystore.write_secret(path, pkcs8.encrypt((federation.gateway / "tls.key").read_bytes(), b"correct horse"))
    load = (federation.gateway / "tls.pem", path, federation.ca_pem)
    identity = TlsIdentity.load(*load, fixed("correct horse"))
    TlsContext(configure(identity))
    assert "horse" not in repr(identity)
    with pytest.raises(ConfigurationError, match=str(path)) as caught:
        TlsIdentity.load(*load, fixed("wrong"))
    assert caught.value.reason == "wrong_passphrase"


def test_an_encrypted_classical_key_is_read_too(side: Path, tmp_path: Path) -> None:
    """The second certificate of a migration may have its key under the same passphrase."""
    folder = Path(shutil.copytree(side, tmp_path / "side"))
    key = folder / "tls.key"
    keystore.write_secret(key, pkcs8.encrypt(key.read_bytes(), b"correct horse"), overwrite=True)
    loaded = ClassicalSide.load(folder / "ca.pem", [folder / "tls.pem"], [key], fixed("correct horse"))
    assert loaded.identity is not None
    assert loaded.identity.private_key_pem == (side / "tls.key").read_bytes()
