"""The key store: secrets that others can read are refused, files are written whole or not at all."""

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
    pkcs12,
)

from pqfl_transport.crypto import pkcs8
from pqfl_transport.crypto.pyca import SigningKey
from pqfl_transport.errors import ConfigurationError, MessageError
from pqfl_transport.pki import chain, keystore
from pqfl_transport.pki.passphrases import fixed
from tests.support import classical, pki


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> pki.Federation:
    """A federation with one site."""
    return pki.make_federation(tmp_path_factory.mktemp("fed"), sites=["hospital-north"])


@pytest.fixture
def identity(federation: pki.Federation, tmp_path: Path) -> Path:
    """A copy of the site's identity folder, to be damaged."""
    return Path(shutil.copytree(federation.site("hospital-north"), tmp_path / "identity"))


def refusal(path: Path, error: pytest.ExceptionInfo[ConfigurationError]) -> str:
    """The reason of an error, which names the file."""
    assert str(path) in str(error.value)
    return error.value.reason


def test_a_signing_identity_is_id_key_and_certificate(federation: pki.Federation, identity: Path) -> None:
    """The folder's signing.pem and signing.key belong together and name the site."""
    loaded = keystore.load_signing_identity(identity)
    assert str(loaded.id) == federation.site_uri("hospital-north")
    assert loaded.key.verifying_key == chain.verifying_key(loaded.certificate)


def test_a_key_that_does_not_fit_is_refused(identity: Path) -> None:
    """Another ML-DSA key beside the certificate, be it the TLS key of the same folder, is found before it signs."""
    (identity / "signing.key").write_bytes((identity / "tls.key").read_bytes())
    with pytest.raises(ConfigurationError, match=r"is not the private key of .*signing\.pem") as caught:
        keystore.load_signing_identity(identity)
    assert refusal(identity / "signing.key", caught) == "key_mismatch"


def test_a_tls_certificate_signs_nothing(identity: Path) -> None:
    """TLS certificate and key in the place of the signing ones are refused for their usage."""
    for kind in ("pem", "key"):
        (identity / f"signing.{kind}").write_bytes((identity / f"tls.{kind}").read_bytes())
    with pytest.raises(ConfigurationError) as caught:
        keystore.load_signing_identity(identity)
    assert refusal(identity / "signing.pem", caught) == "bad_usage"


@pytest.mark.parametrize(("days", "reason"), [(-1, "not_yet_valid"), (91, "expired")])
def test_a_signing_certificate_has_to_be_valid_now(identity: Path, days: int, reason: str) -> None:
    """Neither a future nor a past certificate is used to sign."""
    with pytest.raises(ConfigurationError) as caught:
        keystore.load_signing_identity(identity, now=datetime.now(UTC) + timedelta(days=days))
    assert refusal(identity / "signing.pem", caught) == reason


@pytest.mark.parametrize("name", ["signing.pem", "signing.key"])
def test_a_missing_file_of_an_identity_is_named(identity: Path, name: str) -> None:
    """A gateway's folder, say, has no signing identity; the message says which file is missing."""
    (identity / name).unlink()
    with pytest.raises(ConfigurationError) as caught:
        keystore.load_signing_identity(identity)
    assert refusal(identity / name, caught) == "missing"


def classical_key() -> bytes:
    """An ECDSA private key."""
    key = ec.generate_private_key(ec.SECP256R1())
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


@pytest.mark.parametrize(
    "pem",
    [b"", b"not PEM", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", classical_key()],
    ids=["empty", "text", "garbage", "ECDSA"],
)
def test_what_is_no_ml_dsa_key_is_refused_by_file(tmp_path: Path, pem: bytes) -> None:
    """Garbage and classical keys are refused with the name of the file."""
    path = tmp_path / "signing.key"
    keystore.write_secret(path, pem)
    with pytest.raises(ConfigurationError) as caught:
        keystore.load_signing_key(path)
    assert refusal(path, caught) == "bad_key"


def test_an_encrypted_key_opens_with_its_passphrase(identity: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the source that is given, else from the one variable; a wrong one and none are told by the file's name."""
    path = identity / "signing.key"
    plain = keystore.load_signing_key(path)
    keystore.write_secret(path, pkcs8.encrypt(plain.to_pem(), b"correct horse"), overwrite=True)
    loaded = keystore.load_signing_identity(identity, passphrases=fixed("correct horse"))
    assert loaded.key.verifying_key == plain.verifying_key
    assert keystore.load_private_pem(path, fixed("correct horse")) == plain.to_pem()
    monkeypatch.setenv("PQFL_PASSPHRASE", "correct horse")
    assert keystore.load_signing_key(path).verifying_key == plain.verifying_key
    for passphrase, reason in (("wrong", "wrong_passphrase"), (None, "no_passphrase")):
        if passphrase is None:
            monkeypatch.delenv("PQFL_PASSPHRASE")
        else:
            monkeypatch.setenv("PQFL_PASSPHRASE", passphrase)
        with pytest.raises(ConfigurationError) as caught:
            keystore.load_signing_key(path)
        assert refusal(path, caught) == reason


def test_no_passphrase_is_asked_for_a_key_in_plain_sight(identity: Path) -> None:
    """A source is asked only where a file turns out to be encrypted."""

    def nobody(name: str) -> list[bytes]:
        raise AssertionError(name)

    assert keystore.load_signing_identity(identity, passphrases=nobody)


def test_anchors_hold_a_root(federation: pki.Federation, tmp_path: Path) -> None:
    """ca.pem gives root and issuing certificate; a file without an ML-DSA root is refused by name."""
    anchors = keystore.load_anchors(federation.ca_pem)
    assert len(anchors) == 2
    (root,) = keystore.root_keys(anchors)
    assert root.algorithm == "ML-DSA-87"
    classical = pki.classical(federation, tmp_path / "classical") / "ca.pem"
    for path in (federation.ca / "issuing.pem", classical):
        with pytest.raises(ConfigurationError) as caught:
            keystore.load_anchors(path)
        assert refusal(path, caught) == "no_root"


def test_a_malformed_certificate_file_is_named(identity: Path) -> None:
    """Whichever loader meets garbage says in which file."""
    path = identity / "signing.pem"
    path.write_bytes(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    for load in (keystore.load_anchors, keystore.load_certificate, keystore.load_signing_certificate):
        with pytest.raises(ConfigurationError) as caught:
            load(path)
        assert refusal(path, caught) == "malformed"


def test_a_roster_file_is_verified_and_named(federation: pki.Federation, tmp_path: Path) -> None:
    """The roster's own refusals carry the name of the file."""
    roots = keystore.root_keys(keystore.load_anchors(federation.ca_pem))
    roster = keystore.load_roster(federation.roster, roots, federation="fed")
    assert federation.site_uri("hospital-north") in roster.parties
    forged = tmp_path / "roster.json"
    forged.write_bytes(federation.roster.read_bytes().replace(b"hospital-north", b"hospital-souht"))
    cases = {"bad_signature": (forged, roots, 0), "unknown_signer": (federation.roster, [], 0)}
    cases["stale_roster"] = (federation.roster, roots, roster.number + 1)
    for reason, (path, keys, number) in cases.items():
        with pytest.raises(MessageError) as caught:
            keystore.load_roster(path, keys, at_least_number=number)
        assert caught.value.reason == reason
        assert str(caught.value).startswith(str(path))
    with pytest.raises(ConfigurationError) as missing:
        keystore.load_roster(tmp_path / "none.json", roots)
    assert missing.value.reason == "missing"


BUNDLE = "hub.pem"


def keystore_refusal(data: bytes, password: bytes | None = None) -> str:
    """The sentence for which a keystore is refused; it names the file."""
    with pytest.raises(ConfigurationError) as caught:
        keystore.open_keystore(data, password, BUNDLE)
    assert caught.value.reason == "bad_keystore"
    assert str(caught.value).startswith(BUNDLE)
    return str(caught.value)


@pytest.mark.parametrize("key_first", [True, False])
def test_a_bundle_gives_its_certificates_without_the_key(identity: Path, key_first: bool) -> None:
    """Certificates are shown around, so not a byte of the private key may be among them."""
    certificate, key, authorities = ((identity / name).read_bytes() for name in ("tls.pem", "tls.key", "ca.pem"))
    text = b"Bag Attributes\n    friendlyName: hub\n"
    parts = [key, certificate, authorities] if key_first else [certificate, text, authorities, key]
    certificates, found = keystore.open_keystore(b"".join(parts), None, BUNDLE)
    assert found == key
    assert certificates == certificate + authorities
    assert b"PRIVATE" not in certificates


def test_a_bundle_has_one_key_and_its_certificate(identity: Path) -> None:
    """None and two of them are refused with what was found."""
    certificate, key = (identity / "tls.pem").read_bytes(), (identity / "tls.key").read_bytes()
    assert "0 private keys and 1 certificates" in keystore_refusal(certificate)
    assert "1 private keys and 0 certificates" in keystore_refusal(key)
    assert "2 private keys" in keystore_refusal(certificate + key + key)
    assert "0 private keys" in keystore_refusal(certificate + key[:-30])
    receiving = (identity / "receiving.key").read_bytes()
    assert "0 private keys" in keystore_refusal(certificate + receiving)


@pytest.mark.parametrize(
    "key", [SigningKey.generate("ML-DSA-65").pyca_key, ec.generate_private_key(ec.SECP256R1())], ids=["ML-DSA", "ECDSA"]
)
def test_an_encrypted_key_opens_with_its_password_only(identity: Path, key: classical.AnyKey) -> None:
    """The sentence tells a password that is missing from one that is wrong, and has neither."""
    encrypted = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"correct horse"))
    data = (identity / "tls.pem").read_bytes() + encrypted
    _, opened = keystore.open_keystore(data, b"correct horse", BUNDLE)
    assert opened == classical.key_pem(key)
    for password in (None, b""):
        assert "no password was given" in keystore_refusal(data, password)
    sentence = keystore_refusal(data, b"battery staple")
    assert "does not open" in sentence
    assert "battery" not in sentence


@pytest.mark.parametrize(
    "key",
    [classical.p256(), rsa.generate_private_key(65537, 2048), ed25519.Ed25519PrivateKey.generate()],
    ids=["ECDSA", "RSA", "Ed25519"],
)
@pytest.mark.parametrize("password", [b"correct horse", None], ids=["encrypted", "plain"])
def test_pkcs12_gives_the_keys_own_certificate_first(key: pkcs12.PKCS12PrivateKeyTypes, password: bytes | None) -> None:
    """Whatever else is in the file comes after it."""
    root = classical.make_root("root")
    leaf, _ = classical.make_leaf(root, key)  # type: ignore[arg-type]
    encryption = NoEncryption() if password is None else BestAvailableEncryption(password)
    data = pkcs12.serialize_key_and_certificates(b"hub", key, leaf, [root.certificate], encryption)
    certificates, opened = keystore.open_keystore(data, password, BUNDLE)
    assert x509.load_pem_x509_certificates(certificates) == [leaf, root.certificate]
    loaded = load_pem_private_key(opened, None)
    assert loaded.public_key() == key.public_key()
    assert "this password" in keystore_refusal(data, b"battery staple")


def test_pkcs12_without_a_key_is_refused() -> None:
    """A trust store is no identity."""
    root = classical.make_root("root")
    data = pkcs12.serialize_key_and_certificates(None, None, None, [root.certificate], NoEncryption())
    assert "no certificate with its private key" in keystore_refusal(data)


# Made by OpenSSL 3.5.9: a self-signed certificate and its ML-DSA-44 key, `openssl pkcs12 -export -passout pass:pw`.
PKCS12_OF_ML_DSA = Path(__file__).parents[2] / "vectors" / "keystore" / "ml-dsa-44.p12"


@pytest.mark.parametrize("data", [PKCS12_OF_ML_DSA.read_bytes(), b"", b"no keystore", b"\x30\x82"])
def test_what_the_library_cannot_read_is_refused_with_the_way_to_convert_it(data: bytes) -> None:
    """PKCS#12 with an ML-DSA key is read by OpenSSL alone: the sentence has its command and the mode of the result."""
    sentence = keystore_refusal(data, b"pw")
    assert f"openssl pkcs12 -in {BUNDLE} -noenc -out BUNDLE.pem; chmod 600" in sentence
