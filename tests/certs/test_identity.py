"""An identity: fresh keys that fit their certificates, in the folder that every other program reads."""

import stat
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from certs.identity import Identity, make_identity
from pqfl_transport.content.key_files import load_receiving_keys
from pqfl_transport.content.recipients import ReceivingKey, RecipientKey
from pqfl_transport.errors import ConfigurationError
from pqfl_transport.pki import chain, keystore
from pqfl_transport.pki.authority import create_issuing, create_root
from pqfl_transport.pki.passphrases import fixed
from pqfl_transport.pki.profiles import PROFILES, Usage
from pqfl_transport.pki.spiffe import SpiffeId
from pqfl_transport.policy import SecurityLevel, for_level

NOW = datetime.now(UTC)
ROOT = create_root("fed", now=NOW)


def make(profile: str, level: SecurityLevel = SecurityLevel.HIGH) -> Identity:
    """An identity of a level, under an issuing authority of that level."""
    issuing = create_issuing(ROOT, level, now=NOW)
    row = PROFILES[profile]
    hosts = ("localhost", ip_address("::1")) if row.hosts is None else ()
    party = SpiffeId("fed", row.role, "one")
    return make_identity(issuing, row, party, for_level(level), now=NOW, seconds=90 * 86400, hosts=hosts)


@pytest.mark.parametrize("level", list(SecurityLevel))
def test_keys_are_the_first_choices_of_the_policy(level: SecurityLevel) -> None:
    """Every key of a party is what its level's policy lists first."""
    identity = make("site", level)
    policy = for_level(level)
    assert identity.content is not None
    assert identity.tls_key.algorithm == identity.content.signing_key.algorithm == policy.leaf_keys[0]
    assert identity.content.receiving_key.kem == policy.content_suite.kem


def test_every_certificate_is_of_its_own_key() -> None:
    """TLS and signing are two keys, and each certificate holds the right one for the right use."""
    identity = make("site")
    assert identity.content is not None
    assert chain.verifying_key(identity.tls_certificate) == identity.tls_key.verifying_key
    assert chain.verifying_key(identity.content.signing_certificate) == identity.content.signing_key.verifying_key
    assert identity.tls_key.verifying_key != identity.content.signing_key.verifying_key
    chain.require_usage(identity.tls_certificate, Usage.CLIENT)
    chain.require_usage(identity.content.signing_certificate, Usage.SIGNING)
    assert chain.spiffe_id(identity.tls_certificate) == chain.spiffe_id(identity.content.signing_certificate)


def test_two_identities_share_no_key() -> None:
    """Keys are fresh for every party."""
    one, two = make("site"), make("site")
    assert one.tls_key.verifying_key != two.tls_key.verifying_key
    assert one.content is not None
    assert two.content is not None
    assert one.content.receiving_key.fingerprint != two.content.receiving_key.fingerprint


def test_the_folder_is_read_back_by_who_uses_it(tmp_path: Path) -> None:
    """The library's own loaders take every file: the signing pair, the receiving pair, the anchors."""
    identity = make("aggregator")
    anchors = ROOT.certificate.public_bytes(Encoding.PEM)
    identity.write(tmp_path, anchors)
    assert identity.content is not None
    assert keystore.load_signing_identity(tmp_path).id == identity.id
    assert keystore.load_certificate(tmp_path / "tls.pem") == identity.tls_certificate
    assert keystore.load_signing_key(tmp_path / "tls.key").verifying_key == identity.tls_key.verifying_key
    receiving = ReceivingKey.from_pem(keystore.read_secret(tmp_path / "receiving.key"))
    public = RecipientKey.from_pem(keystore.read_public(tmp_path / "receiving.pub"))
    assert receiving.fingerprint == public.fingerprint == identity.content.receiving_key.fingerprint
    assert keystore.load_anchors(tmp_path / "ca.pem") == (ROOT.certificate,)


@pytest.mark.parametrize("profile", list(PROFILES))
def test_what_is_secret_is_the_owners_alone(tmp_path: Path, profile: str) -> None:
    """Files called *.key have mode 0600, all others 0644, and a gateway has one key only."""
    make(profile).write(tmp_path, b"")
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert all(mode == (0o600 if name.endswith(".key") else 0o644) for name, mode in modes.items())
    keys = {name for name in modes if name.endswith(".key")}
    assert keys == (
        {"tls.key"} if not PROFILES[profile].has_content_keys else {"tls.key", "signing.key", "receiving.key"}
    )


def test_keys_are_never_overwritten(tmp_path: Path) -> None:
    """Writing into the folder of another identity is refused and leaves its keys."""
    make("site").write(tmp_path, b"")
    before = {path.name: path.read_bytes() for path in tmp_path.glob("*.key")}
    with pytest.raises(ConfigurationError) as caught:
        make("site").write(tmp_path, b"")
    assert caught.value.reason == "exists"
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*.key")} == before


def test_the_roster_entry_has_the_public_keys() -> None:
    """What the root signs are the keys of this folder; a gateway has no entry."""
    identity = make("site")
    party = identity.party(weight_cap=5)
    assert party is not None
    assert identity.content is not None
    assert (party.id, party.weight_cap) == (identity.id, 5)
    assert party.signing_key == identity.content.signing_key.verifying_key
    assert party.receiving_key == identity.content.receiving_key.public.to_bytes()
    assert party.receiving_fingerprint == identity.content.receiving_key.fingerprint
    assert make("gateway").party(weight_cap=5) is None


def test_a_folder_under_a_passphrase(tmp_path: Path) -> None:
    """All private keys are encrypted, of mode 0600, and open with the passphrase and no other."""
    identity = make("site")
    assert identity.content is not None
    identity.write(tmp_path, b"", b"correct horse")
    for name in ("tls.key", "signing.key", "receiving.key"):
        assert b"ENCRYPTED" in (tmp_path / name).read_bytes()
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
    phrases = fixed("correct horse")
    assert keystore.load_signing_identity(tmp_path, passphrases=phrases).id == identity.id
    assert keystore.load_signing_key(tmp_path / "tls.key", phrases).verifying_key == identity.tls_key.verifying_key
    keys = load_receiving_keys(tmp_path / "receiving.key", 0.0, phrases)
    assert keys.newest.opened.stored == identity.content.receiving_key.stored
    with pytest.raises(ConfigurationError) as caught:
        load_receiving_keys(tmp_path / "receiving.key", 0.0, fixed("another"))
    assert caught.value.reason == "wrong_passphrase"
