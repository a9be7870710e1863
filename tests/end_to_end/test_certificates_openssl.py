"""Certificates and keys (RFC 5280, RFC 9881) as another implementation sees them: the command line of OpenSSL."""

import os
import re
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from pqfl_transport.crypto import armour, mldsa_keys, pkcs8
from pqfl_transport.crypto.pyca import SigningKey
from pqfl_transport.errors import ConfigurationError, MessageError
from pqfl_transport.pki import chain, keystore
from pqfl_transport.pki.extensions import find_extension
from pqfl_transport.pki.passphrases import fixed
from pqfl_transport.pki.profiles import Usage
from pqfl_transport.pki.requests import make_request, open_request
from pqfl_transport.pki.spiffe import SpiffeId
from pqfl_transport.policy import SecurityLevel, for_level
from tests.support import classical, pki
from tests.support.openssl import find_openssl


@pytest.fixture(scope="module")
def openssl() -> str:
    return find_openssl()


@pytest.fixture(scope="module", params=list(SecurityLevel))
def federation(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> pki.Federation:
    """A federation of each level."""
    return pki.make_federation(tmp_path_factory.mktemp(request.param), level=request.param, sites=["bank-a"])


def run(openssl: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run OpenSSL without any configuration file."""
    environment = os.environ | {"OPENSSL_CONF": os.devnull}
    command = [openssl, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=30)


def verify(openssl: str, trusted: Path, certificate: Path, purpose: str) -> subprocess.CompletedProcess[str]:
    """`openssl verify` as strictly as it can: RFC 5280 to the letter, the root's own signature too."""
    return run(openssl, "verify", "-x509_strict", "-check_ss_sig", "-purpose", purpose, "-CAfile", trusted, certificate)


def text(openssl: str, certificate: Path) -> str:
    """`openssl x509 -text`, white space folded."""
    done = run(openssl, "x509", "-noout", "-text", "-in", certificate)
    assert done.returncode == 0, done.stderr
    return " ".join(done.stdout.split())


def test_authorities_and_leaves_verify(openssl: str, federation: pki.Federation) -> None:
    """Root, issuing, TLS and signing certificates pass for their purpose, nothing but ca.pem being trusted."""
    site = federation.site("bank-a")
    for trusted, certificate, purpose in (
        (federation.ca / "root.pem", federation.ca / "root.pem", "any"),
        (federation.ca / "root.pem", federation.ca / "issuing.pem", "any"),
        (federation.ca_pem, federation.gateway / "tls.pem", "sslserver"),
        (federation.ca_pem, federation.aggregator / "tls.pem", "sslserver"),
        (federation.ca_pem, federation.aggregator / "signing.pem", "any"),
        (federation.ca_pem, site / "tls.pem", "sslclient"),
        (federation.ca_pem, site / "signing.pem", "any"),
    ):
        done = verify(openssl, trusted, certificate, purpose)
        assert done.returncode == 0, done.stderr
        assert done.stdout == f"{certificate}: OK\n"


def test_other_purposes_are_refused(openssl: str, federation: pki.Federation) -> None:
    """A signing certificate is for no TLS at all, a site's is for no server and a gateway's for no client."""
    site = federation.site("bank-a")
    for certificate, purpose in (
        (site / "signing.pem", "sslclient"),
        (site / "signing.pem", "sslserver"),
        (site / "tls.pem", "sslserver"),
        (federation.gateway / "tls.pem", "sslclient"),
    ):
        done = verify(openssl, federation.ca_pem, certificate, purpose)
        assert done.returncode != 0
        assert "unsuitable certificate purpose" in done.stderr


def test_algorithms_are_read_by_name(openssl: str, federation: pki.Federation) -> None:
    """Signature and key algorithms of every certificate are ML-DSA's registered ones (RFC 9881 §2)."""
    leaf = for_level(federation.authority.level).leaf_keys[0]
    for certificate, signature, key in (
        (federation.ca / "root.pem", "ML-DSA-87", "ML-DSA-87"),
        (federation.ca / "issuing.pem", "ML-DSA-87", leaf),
        (federation.gateway / "tls.pem", leaf, leaf),
        (federation.site("bank-a") / "signing.pem", leaf, leaf),
    ):
        said = text(openssl, certificate)
        assert said.count(f"Signature Algorithm: {signature} ") == 2
        assert f"Public Key Algorithm: {key} {key} Public-Key:" in said


def test_extensions_are_read_as_meant(openssl: str, federation: pki.Federation) -> None:
    """Constraints, usages and names, and which of them are critical, in OpenSSL's words."""
    for name, length in (("root", 1), ("issuing", 0)):
        said = text(openssl, federation.ca / f"{name}.pem")
        assert f"X509v3 Basic Constraints: critical CA:TRUE, pathlen:{length} " in said
        assert "X509v3 Key Usage: critical Certificate Sign, CRL Sign " in said
        assert "X509v3 Name Constraints: critical Permitted: URI:fed " in said
    for folder, name, usage, names in (
        (federation.site("bank-a"), "tls", "TLS Web Client Authentication", "URI:spiffe://fed/site/bank-a "),
        (
            federation.gateway, "tls", "TLS Web Server Authentication",
            "URI:spiffe://fed/gateway/hub, DNS:localhost, IP Address:127.0.0.1 ",
        ),
    ):  # fmt: skip
        said = text(openssl, folder / f"{name}.pem")
        assert "X509v3 Basic Constraints: critical CA:FALSE " in said
        assert "X509v3 Key Usage: critical Digital Signature " in said
        assert f"X509v3 Extended Key Usage: {usage} X509v3" in said
        assert f"X509v3 Subject Alternative Name: {names}" in said
        assert "X509v3 Subject Key Identifier:" in said
        assert "X509v3 Authority Key Identifier:" in said
    # Later versions may know RFC 9336's usage by a name.
    said = text(openssl, federation.site("bank-a") / "signing.pem")
    assert re.search(r"Extended Key Usage: (1\.3\.6\.1\.5\.5\.7\.3\.36|[Dd]ocument ?[Ss]igning) X509v3", said)


def test_private_keys_are_read_and_fit(openssl: str, federation: pki.Federation) -> None:
    """Every private key is PKCS#8 in seed form (RFC 9881 §6), and its public half is the certificate's."""
    site = federation.site("bank-a")
    for folder, name in ((federation.ca, "root"), (federation.ca, "issuing"), (site, "tls"), (site, "signing")):
        said = run(openssl, "pkey", "-noout", "-text", "-in", folder / f"{name}.key")
        assert said.returncode == 0, said.stderr
        assert "seed:" in said.stdout
        of_key = run(openssl, "pkey", "-pubout", "-in", folder / f"{name}.key")
        of_certificate = run(openssl, "x509", "-noout", "-pubkey", "-in", folder / f"{name}.pem")
        assert of_key.stdout == of_certificate.stdout != ""


def test_a_stranger_is_refused(openssl: str, federation: pki.Federation, tmp_path: Path) -> None:
    """What our own verifier calls untrusted, expired or not yet valid, OpenSSL does as well."""
    for make, said in (
        (pki.other_authority, "certificate signature failure|unable to get local issuer"),
        (pki.expired, "certificate has expired"),
        (pki.not_yet_valid, "certificate is not yet valid"),
    ):
        done = verify(openssl, federation.ca_pem, make(federation, tmp_path / make.__name__) / "tls.pem", "sslclient")
        assert done.returncode != 0
        assert re.search(said, done.stderr)


def test_openssl_alone_accepts_what_we_refuse(openssl: str, federation: pki.Federation, tmp_path: Path) -> None:
    """Why there is a verifier of our own: an ECDSA root, no extended key usage and two URIs all pass in OpenSSL."""
    for make in (pki.signed_by_ecdsa, pki.under_ecdsa_root, pki.without_usage, pki.two_uris):
        folder = make(federation, tmp_path / make.__name__)
        done = run(openssl, "verify", "-purpose", "sslclient", "-CAfile", folder / "ca.pem", folder / "tls.pem")
        assert done.returncode == 0, done.stderr


def test_a_party_of_another_federation_is_refused(openssl: str, federation: pki.Federation, tmp_path: Path) -> None:
    """The name constraint holds in OpenSSL too: an issuing authority vouches for nobody outside its federation."""
    signer = pki.federation_signer(federation)
    key = SigningKey.generate("ML-DSA-65").pyca_key
    leaf = pki.sign_leaf(signer, key, uris=["spiffe://other/site/bank-a"], usages=[Usage.CLIENT.oid])
    folder = pki.write_identity(tmp_path / "foreign", leaf, key, [])
    done = verify(openssl, federation.ca_pem, folder / "tls.pem", "sslclient")
    assert done.returncode != 0
    assert "permitted subtree violation" in done.stderr


def test_what_openssl_makes_is_read_by_us(openssl: str, federation: pki.Federation, tmp_path: Path) -> None:
    """A self-signed ML-DSA certificate of OpenSSL's own making has the algorithms that it was asked for."""
    leaf = for_level(federation.authority.level).leaf_keys[0]
    done = run(
        openssl, "req", "-x509", "-newkey", leaf, "-noenc", "-keyout", tmp_path / "key", "-subj", "/CN=other",
        "-out", tmp_path / "pem",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (made,) = chain.load_certificates((tmp_path / "pem").read_bytes())
    assert chain.is_self_signed(made)
    assert chain.key_algorithm_name(made) == chain.signature_algorithm_name(made) == leaf


@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "encrypted"])
@pytest.mark.parametrize("form", ["seed-only", "priv-only", "seed-priv"])
@pytest.mark.parametrize("algorithm", ["ML-DSA-44", "ML-DSA-65", "ML-DSA-87"])
def test_openssls_private_keys_are_read(
    openssl: str, tmp_path: Path, algorithm: str, form: str, encrypted: bool
) -> None:
    """RFC 9881 §6: keys with their seed sign here, keys without are known by name, and both are usable in TLS."""
    path = tmp_path / "key"
    protection = ("-aes-256-cbc", "-pass", "pass:correct horse") if encrypted else ()
    formats = ("-provparam", f"ml-dsa.output_formats={form}")
    done = run(openssl, "genpkey", "-algorithm", algorithm, *formats, *protection, "-out", path)
    assert done.returncode == 0, done.stderr
    path.chmod(0o600)
    public = run(openssl, "pkey", "-pubout", "-in", path, "-passin", "pass:correct horse").stdout
    spki = armour.decode(public.encode(), "PUBLIC KEY")
    if form == "priv-only":
        with pytest.raises(ConfigurationError, match=f"an {algorithm} key in expanded form, without its seed"):
            keystore.load_signing_key(path, fixed("correct horse"))
    else:
        assert keystore.load_signing_key(path, fixed("correct horse")).verifying_key.spki == spki
    pem = keystore.load_private_pem(path, fixed("correct horse"))
    assert mldsa_keys.public_half(armour.decode(pem, pkcs8.PLAIN_LABEL)) == spki


def test_our_requests_verify(openssl: str, federation: pki.Federation, tmp_path: Path) -> None:
    """OpenSSL finds that the key signed its request, which name it asks for, and one changed bit."""
    leaf = for_level(federation.authority.level).leaf_keys[0]
    party = SpiffeId.parse(federation.site_uri("bank-a"))
    request = make_request(party, SigningKey.generate(leaf))
    (tmp_path / "good").write_bytes(request)
    done = run(openssl, "req", "-inform", "DER", "-in", tmp_path / "good", "-noout", "-verify", "-text")
    assert done.returncode == 0, done.stderr
    said = " ".join(done.stdout.split())
    assert f"Signature Algorithm: {leaf} " in said
    assert f"X509v3 Subject Alternative Name: critical URI:{party} " in said
    (tmp_path / "bad").write_bytes(request[:-1] + bytes([request[-1] ^ 1]))
    done = run(openssl, "req", "-inform", "DER", "-in", tmp_path / "bad", "-noout", "-verify")
    assert done.returncode != 0
    assert "verify failure" in done.stderr


def test_openssls_requests_are_read(openssl: str, federation: pki.Federation, tmp_path: Path) -> None:
    """A site that makes keys and request with OpenSSL alone proves possession to us, and asks for its name alone."""
    leaf = for_level(federation.authority.level).leaf_keys[0]
    party = SpiffeId.parse(federation.site_uri("bank-a"))
    key, made = tmp_path / "key", tmp_path / "request"
    for names, reason in ((f"URI:{party}", None), (f"URI:{party},DNS:hub", "wrong_name")):
        done = run(
            openssl, "req", "-new", "-newkey", leaf, "-noenc", "-keyout", key, "-subj", "/", "-outform", "DER",
            "-addext", f"subjectAltName=critical,{names}", "-out", made,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        if reason is None:
            assert open_request(made.read_bytes(), party, "it") == SigningKey.from_pem(key.read_bytes()).verifying_key
        else:
            with pytest.raises(MessageError) as caught:
                open_request(made.read_bytes(), party, "it")
            assert caught.value.reason == reason


def test_revocation_lists_verify_and_revoke(openssl: str, federation: pki.Federation, tmp_path: Path) -> None:
    """OpenSSL takes the list as the issuing authority's, and by it refuses who was revoked and nobody else."""
    revoked = federation.site("bank-a") / "tls.pem"
    crl = tmp_path / "crl.pem"
    crl.write_bytes(revocation_list(federation, revoked))
    done = run(openssl, "crl", "-in", crl, "-CAfile", federation.ca_pem, "-noout", "-text")
    assert done.returncode == 0, done.stderr
    assert "verify OK" in done.stderr
    said = " ".join(done.stdout.split())
    assert f"Signature Algorithm: {for_level(federation.authority.level).leaf_keys[0]} " in said
    assert "X509v3 CRL Number: " in said
    for certificate, refused in ((revoked, True), (federation.gateway / "tls.pem", False)):
        done = run(openssl, "verify", "-crl_check", "-CRLfile", crl, "-CAfile", federation.ca_pem, certificate)
        assert (done.returncode != 0) is refused
        assert ("certificate revoked" in done.stderr) is refused


def test_a_changed_revocation_list_is_refused(openssl: str, federation: pki.Federation, tmp_path: Path) -> None:
    """One bit of its signature, and it is nobody's."""
    der = bytearray(x509.load_pem_x509_crl(revocation_list(federation)).public_bytes(Encoding.DER))
    der[-1] ^= 1
    (tmp_path / "crl.der").write_bytes(der)
    done = run(openssl, "crl", "-inform", "DER", "-in", tmp_path / "crl.der", "-CAfile", federation.ca_pem, "-noout")
    assert "verify failure" in done.stderr


def revocation_list(federation: pki.Federation, *revoked: Path) -> bytes:
    """A list of the federation's issuing authority."""
    own = pki.federation_signer(federation)
    serials = {chain.load_certificates(path.read_bytes())[0].serial_number: None for path in revoked}
    identifier = find_extension(own.certificate, x509.SubjectKeyIdentifier)
    assert identifier is not None
    by = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)
    signer = classical.Signer(own.certificate, own.key)
    return classical.pem(classical.make_crl(signer, revoked=serials, begin=datetime.now(UTC), extensions=[(by, False)]))
