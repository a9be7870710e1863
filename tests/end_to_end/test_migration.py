"""A migration: one listener serves classical peers beside post-quantum ones, and says which is which."""

import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
import requests.adapters
import urllib3
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa

from pqfl.demo.processes import Crew
from pqfl_transport.tls import client_context
from tests.support.classical import make_leaf, make_root, write_classical
from tests.support.pki import Federation, make_federation
from tests.support.sidecars import Running, echo, plain_server, start_client, start_server


@dataclass(frozen=True, slots=True)
class Scene:
    """A gateway with two certificates and two trust stores, and a classical authority's leaves."""

    federation: Federation
    gateway: Running
    crew: Crew
    classical: Path
    """A folder for each kind of leaf."""


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("migration")
    federation = make_federation(folder, sites=("bank-a",))
    root = make_root("classical root")
    issuing = make_root("classical issuing", parent=root, path_length=0)
    uri = "spiffe://fed/site/old"
    keys = {
        "rsa": rsa.generate_private_key(65537, 2048),
        "ed25519": ed25519.Ed25519PrivateKey.generate(),
        "ecdsa": None,
    }
    for name, key in keys.items():
        leaf, used = make_leaf(issuing, key, uris=(uri,) if name == "ecdsa" else ())
        write_classical(folder / name, root, leaf, used, issuing.certificate)
    # Its clients trust the root alone, so the gateway has to send what is between.
    twin = write_classical(folder / "twin", root, *make_leaf(issuing, dns=("localhost",)), issuing.certificate)
    with Crew(folder) as crew, plain_server(echo) as target:
        gateway = start_server(
            crew, federation, target, "--allow-all", "--pq", "prefer", "--cert", f"{twin}/tls.pem",
            "--key", f"{twin}/tls.key", "--classical-cacert", f"{twin}/ca.pem",
        )  # fmt: skip
        yield Scene(federation, gateway, crew, folder)


def classical_client(scene: Scene, name: str) -> ssl.SSLContext:
    """The standard library's TLS, as another program has it."""
    context = ssl.create_default_context(cafile=str(scene.classical / "twin" / "ca.pem"))
    context.load_cert_chain(scene.classical / name / "tls.pem", scene.classical / name / "tls.key")
    return context


@pytest.mark.parametrize(("name", "algorithm"), [("ecdsa", "ECDSA-P256"), ("rsa", "RSA-PSS"), ("ed25519", "Ed25519")])
def test_classical_peers_are_served_and_called_what_they_are(scene: Scene, name: str, algorithm: str) -> None:
    """Under a trust store of their own; log and metrics show every one of them."""
    before = scene.gateway.status()["listeners"]["main"]["connections_classical"]
    raw = socket.create_connection(scene.gateway.address, timeout=20)
    with classical_client(scene, name).wrap_socket(raw, server_hostname="localhost") as connection:
        connection.sendall(b"old")
        assert connection.recv(10) == b"old"
    line = scene.gateway.wait_for("connection", peer_sigalg=algorithm)
    assert (line["post_quantum"], line["own_sigalg"]) == (False, "ECDSA-P256")
    assert scene.gateway.status()["listeners"]["main"]["connections_classical"] == before + 1


def test_post_quantum_peers_stay_post_quantum(scene: Scene) -> None:
    """The same listener shows them its ML-DSA certificate over the hybrid group."""
    sidecar = start_client(scene.crew, scene.federation, scene.gateway.target)
    with sidecar.connect() as connection:
        connection.sendall(b"new")
        assert connection.recv(10) == b"new"
    line = scene.gateway.wait_for("connection", peer=scene.federation.site_uri("bank-a"))
    assert (line["post_quantum"], line["own_sigalg"], line["group"]) == (True, "ML-DSA-65", "X25519MLKEM768")


def test_a_stranger_is_refused_in_either_half(scene: Scene, tmp_path: Path) -> None:
    """Another classical authority is not trusted, whatever it issues."""
    other = make_root("other root")
    folder = write_classical(tmp_path, other, *make_leaf(other, uris=("spiffe://fed/site/bank-a",)))
    context = ssl.create_default_context(cafile=str(scene.classical / "twin" / "ca.pem"))
    context.load_cert_chain(folder / "tls.pem", folder / "tls.key")
    raw = socket.create_connection(scene.gateway.address, timeout=20)
    with pytest.raises(OSError, match=r"."), context.wrap_socket(raw, server_hostname="localhost") as connection:
        connection.recv(1)
    assert scene.gateway.wait_for("refusal", reason="untrusted")


def test_urllib3_speaks_through_our_context(scene: Scene, tmp_path: Path) -> None:
    """A program that knows only urllib3 (and requests above it) is post-quantum by its context."""

    def answer(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    site = scene.federation.site("bank-a")
    files = (site / "tls.pem", site / "tls.key", site / "ca.pem")
    context = client_context(*files, verify_uri=scene.federation.gateway_uri)
    with Crew(tmp_path) as crew, plain_server(answer) as target:
        gateway = start_server(crew, scene.federation, target)
        with urllib3.HTTPSConnectionPool(*gateway.address, ssl_context=context) as pool:
            response: Any = pool.request("GET", "/", retries=False, timeout=20)
        assert (response.status, response.data) == (200, b"ok")

        class Adapter(requests.adapters.HTTPAdapter):
            def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
                super().init_poolmanager(*arguments, **options | {"ssl_context": context})

            def cert_verify(self, *_arguments: Any, **_options: Any) -> None:
                """Whom to trust is in the context already; requests would add its own bundle of authorities."""

        with requests.Session() as session:
            session.trust_env = False
            session.mount("https://", Adapter())
            host, port = gateway.address
            assert session.get(f"https://{host}:{port}/", timeout=20).text == "ok"
        assert gateway.wait_for("connection")["group"] == "X25519MLKEM768"


def test_without_prefer_nothing_classical_is_configured(scene: Scene, tmp_path: Path) -> None:
    """A second certificate under a policy that would never show it is a mistake, said at the start."""
    with Crew(tmp_path) as crew:
        twin = scene.classical / "twin"
        folder = scene.federation.gateway
        process = crew.start(
            "gateway", "-m", "pqfl", "server", "--listen", "127.0.0.1:0", "--target", "127.0.0.1:1", "--allow-all",
            "--cert", f"{folder}/tls.pem", "--key", f"{folder}/tls.key", "--cacert", f"{folder}/ca.pem",
            "--cert", f"{twin}/tls.pem", "--key", f"{twin}/tls.key", "--classical-cacert", f"{twin}/ca.pem",
        )  # fmt: skip
        with pytest.raises(Exception, match=r"(?s)status 2.*classical"):
            process.wait(30)
