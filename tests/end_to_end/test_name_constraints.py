"""What our authorities permit, as others see it: OpenSSL 3.5, the OpenSSL inside `cryptography`, Go, and our verifier.

The forged certificates are signed with the issuing authority's own key: who steals it gets no further than its
constraints.
"""

import json
import os
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509.oid import NameOID
from OpenSSL import crypto

from pqfl_transport.crypto.pyca import SigningKey
from pqfl_transport.errors import CertificateError
from pqfl_transport.pki import chain, keystore
from pqfl_transport.pki.classical import verify_classical
from pqfl_transport.pki.profiles import Usage
from pqfl_transport.policy import for_level, for_name
from tests.support import pki
from tests.support.commands import good, pqfl, refused
from tests.support.go import build_go
from tests.support.openssl import find_openssl

URI = "spiffe://fed/gateway/hub"
HOSTS = ("--hosts", "example.org", "--hosts", "10.0.0.0/8")
_ORGANIZATION, _MAIL = NameOID.ORGANIZATION_NAME, NameOID.EMAIL_ADDRESS


def subject(*parts: tuple[x509.ObjectIdentifier, str]) -> x509.Name:
    return x509.Name([x509.NameAttribute(oid, value) for oid, value in parts])


@dataclass(frozen=True)
class Forged:
    """A certificate and whether its issuer may have made it."""

    what: str
    names: Sequence[x509.GeneralName] = ()
    is_good: bool = False
    uri: str = URI
    subject: x509.Name | None = None


FED = (_ORGANIZATION, "fed")
FORGED = (
    Forged("nothing more", is_good=True),
    Forged("a host", [x509.DNSName("fl.example.org"), x509.DNSName("example.org")], is_good=True),
    Forged("a wildcard", [x509.DNSName("*.example.org")], is_good=True),
    Forged("an address", [x509.IPAddress(ip_address("10.1.2.3"))], is_good=True),
    Forged("another host", [x509.DNSName("fl.example.com")]),
    Forged("a host that ends alike", [x509.DNSName("badexample.org")]),
    Forged("a good host and another", [x509.DNSName("fl.example.org"), x509.DNSName("example.com")]),
    Forged("another address", [x509.IPAddress(ip_address("11.1.2.3"))]),
    Forged("an address of the other kind", [x509.IPAddress(ip_address("2001:db8::1"))]),
    Forged("a mailbox", [x509.RFC822Name("a@example.org")]),
    Forged("a mailbox in the subject", subject=subject(FED, (_MAIL, "a@example.org"))),
    Forged("another federation's URI", uri="spiffe://other/gateway/hub"),
    Forged("another organization", subject=subject((_ORGANIZATION, "other"), (NameOID.COMMON_NAME, "hub"))),
    Forged("no organization", subject=subject((NameOID.COMMON_NAME, "hub"))),
    Forged("another directory name", [x509.DirectoryName(subject((_ORGANIZATION, "other")))]),
)
OF_DIRECTORIES = {"another organization", "no organization", "another directory name"}


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An authority of the command line, with a classical issuer."""
    folder: Path = tmp_path_factory.mktemp("constrained") / "ca"
    good("ca", "init", "--dir", folder, "--federation", "fed", *HOSTS)
    good("ca", "twin", "init", "--dir", folder)
    return folder


@pytest.fixture(scope="module")
def leaves(authority: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """All of `FORGED`, signed by the issuing authority."""
    key = keystore.load_signing_key(authority / "issuing.key").pyca_key
    signer = pki.Signer(keystore.read_certificate_file(authority / "issuing.pem"), key)
    return forge(signer, SigningKey.generate("ML-DSA-65").pyca_key, tmp_path_factory.mktemp("leaves"))


def forge(signer: pki.Signer, key: pki.PrivateKey, folder: Path) -> dict[str, Path]:
    made = {}
    for number, one in enumerate(FORGED):
        leaf = pki.sign_leaf(
            signer, key, uris=[one.uri], usages=[Usage.SERVER.oid], names=one.names, subject=one.subject
        )  # fmt: skip
        made[one.what] = folder / f"{number}.pem"
        made[one.what].write_bytes(leaf.public_bytes(Encoding.PEM))
    return made


def disagreements(leaves: dict[str, Path], accepts: Callable[[Path], bool]) -> list[str]:
    """What somebody accepts and should not, or the other way round."""
    return [one.what for one in FORGED if accepts(leaves[one.what]) is not one.is_good]


def read(path: Path) -> x509.Certificate:
    (only,) = chain.load_certificates(path.read_bytes())
    return only


def test_our_verifier(authority: Path, leaves: dict[str, Path]) -> None:
    """Everything that the issuing authority's certificate says is held to."""
    anchors = keystore.load_anchors(authority / "ca.pem")

    def accepts(path: Path) -> bool:
        try:
            chain.verify_chain(
                read(path), anchors, policy=for_level("high"), usage=Usage.SERVER, now=datetime.now(UTC)
            )  # fmt: skip
        except CertificateError as error:
            return error.reason != "bad_name"
        return True

    assert disagreements(leaves, accepts) == []


def test_openssl_on_the_command_line(authority: Path, leaves: dict[str, Path]) -> None:
    """OpenSSL 3.5 or later, as strictly as it can."""
    openssl = find_openssl()

    def accepts(path: Path) -> bool:
        done = subprocess.run(
            [openssl, "verify", "-x509_strict", "-check_ss_sig", "-CAfile", authority / "ca.pem", path],
            capture_output=True, text=True, check=False, env=os.environ | {"OPENSSL_CONF": os.devnull}, timeout=30,
        )  # fmt: skip
        assert done.returncode == 0 or "subtree violation" in done.stderr, done.stderr
        return done.returncode == 0

    assert disagreements(leaves, accepts) == []


def test_the_openssl_that_we_ship(authority: Path, leaves: dict[str, Path]) -> None:
    """The one inside `cryptography`, which verifies chains in handshakes."""
    assert disagreements(leaves, accepted_by_library(authority / "ca.pem")) == []


def accepted_by_library(anchors: Path) -> Callable[[Path], bool]:
    store = crypto.X509Store()
    for one in chain.load_certificates(anchors.read_bytes()):
        store.add_cert(crypto.X509.from_cryptography(one))

    def accepts(path: Path) -> bool:
        try:
            crypto.X509StoreContext(store, crypto.X509.from_cryptography(read(path))).verify_certificate()
        except crypto.X509StoreContextError as error:
            assert "subtree violation" in str(error)  # noqa: PT017 -- both ends are allowed, this reason only
            return False
        return True

    return accepts


def test_the_verifier_in_go(authority: Path, leaves: dict[str, Path], tmp_path: Path) -> None:
    """Another parser, and constraints evaluated from the bytes of the extension."""
    program = build_go(Path(__file__).resolve().parents[1] / "independent_verifier", tmp_path)

    def accepts(path: Path) -> bool:
        said = json.loads(subprocess.run(
            [program, authority / "ca.pem", path], capture_output=True, text=True, check=True, timeout=60
        ).stdout)  # fmt: skip
        assert "may not name" in said.get("error", "may not name")
        return "error" not in said

    assert disagreements(leaves, accepts) == []


def test_twins(authority: Path, tmp_path: Path) -> None:
    """The classical issuer permits the same hosts; of directory names it says nothing, or Go would refuse its twins."""
    key = ec.generate_private_key(ec.SECP256R1())
    issuer = keystore.read_certificate_file(authority / "classical.pem")
    signer = pki.Signer(issuer, keystore_key(authority / "classical.key"))
    leaves = forge(signer, key, tmp_path)
    classical = for_name("pq-prefer-2026").classical
    assert classical is not None

    def accepts(path: Path) -> bool:
        try:
            verify_classical(
                read(path), [], [issuer], classical=classical, usage=Usage.SERVER, now=datetime.now(UTC)
            )  # fmt: skip
        except CertificateError as error:
            return error.reason != "bad_name"
        return True

    for one in (accepts, accepted_by_library(authority / "classical.pem")):
        assert set(disagreements(leaves, one)) == OF_DIRECTORIES


def keystore_key(path: Path) -> ec.EllipticCurvePrivateKey:
    key = load_pem_private_key(path.read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return key


def test_the_command_line_refuses_what_nobody_would_take(authority: Path, tmp_path: Path) -> None:
    """One sentence with the host and what is permitted; then others are, by another issuing authority alone."""
    words = ("ca", "issue", "--dir", authority, "--profile", "gateway", "--name", "hub", "--out", tmp_path / "hub")
    line = refused(*words, "--dns", "fl.example.com")
    assert "--dns or --ip" in line
    assert "'fl.example.com'" in line
    assert "permits only 'example.org'" in line
    assert "10.0.0.0/8" in refused(*words, "--ip", "11.0.0.1")
    assert not (tmp_path / "hub").exists()
    good(*words, "--dns", "fl.example.org", "--ip", "10.1.1.1")
    root = (authority / "root.pem").read_bytes()
    good("ca", "rotate", "issuing", "--dir", authority)
    assert "permits only 'example.org'" in refused(
        *words[:-3], "next", "--out", tmp_path / "x", "--dns", "a.example.com"
    )
    good("ca", "rotate", "issuing", "--dir", authority, "--hosts", "example.com")
    good(*words[:-3], "next", "--out", tmp_path / "next", "--dns", "a.example.com")
    assert "permits only 'example.com'" in refused(*words[:-3], "x", "--out", tmp_path / "x", "--dns", "a.example.org")
    good("ca", "rotate", "issuing", "--dir", authority, "--hosts", "any")
    good(*words[:-3], "any", "--out", tmp_path / "any", "--dns", "anywhere.example", "--ip", "192.0.2.1")
    good("ca", "rotate", "issuing", "--dir", authority, "--hosts", "none")
    assert "excludes it" in refused(*words[:-3], "none", "--out", tmp_path / "none", "--dns", "a.example.com")
    assert (authority / "root.pem").read_bytes() == root
    done = pqfl("ca", "rotate", "issuing", "--dir", authority, "--hosts", "10.0.0.1/8")
    assert (done.returncode, "'10.0.0.1/8' is neither a domain" in done.stderr) == (2, True)
