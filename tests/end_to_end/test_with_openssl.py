"""`with-openssl.sh`: an authority made by the `openssl` program alone, and our programs live with what it issues."""

import hashlib
import os
import socket
import stat
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from pqfl.demo.processes import Crew
from pqfl_transport.crypto.contexts import Context
from pqfl_transport.crypto.pyca import SigningKey
from pqfl_transport.errors import CertificateError
from pqfl_transport.pki import chain, keystore
from pqfl_transport.pki.builders import constraints_of
from pqfl_transport.pki.extensions import find_extension
from pqfl_transport.pki.profiles import PROFILES, Usage
from pqfl_transport.pki.revocation import open_crls
from pqfl_transport.policy import SecurityLevel, for_level, leaf_algorithm
from tests.support.commands import refused as pqfl_refuses
from tests.support.openssl import find_openssl, find_oqsprovider
from tests.support.pki import make_federation
from tests.support.sidecars import Running, echo, identity, plain_server, read_all, start
from tests.support.tools import running

SCRIPT = Path(__file__).resolve().parents[2] / "certs" / "scripts" / "with-openssl.sh"


@pytest.fixture(scope="module")
def openssl() -> str:
    return find_openssl()


def run(*arguments: object, openssl: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the script with this OpenSSL, and with these variables."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OPENSSL")}
    return subprocess.run(
        [str(SCRIPT), *map(str, arguments)], capture_output=True, text=True, check=False, timeout=60,
        env=environment | {"OPENSSL": openssl} | variables,
    )  # fmt: skip


def good(*arguments: object, openssl: str, **variables: str) -> str:
    done = run(*arguments, openssl=openssl, **variables)
    assert done.returncode == 0, done.stderr
    return done.stdout


def refused(*arguments: object, openssl: str, **variables: str) -> str:
    """Run what has to end with status 2 and one line; return it."""
    done = run(*arguments, openssl=openssl, **variables)
    assert done.returncode == 2, (done.stdout, done.stderr)
    (line,) = done.stderr.splitlines()
    assert line.startswith("with-openssl.sh: ")
    return line


@pytest.fixture(scope="module", params=list(SecurityLevel))
def ring(openssl: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A federation of each level."""
    folder: Path = tmp_path_factory.mktemp(request.param) / "ring"
    said = good("--level", request.param, "new", folder, "ring", "bank-a", openssl=openssl)
    assert "root.key" in said
    (folder / "level").write_text(request.param)
    return folder


@pytest.fixture
def crew(tmp_path: Path) -> Iterator[Crew]:
    (tmp_path / "logs").mkdir()
    with Crew(tmp_path / "logs") as processes:
        yield processes


def level(ring: Path) -> str:
    return (ring / "level").read_text()


def certificate(path: Path) -> x509.Certificate:
    (only,) = chain.load_certificates(path.read_bytes())
    return only


def extensions(one: x509.Certificate) -> dict[str, tuple[bool, object]]:
    """What a certificate says in its extensions, but for the identifiers of keys and the names of parties."""
    names = {x509.SubjectKeyIdentifier.oid, x509.AuthorityKeyIdentifier.oid, x509.SubjectAlternativeName.oid}
    return {
        extension.oid.dotted_string: (extension.critical, None if extension.oid in names else extension.value)
        for extension in one.extensions
    }


def validity(one: x509.Certificate) -> timedelta:
    return one.not_valid_after_utc - one.not_valid_before_utc


def test_our_verifier_takes_every_certificate(ring: Path) -> None:
    """Chain, algorithms, usage and name, as strictly as a peer's certificate is checked."""
    anchors = keystore.load_anchors(ring / "ca" / "ca.pem")
    site, gateway = ring / "sites" / "bank-a", ring / "gateway"
    for path, usage, uri in (
        (gateway / "tls.pem", PROFILES["gateway"].tls_usage, "spiffe://ring/gateway/hub"),
        (site / "tls.pem", PROFILES["site"].tls_usage, "spiffe://ring/site/bank-a"),
        (site / "signing.pem", Usage.SIGNING, "spiffe://ring/site/bank-a"),
    ):
        now = datetime.now(UTC)
        assert (
            str(chain.verify_chain(certificate(path), anchors, policy=for_level(level(ring)), usage=usage, now=now))
            == uri
        )


@pytest.mark.parametrize(
    "hosts", [(), ("example.org",), ("10.0.0.0/9",), ("example.org", "192.0.2.128/25", "2001:db8::/33")]
)
def test_it_permits_what_pqfl_ca_would_have_permitted(openssl: str, hosts: tuple[str, ...], tmp_path: Path) -> None:
    """Name constraints of root and issuing authority are the same bytes, whatever hosts they are told."""
    options = [word for one in hosts for word in ("--hosts", one)]
    good(*options, "init", tmp_path / "ca", "fed", openssl=openssl)
    for name, expected in (
        ("root", constraints_of("fed")),
        ("issuing", constraints_of("fed", hosts=hosts or None, directory=True)),
    ):
        assert find_extension(certificate(tmp_path / "ca" / f"{name}.pem"), x509.NameConstraints) == expected


@pytest.mark.parametrize(
    "hosts",
    [
        "",
        "10.0.0.0",
        "10.0.0.0/",
        "EXAMPLE.org",
        "a b",
        "a,b",
        "a/b",
        "::1",
        "10.0.0.0/8/8",
        "10.0.0.1/8",
        "2001:db8::1/32",
    ],
)
def test_what_is_neither_a_domain_nor_a_network_is_refused(openssl: str, hosts: str, tmp_path: Path) -> None:
    """Before anything is made, or with nothing left of it."""
    assert "--hosts" in refused("--hosts", hosts, "init", tmp_path / "ca", "fed", openssl=openssl)
    assert not (tmp_path / "ca").exists()


def test_they_are_what_pqfl_ca_would_have_made(ring: Path, tmp_path: Path) -> None:
    """Names, algorithms, extensions and whether critical, key identifiers, validity: as from our own authority."""
    ours = make_federation(tmp_path, federation="ring", level=level(ring), sites=("bank-a",))
    pairs = [(ring / "ca" / f"{name}.pem", ours.ca / f"{name}.pem") for name in ("root", "issuing")]
    pairs += [(ring / "gateway" / "tls.pem", ours.gateway / "tls.pem")]
    pairs += [(ring / "sites/bank-a" / name, ours.site("bank-a") / name) for name in ("tls.pem", "signing.pem")]
    for theirs_path, ours_path in pairs:
        theirs, own = certificate(theirs_path), certificate(ours_path)
        assert extensions(theirs) == extensions(own)
        assert (theirs.subject, theirs.issuer) == (own.subject, own.issuer)
        assert chain.key_algorithm_name(theirs) == chain.key_algorithm_name(own)
        assert chain.signature_algorithm_name(theirs) == chain.signature_algorithm_name(own)
        # OpenSSL looks at the clock a second time for the end.
        assert abs(validity(theirs) - validity(own)) < timedelta(seconds=5)
        assert theirs.serial_number.bit_length() > 100
        raw = theirs.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        identifier = find_extension(theirs, x509.SubjectKeyIdentifier)
        assert identifier is not None
        assert identifier.digest == hashlib.sha256(raw).digest()[:20]
    issuing = find_extension(certificate(ring / "ca" / "issuing.pem"), x509.SubjectKeyIdentifier)
    by = find_extension(certificate(ring / "gateway" / "tls.pem"), x509.AuthorityKeyIdentifier)
    assert issuing is not None
    assert by is not None
    assert (by.key_identifier, by.authority_cert_issuer) == (issuing.digest, None)


def test_signing_keys_are_read_and_sign(ring: Path) -> None:
    """`signing.key` and `signing.pem` belong together; private keys are seeds, and their owner's alone."""
    signer = keystore.load_signing_identity(ring / "sites" / "bank-a")
    signer.key.verifying_key.verify(signer.key.sign(b"update", Context.ROUND), b"update", Context.ROUND)
    keys = list(ring.rglob("*.key"))
    assert len(keys) == 2 + 1 + 2
    for key in keys:
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
        assert stat.S_IMODE(key.parent.stat().st_mode) == 0o700
        SigningKey.from_pem(key.read_bytes())
        assert len(key.read_bytes()) < 200


def start_pair(crew: Crew, ring: Path, target: str, *flags: str) -> Running:
    """Start a gateway and, in front of it, the site's sidecar; return that."""
    own = ("--level", level(ring))
    gateway = start(crew, "gateway", "server", "--target", target, *identity(ring / "gateway"), *own, *flags)
    return start(
        crew, "sidecar", "client", "--target", gateway.target, *identity(ring / "sites" / "bank-a"), *own,
        "--verify-uri", "spiffe://ring/gateway/hub",
    )  # fmt: skip


def test_gateway_and_sidecar_shake_hands(ring: Path, crew: Crew) -> None:
    """Two processes of ours, certificates of OpenSSL's on both sides: bytes go through, each knows the other."""
    with plain_server(echo) as target:
        sidecar = start_pair(crew, ring, target, "--allow-uri", "spiffe://ring/site/bank-a")
        with sidecar.connect() as plain:
            plain.sendall(b"an update")
            plain.shutdown(socket.SHUT_WR)
            assert read_all(plain) == b"an update"
        event = sidecar.wait_for("connection")
    algorithm = leaf_algorithm(for_level(level(ring)))
    assert event["peer"] == "spiffe://ring/gateway/hub"
    assert (event["own_sigalg"], event["peer_sigalg"]) == (algorithm, algorithm)


def test_a_revoked_party_is_on_the_list_and_kept_out(openssl: str, ring: Path, crew: Crew, tmp_path: Path) -> None:
    """Lists are numbered upwards; ours reads them, and a gateway with `--crl` refuses whom the last one names."""
    name = f"late-{level(ring)}"
    out = tmp_path / name
    good("issue", ring / "ca", "site", name, out, openssl=openssl)
    good("crl", ring / "ca", tmp_path / "before.pem", openssl=openssl)
    said = good("revoke", ring / "ca", "site", name, "keyCompromise", openssl=openssl)
    assert said.count("revoked: ") == 2
    good("crl", ring / "ca", tmp_path / "crl.pem", openssl=openssl)
    anchors, now = keystore.load_anchors(ring / "ca" / "ca.pem"), datetime.now(UTC)
    policy = for_level(level(ring))
    before = open_crls((tmp_path / "before.pem").read_bytes(), anchors, policy=policy, now=now)
    after = open_crls((tmp_path / "crl.pem").read_bytes(), anchors, policy=policy, now=now, at_least=before.numbers)
    assert after.lists[0].number == before.lists[0].number + 1
    for file in ("tls.pem", "signing.pem"):
        before.check(certificate(out / file), now)
        with pytest.raises(CertificateError, match="keyCompromise") as caught:
            after.check(certificate(out / file), now)
        assert caught.value.reason == "revoked"
    with plain_server(echo) as target:
        gateway = start(
            crew, "gateway", "server", "--target", target, *identity(ring / "gateway"), "--level", level(ring),
            "--allow-all", "--crl", str(tmp_path / "crl.pem"),
        )  # fmt: skip
        sidecar = start(
            crew, "sidecar", "client", "--target", gateway.target, *identity(out), "--level", level(ring),
            "--verify-uri", "spiffe://ring/gateway/hub",
        )  # fmt: skip
        with sidecar.connect() as plain:
            plain.sendall(b"an update")
            gateway.wait_for("refusal", reason="revoked")
    assert "no certificate that could be revoked" in refused("revoke", ring / "ca", "site", name, openssl=openssl)


def request(key: SigningKey, *, damaged: bool = False) -> bytes:
    """A request that asks for another party's name and for an authority's rights."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "root")])
    names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier("spiffe://ring/operator/root")])
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject).add_extension(names, critical=False)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    der = bytearray(builder.sign(key.pyca_key, None).public_bytes(Encoding.DER))
    der[-1] ^= damaged
    return x509.load_der_x509_csr(bytes(der)).public_bytes(Encoding.PEM)


def test_requests_prove_possession_and_ask_for_nothing(openssl: str, ring: Path, tmp_path: Path) -> None:
    """A certificate for a key that is elsewhere has the names that the operator gave, whatever the request wants."""
    key = SigningKey.generate(leaf_algorithm(for_level(level(ring))))
    (tmp_path / "csr").write_bytes(request(key))
    (tmp_path / "bad").write_bytes(request(key, damaged=True))
    name, made = f"asked-{level(ring)}", tmp_path / "made.pem"
    said = refused("sign", ring / "ca", "site", name, tmp_path / "bad", made, openssl=openssl)
    assert "signed with its own key" in said
    assert not made.exists()
    subprocess.run(
        [openssl, "req", "-new", "-newkey", "ED25519", "-noenc", "-keyout", tmp_path / "key", "-subj", "/CN=x", "-out",
         tmp_path / "classical"], check=True, capture_output=True,
    )  # fmt: skip
    said = refused("sign", ring / "ca", "site", name, tmp_path / "classical", made, openssl=openssl)
    assert f"a key of ED25519, and this authority certifies {key.algorithm}" in said
    good("sign", ring / "ca", "site", name, tmp_path / "csr", made, openssl=openssl)
    leaf = certificate(made)
    assert chain.verifying_key(leaf) == key.verifying_key
    assert extensions(leaf) == extensions(certificate(ring / "sites" / "bank-a" / "tls.pem"))
    anchors = keystore.load_anchors(ring / "ca" / "ca.pem")
    now = datetime.now(UTC)
    party = chain.verify_chain(leaf, anchors, policy=for_level(level(ring)), usage=Usage.CLIENT, now=now)
    assert str(party) == f"spiffe://ring/site/{name}"
    again = ("sign", ring / "ca", "site", name, tmp_path / "csr", tmp_path / "again.pem")
    assert "was issued before" in refused(*again, openssl=openssl)
    good("--renew", *again, openssl=openssl)
    assert certificate(tmp_path / "again.pem").serial_number != leaf.serial_number


@pytest.mark.parametrize("algorithm", ["falcon512", "mayo2", "p256_mldsa44"])
def test_algorithms_of_a_provider(openssl: str, tmp_path: Path, algorithm: str) -> None:
    """Falcon, MAYO and a composite key: OpenSSL shakes hands with them both ways, and our sidecar refuses by name."""
    modules = find_oqsprovider(openssl)
    provided = ("--provider", "oqsprovider", "--algorithm", algorithm)
    folder = tmp_path / "ring"
    good(*provided, "new", folder, "ring", "bank-a", openssl=openssl, OPENSSL_MODULES=modules)
    assert "load the provider" in refused("crl", folder / "ca", tmp_path / "crl.pem", openssl=openssl)
    good(*provided, "crl", folder / "ca", tmp_path / "crl.pem", openssl=openssl, OPENSSL_MODULES=modules)
    load = ("-provider", "default", "-provider", "oqsprovider")
    trust = ("-CAfile", folder / "ca" / "ca.pem", "-CRL", tmp_path / "crl.pem", "-crl_check", "-verify_return_error")
    environment = {"OPENSSL_MODULES": modules, "OPENSSL_CONF": os.devnull}

    def who(name: str) -> tuple[object, ...]:
        return ("-cert", folder / name / "tls.pem", "-key", folder / name / "tls.key", *trust, *load)

    command = (openssl, "s_server", "-accept", "127.0.0.1:0", "-rev", "-Verify", "2", "-naccept", "1")
    with running(*command, *who("gateway"), environment=environment) as server:
        port = server.read_until(r"^ACCEPT .*:(\d+)$")[1]
        command = (openssl, "s_client", "-connect", f"127.0.0.1:{port}", "-brief", "-groups", "X25519MLKEM768")
        with running(*command, *who("sites/bank-a"), environment=environment) as client:
            client.send("drawer")
            client.read_until("^reward$")
            assert "Verification: OK" in client.said
            assert f"Signature type: {algorithm}" in client.said
    words = ("server", "--listen", "127.0.0.1:0", "--target", "127.0.0.1:9", "--allow-all")
    said = pqfl_refuses(*words, *identity(folder / "gateway"))
    assert str(folder / "gateway" / "tls.pem") in said
    assert "is not allowed by policy high-2026: it lists ML-DSA-65" in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--algorithm", "falcon512", "init", "{new}", "ring"), "has no falcon512 of its own: load the provider"),
        (("--provider", "oqsnowhere", "init", "{new}", "ring"), "cannot load the provider oqsnowhere from"),
        (("--level", "higher", "init", "{new}", "ring"), "unknown level higher"),
        (("init", "{new}", "Ring"), "federation 'Ring' is not"),
        (("init", "{old}", "ring"), "exists already"),
        (("issue", "{new}", "site", "bank-a", "{new}/x"), "no authority of with-openssl.sh"),
        (("issue", "{ca}", "site", "bank-a", "{new}"), "was issued before"),
        (("issue", "{ca}", "bank", "bank-b", "{new}"), "unknown profile bank"),
        (("issue", "{ca}", "gateway", "hub-2", "{new}", "a,URI:spiffe://ring/site/x"), "neither a host name"),
        (("issue", "{ca}", "site", "bank-b", "{new}", "localhost"), "names no hosts"),
        (("issue", "{ca}", "gateway", "../hub", "{new}"), "name '../hub' is not"),
        (("sign", "{ca}", "site", "bank-z", "{old}/text", "{new}"), "no certification request"),
        (("burn", "{ca}"), "unknown command burn"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)  # fmt: skip
def test_what_it_refuses_leaves_nothing(
    openssl: str, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    """One line that says why, status 2, and nothing half made."""
    ca = tmp_path_factory.getbasetemp() / "refusing"
    if not ca.exists():
        good("new", ca, "ring", "bank-a", openssl=openssl)
    (tmp_path / "text").write_text("no request\n")
    places = {"new": tmp_path / "new", "old": tmp_path, "ca": ca / "ca"}
    assert said in refused(*(word.format_map(places) for word in words), openssl=openssl)
    assert [path.name for path in tmp_path.iterdir()] == ["text"]


@pytest.mark.parametrize(
    ("prints", "said"),
    [("OpenSSL 3.0.19 27 Jan 2026", "is too old: ML-DSA needs 3.5 or later"), ("LibreSSL 4.1.0", "is not OpenSSL")],
)
def test_other_programs_are_refused_by_version(tmp_path: Path, prints: str, said: str) -> None:
    """An old OpenSSL, or something else of that name, is told apart before anything is made."""
    program = tmp_path / "openssl"
    program.write_text(f"#!/bin/sh\necho {prints}\n")
    program.chmod(0o755)
    assert said in refused("init", tmp_path / "ca", "ring", openssl=str(program))
    assert "not found" in refused("init", tmp_path / "ca", "ring", openssl=str(tmp_path / "nowhere"))
    assert [path.name for path in tmp_path.iterdir()] == ["openssl"]


@pytest.mark.parametrize(("arguments", "status"), [(("--help",), 0), ((), 2), (("new", "ring"), 2), (("crl", "ca"), 2)])
def test_usage(arguments: tuple[str, ...], status: int) -> None:
    """Asked for help, or called with too little, the script shows how it is called."""
    done = run(*arguments, openssl="openssl")
    assert done.returncode == status
    assert "Usage: with-openssl.sh [OPTION]... COMMAND" in (done.stderr if status else done.stdout)
