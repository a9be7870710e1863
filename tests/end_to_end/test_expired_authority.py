"""An issuing authority that nobody replaced in time: who is refused, what the commands say, and the way out."""

import json
import socket
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from certs.authority import Authority
from pqfl.demo.processes import Crew
from pqfl_transport.crypto.pyca import SigningKey
from pqfl_transport.pki import keystore
from pqfl_transport.pki.profiles import ISSUING_DAYS
from tests.end_to_end.test_sidecars_refusals import attack
from tests.support.commands import good, refused
from tests.support.pki import HOSTS, Signer, sign_leaf, write_identity
from tests.support.rawtls import RawPeer
from tests.support.sidecars import READ_BYTES, Running, echo, identity, plain_server, read_all, start

SITE, GATEWAY = "spiffe://fed/site/bank", "spiffe://fed/gateway/hub"


@pytest.fixture
def ca(tmp_path: Path) -> Path:
    """An authority whose issuing certificate ended yesterday; its root goes on."""
    begin = datetime.now(UTC) - timedelta(days=ISSUING_DAYS + 1)
    return Authority.create(tmp_path / "ca", federation="fed", now=begin).folder


def test_nothing_is_signed_until_it_is_replaced(ca: Path, tmp_path: Path) -> None:
    """Every command that would sign says what to do, and writes nothing; what was there stays as it is."""
    before = {path: path.read_bytes() for path in ca.iterdir() if path.suffix in {".pem", ".json"}}
    for words in (
        ("issue", "--profile", "site", "--name", "bank", "--out", tmp_path / "bank"),
        ("serve", "--listen", "127.0.0.1:0"),
        ("crl",),
    ):
        said = refused("ca", words[0], "--dir", ca, *words[1:])
        assert "expired" in said
        assert "pqfl ca rotate issuing" in said
    assert not (tmp_path / "bank").exists()
    assert not (ca / "crl.pem").exists()
    warnings = json.loads(good("ca", "list", "--dir", ca, "--json"))["warnings"]
    assert any("pqfl ca rotate issuing" in line for line in warnings)
    assert {path: path.read_bytes() for path in before} == before
    good("ca", "rotate", "issuing", "--dir", ca)
    good("ca", "issue", "--dir", ca, "--profile", "site", "--name", "bank", "--out", tmp_path / "bank")
    good("ca", "crl", "--dir", ca)
    assert "no replaced authority" in refused("ca", "retire", "--dir", ca)


def test_a_live_certificate_under_an_expired_authority_is_refused(ca: Path, tmp_path: Path) -> None:
    """By gateway and sidecar, naming the authority, also where its certificate is still in somebody's ca.pem."""
    expired = keystore.read_certificate_file(ca / "issuing.pem")
    signer = Signer(expired, keystore.load_signing_key(ca / "issuing.key").pyca_key)
    good("ca", "rotate", "issuing", "--dir", ca)
    hosts = [word for host in HOSTS for word in ("--dns" if isinstance(host, str) else "--ip", host)]
    good("ca", "issue", "--dir", ca, "--profile", "gateway", "--name", "hub", *hosts, "--out", tmp_path / "hub")
    good("ca", "issue", "--dir", ca, "--profile", "site", "--name", "bank", "--out", tmp_path / "bank")
    everything = tmp_path / "everything.pem"
    everything.write_bytes((ca / "ca.pem").read_bytes() + expired.public_bytes(Encoding.PEM))
    late = {}
    for uri, usage in ((SITE, ExtendedKeyUsageOID.CLIENT_AUTH), (GATEWAY, ExtendedKeyUsageOID.SERVER_AUTH)):
        key = SigningKey.generate("ML-DSA-65").pyca_key
        leaf = sign_leaf(signer, key, uris=[uri], usages=[usage])
        late[uri] = write_identity(tmp_path / uri.rpartition("/")[2] / "late", leaf, key, [expired])
    said = refused("server", *identity(late[GATEWAY], everything), "--listen", "127.0.0.1:0", "--target", "127.0.0.1:1",
                   "--allow-all")  # fmt: skip
    assert "CN=issuing,OU=authority,O=fed" in said
    assert "expired" in said
    with Crew(tmp_path) as crew, plain_server(echo) as target, plain_server(playing(late[GATEWAY])) as impostor:
        gateway = start(
            crew, "gateway", "server", "--target", target, *identity(tmp_path / "hub", everything), "--allow-all"
        )
        attack(gateway, RawPeer(late[SITE], server=False))
        require_expired(gateway)
        sidecar = start(
            crew, "sidecar", "client", "--target", impostor, *identity(tmp_path / "bank", everything), "--verify-uri",
            GATEWAY,
        )  # fmt: skip
        # A reset is a refusal too.
        with sidecar.connect() as connection, suppress(ConnectionResetError):
            assert read_all(connection) == b""
        require_expired(sidecar)
        good_sidecar = start(
            crew, "good", "client", "--target", gateway.target, *identity(tmp_path / "bank", everything),
            "--verify-uri", GATEWAY,
        )  # fmt: skip
        with good_sidecar.connect() as connection:
            connection.sendall(b"still there?")
            connection.shutdown(socket.SHUT_WR)
            assert read_all(connection) == b"still there?"


def playing(folder: Path) -> Callable[[socket.socket], None]:
    """Serve one handshake with the certificate of a folder, with OpenSSL and none of our rules."""

    def serve(connection: socket.socket) -> None:
        peer = RawPeer(folder, server=True)
        while data := connection.recv(READ_BYTES):
            peer.receive(data)
            peer.step()
            connection.sendall(peer.take())

    return serve


def require_expired(running: Running) -> None:
    """The log has refused somebody for the authority's end."""
    refusal = running.wait_for("refusal")
    assert refusal["reason"] == "expired"
    assert "CN=issuing,OU=authority,O=fed" in str(refusal["detail"])
