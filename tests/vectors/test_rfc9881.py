"""The examples of RFC 9881, appendix C: certificates verify, and a private key comes in through every door there is.

Signing keys have to hold their seed. A TLS key may be in any form, because OpenSSL alone uses it.
"""

import asyncio
import json
from pathlib import Path

import pytest
from cryptography import x509

from pqfl_transport.crypto import armour, pkcs8
from pqfl_transport.crypto.contexts import Context
from pqfl_transport.crypto.pyca import SigningKey, VerifyingKey
from pqfl_transport.errors import ConfigurationError
from pqfl_transport.pki import chain, keystore
from pqfl_transport.pki.passphrases import fixed
from pqfl_transport.pki.profiles import Usage
from pqfl_transport.tls import client_context, server_context
from tests.support import contexts, pki, rfc9881
from tests.support.commands import good, refused

LEVELS = {"ML-DSA-44": "standard", "ML-DSA-65": "high", "ML-DSA-87": "maximum"}


def certificate(algorithm: str) -> x509.Certificate:
    (only,) = chain.load_certificates((rfc9881.FOLDER / f"{algorithm}.crt").read_bytes())
    return only


def verifying_key(algorithm: str) -> VerifyingKey:
    return VerifyingKey.from_spki(armour.decode((rfc9881.FOLDER / f"{algorithm}.pub").read_bytes(), "PUBLIC KEY"))


def secret(folder: Path, pem: bytes, name: str = "example.key") -> Path:
    keystore.write_secret(folder / name, pem)
    return folder / name


@pytest.mark.parametrize("algorithm", rfc9881.ALGORITHMS)
def test_certificates_parse_and_verify(algorithm: str) -> None:
    """Each is self-signed, by the algorithm that its name says, with the key of C.2 and of our own expansion."""
    parsed = certificate(algorithm)
    assert chain.is_self_signed(parsed)
    assert chain.key_algorithm_name(parsed) == chain.signature_algorithm_name(parsed) == algorithm
    of_seed = SigningKey.from_seed(algorithm, rfc9881.SEED).verifying_key
    assert chain.verifying_key(parsed) == verifying_key(algorithm) == of_seed


@pytest.mark.parametrize("algorithm", rfc9881.ALGORITHMS)
def test_a_changed_certificate_does_not_verify(algorithm: str) -> None:
    """One bit of the signature, and it is not its own issuer any more."""
    der = bytearray(armour.decode((rfc9881.FOLDER / f"{algorithm}.crt").read_bytes(), "CERTIFICATE"))
    der[-1] ^= 1
    assert not chain.is_self_signed(chain.load_certificate_der(bytes(der)))


@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "encrypted"])
@pytest.mark.parametrize("form", ["seed", "both"])
@pytest.mark.parametrize("algorithm", rfc9881.ALGORITHMS)
def test_keys_with_their_seed_sign(tmp_path: Path, algorithm: str, form: str, encrypted: bool) -> None:
    """`signing.key`, `root.key`, `issuing.key` and the audit log's key are read so, and what they sign verifies."""
    pem = rfc9881.private_pem(algorithm, form)
    path = secret(tmp_path, pkcs8.encrypt(pem, b"correct horse") if encrypted else pem)
    key = keystore.load_signing_key(path, fixed("correct horse"))
    assert key.verifying_key == verifying_key(algorithm)
    verifying_key(algorithm).verify(key.sign(b"message", Context.ROUND), b"message", Context.ROUND)


@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "encrypted"])
@pytest.mark.parametrize("algorithm", rfc9881.ALGORITHMS)
def test_keys_without_their_seed_sign_nothing(tmp_path: Path, algorithm: str, encrypted: bool) -> None:
    """One clear error, with the file's name and what is missing."""
    pem = rfc9881.private_pem(algorithm, "expanded")
    path = secret(tmp_path, pkcs8.encrypt(pem, b"correct horse") if encrypted else pem)
    with pytest.raises(
        ConfigurationError, match=rf"example\.key: an {algorithm} key in expanded form, without"
    ) as caught:
        keystore.load_signing_key(path, fixed("correct horse"))
    assert caught.value.reason == "bad_key"


@pytest.mark.parametrize("name", rfc9881.INCONSISTENT)
def test_inconsistent_keys_are_refused(tmp_path: Path, name: str) -> None:
    """C.4: neither for signing nor for TLS, nor does `pqfl key fingerprint` name one."""
    pem = (rfc9881.FOLDER / f"{name}.priv").read_bytes()
    path = secret(tmp_path, pem)
    with pytest.raises(ConfigurationError) as caught:
        keystore.load_signing_key(path)
    assert caught.value.reason == "bad_key"
    federation = pki.make_federation(tmp_path / "federation", level="standard", sites=("bank-a",))
    with pytest.raises(ConfigurationError, match=r"example\.key .*: OpenSSL does not load it: invalid key") as caught:
        server_context(federation.gateway / "tls.pem", path, federation.ca_pem, allow_all=True, level="standard")
    assert caught.value.reason == "bad_key"
    assert "not a private key" in refused("key", "fingerprint", path)


@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "encrypted"])
@pytest.mark.parametrize("form", rfc9881.FORMS)
@pytest.mark.parametrize("algorithm", rfc9881.ALGORITHMS)
def test_tls_keys_of_every_form_shake_hands(tmp_path: Path, algorithm: str, form: str, encrypted: bool) -> None:
    """Gateway and site, their keys in files of this form, complete a handshake; a bundle with such a key opens too."""
    pem = rfc9881.private_pem(algorithm, form)
    federation = pki.make_federation(tmp_path / "federation", level=LEVELS[algorithm], sites=("bank-a",))
    gateway = identity(federation, tmp_path / "gateway", algorithm, "gateway")
    site = identity(federation, tmp_path / "site", algorithm, "site")
    for folder in (gateway, site):
        stored = pkcs8.encrypt(pem, b"correct horse") if encrypted else pem
        keystore.write_secret(folder / "tls.key", stored, overwrite=True)
        keystore.write_secret(folder / "store.pem", stored + (folder / "tls.pem").read_bytes())
    (phrase := tmp_path / "phrase").write_text("correct horse\n")
    phrase.chmod(0o600)
    server = server_context(*contexts.files(gateway), allow_all=True, level=LEVELS[algorithm], passphrase_file=phrase)
    client = client_context(
        *contexts.files(site), verify_uri=federation.gateway_uri, level=LEVELS[algorithm], passphrase_file=phrase
    )

    async def talk() -> bytes:
        async with contexts.echo(server) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client, server_hostname="localhost")
            writer.write(b"through\n")
            try:
                return await reader.readline()
            finally:
                writer.close()

    assert asyncio.run(talk()) == b"through\n"
    certificate_pem, key_pem = keystore.open_keystore((site / "store.pem").read_bytes(), b"correct horse", "store.pem")
    assert certificate_pem == (site / "tls.pem").read_bytes()
    assert armour.decode(key_pem, pkcs8.PLAIN_LABEL) == armour.decode(pem, pkcs8.PLAIN_LABEL)


@pytest.mark.parametrize("form", rfc9881.FORMS)
@pytest.mark.parametrize("algorithm", rfc9881.ALGORITHMS)
def test_the_command_line_takes_every_form(tmp_path: Path, algorithm: str, form: str) -> None:
    """`pqfl key fingerprint` says what it is, and a passphrase is put on it and taken off with the key unchanged."""
    pem = rfc9881.private_pem(algorithm, form)
    path = secret(tmp_path, pem)
    (phrase := tmp_path / "phrase").write_text("correct horse battery\n")
    phrase.chmod(0o600)
    (facts,) = json.loads(good("key", "fingerprint", path, "--json"))
    assert facts["algorithm"] == algorithm
    assert facts["fingerprint"] == verifying_key(algorithm).fingerprint.hex()
    good("key", "encrypt", path, "--passphrase-file", phrase)
    assert pkcs8.is_encrypted(path.read_bytes())
    good("key", "decrypt", path, "--passphrase-file", phrase)
    assert armour.decode(path.read_bytes(), pkcs8.PLAIN_LABEL) == armour.decode(pem, pkcs8.PLAIN_LABEL)


def test_an_authority_works_with_keys_in_both_forms(tmp_path: Path) -> None:
    """Its three keys as OpenSSL would have written them: it issues, revokes, lists, signs rosters and its log."""
    federation = pki.make_federation(tmp_path, sites=("bank-a", "bank-b"))
    for name in ("root.key", "issuing.key", "log.key"):
        path = federation.ca / name
        keystore.write_secret(path, rfc9881.in_both_forms(path.read_bytes()), overwrite=True)
        assert len(path.read_bytes()) > 5000
    authority = federation.authority
    authority.issue(profile="site", name="bank-c", out=tmp_path / "bank-c")
    authority.revoke("site/bank-a", "keyCompromise")
    (made,) = authority.make_crl()
    assert made.revoked == 2
    plan = authority.plan_roster()
    assert plan.removed == (federation.site_uri("bank-a"),)
    assert authority.sign_roster(plan) == plan.following.number
    assert authority.log_head()
    authority.rotate_issuing()
    assert {one.authority for one in authority.make_crl()} >= {made.authority}


def test_a_list_is_not_signed_with_a_key_without_its_seed(tmp_path: Path) -> None:
    """The error names the file and says what is missing."""
    federation = pki.make_federation(tmp_path, sites=("bank-a",))
    path = federation.ca / "issuing.key"
    keystore.write_secret(path, rfc9881.private_pem("ML-DSA-65", "expanded"), overwrite=True)
    federation.authority.revoke("site/bank-a", "keyCompromise")
    with pytest.raises(ConfigurationError, match=r"issuing\.key: an ML-DSA-65 key in expanded form, without its seed"):
        federation.authority.make_crl()


def identity(federation: pki.Federation, out: Path, algorithm: str, profile: str) -> Path:
    """An identity folder of the federation whose key is the example's."""
    key = SigningKey.from_seed(algorithm, rfc9881.SEED).pyca_key
    usage = Usage.SERVER if profile == "gateway" else Usage.CLIENT
    leaf = pki.sign_leaf(pki.federation_signer(federation), key, uris=[federation.uri(profile)], usages=[usage.oid])
    return pki.write_identity(out, leaf, key, keystore.load_anchors(federation.ca_pem))
