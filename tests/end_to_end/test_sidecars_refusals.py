"""Who is refused, why, and that nobody else suffers: each refusal is in the log and in the counters by its reason."""

import contextlib
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from OpenSSL import SSL

from pqfl.demo.processes import Crew
from tests.support import pki
from tests.support.pki import Federation, make_federation
from tests.support.rawtls import RawPeer
from tests.support.sidecars import Running, echo, identity, plain_server, read_all, start_client, start_server

TLS_1_2 = (SSL.TLS1_2_VERSION, SSL.TLS1_2_VERSION)


@dataclass(frozen=True, slots=True)
class Hub:
    """A gateway in front of an echo, and a good site's sidecar that uses it meanwhile."""

    federation: Federation
    folder: Path
    crew: Crew
    target: str
    gateway: Running
    sidecar: Running

    def still_works(self) -> bool:
        """Whether the good site is served."""
        with self.sidecar.connect() as connection:
            connection.sendall(b"still there?")
            connection.shutdown(socket.SHUT_WR)
            return read_all(connection) == b"still there?"


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    folder = tmp_path_factory.mktemp("hub")
    federation = make_federation(folder, sites=("bank-a", "bank-b"))
    (folder / "logs").mkdir()
    with plain_server(echo) as target, Crew(folder / "logs") as crew:
        allowed = ("--allow-uri", federation.site_uri("bank-a"))
        gateway = start_server(crew, federation, target, *allowed, "--audit", f"{folder}/audit.jsonl")
        yield Hub(federation, folder, crew, target, gateway, start_client(crew, federation, gateway.target))


def attack(gateway: Running, peer: RawPeer) -> str:
    """Shake hands with the gateway over a real socket; return what the peer is told."""
    with gateway.connect() as connection:
        for _ in range(8):
            peer.step()
            if data := peer.take():
                connection.sendall(data)
            if peer.error:
                break
            try:
                received = connection.recv(1 << 16)
            except OSError as error:
                return str(error)
            if not received:
                break
            peer.receive(received)
    return peer.error or peer.read()


def odd(hub: Hub, oddity: pki.Oddity) -> Path:
    folder = hub.folder / oddity.__name__
    return folder if folder.exists() else oddity(hub.federation, folder, "site")


CLIENTS: dict[str, Any] = {
    "classical groups only": (lambda hub: RawPeer(hub.federation.site("bank-a"), server=False, groups="x25519"),
                              "no_pq_group"),
    "TLS 1.2": (lambda hub: RawPeer(hub.federation.site("bank-a"), server=False, groups="x25519", versions=TLS_1_2),
                "protocol"),
    "no certificate": (lambda _hub: RawPeer(None, server=False), "no_client_cert"),
    "not on the list": (lambda hub: RawPeer(hub.federation.site("bank-b"), server=False), "not_allowed"),
    "a gateway's certificate": (lambda hub: RawPeer(hub.federation.gateway, server=False), "bad_usage"),
    "other CA": (lambda hub: RawPeer(odd(hub, pki.other_authority), server=False), "untrusted"),
    "under an ECDSA CA": (lambda hub: RawPeer(odd(hub, pki.signed_by_ecdsa), server=False), "bad_sigalg"),
    "expired": (lambda hub: RawPeer(odd(hub, pki.expired), server=False), "expired"),
    "signing certificate": (lambda hub: RawPeer(odd(hub, pki.signing_for_tls), server=False), "bad_usage"),
    "wrong SPIFFE ID": (lambda hub: RawPeer(odd(hub, pki.bad_uri), server=False), "bad_name"),
}  # fmt: skip


@pytest.mark.parametrize("name", CLIENTS)
def test_clients_that_are_refused(hub: Hub, name: str) -> None:
    """The reason is logged and counted, the client gets an alert and no byte of the service."""
    make, reason = CLIENTS[name]
    before = hub.gateway.status()["handshake_failures"].get(reason, 0)
    told = attack(hub.gateway, make(hub))
    refusal = hub.gateway.wait_for("refusal", reason=reason)
    assert refusal["detail"]
    assert "alert" in told
    assert hub.gateway.status()["handshake_failures"][reason] == before + 1
    assert hub.still_works()


@pytest.mark.parametrize("garbage", [b"GET / HTTP/1.1\r\n\r\n", b"\x00" * 5000, b"\x16\x03\x01\xff\xff" + b"x" * 100])
def test_garbage_on_the_tls_port(hub: Hub, garbage: bytes) -> None:
    """Whatever is no TLS is refused as a broken protocol, and others are served."""
    with hub.gateway.connect() as connection:
        connection.sendall(garbage)
        connection.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionResetError):
            read_all(connection)
    assert hub.gateway.wait_for("refusal")["reason"] in {"protocol", "truncated"}
    assert hub.still_works()


def test_pythons_own_tls_client_is_refused(hub: Hub) -> None:
    """The standard library's client, classical as it is here, gets no connection."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE

    def use() -> bytes:
        with hub.gateway.connect() as raw, context.wrap_socket(raw) as wrapped:
            return wrapped.recv(1)

    with pytest.raises(ssl.SSLError):
        use()
    assert hub.gateway.wait_for("refusal")["reason"] in {"no_pq_group", "no_client_cert", "bad_sigalg", "protocol"}


def test_a_sidecar_refuses_another_gateway(hub: Hub) -> None:
    """The site names the gateway it expects; another one of the same federation is not it."""
    expected = "spiffe://fed/gateway/other"
    sidecar = start_client(
        hub.crew, hub.federation, hub.gateway.target, "--verify-uri", expected, name="sidecar-other"
    )  # fmt: skip
    with sidecar.connect() as connection:
        connection.sendall(b"secret")
        with pytest.raises(ConnectionResetError):
            connection.recv(1)
    assert sidecar.wait_for("refusal")["reason"] == "not_allowed"
    assert sidecar.status()["handshake_failures"] == {"not_allowed": 1}


@pytest.mark.parametrize("oddity", [pki.other_authority, pki.expired, pki.without_usage], ids=lambda o: o.__name__)
def test_a_sidecar_refuses_a_gateway_with_a_wrong_certificate(hub: Hub, tmp_path: Path, oddity: pki.Oddity) -> None:
    """Nothing of the plain side's bytes goes out to a server that is not the gateway."""
    folder = oddity(hub.federation, tmp_path / "odd", "gateway")
    listener = socket.create_server(("127.0.0.1", 0))
    host, port = listener.getsockname()
    sidecar = start_client(hub.crew, hub.federation, f"{host}:{port}", name=f"sidecar-{oddity.__name__}")
    with listener, sidecar.connect() as connection:
        connection.sendall(b"secret")
        accepted, _ = listener.accept()
        raw = RawPeer(folder, server=True)
        with accepted:
            for _ in range(4):
                raw.receive(accepted.recv(1 << 16))
                raw.step()
                if raw.error:
                    break
                accepted.sendall(raw.take())
            assert "alert" in (raw.error or raw.read())
    assert sidecar.wait_for("refusal")["reason"] == pki.ODDITIES[oddity]


def test_refusals_are_audited(hub: Hub) -> None:
    """The hash-chained log has every refusal with its reason."""
    attack(hub.gateway, RawPeer(None, server=False))
    hub.gateway.wait_for("refusal", reason="no_client_cert")
    assert '"reason":"no_client_cert"' in (hub.folder / "audit.jsonl").read_text()


def test_a_target_that_is_down_ends_that_connection_and_no_more(hub: Hub) -> None:
    """The client sees its connection end, the log names the target, and the gateway goes on."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    gateway = start_server(hub.crew, hub.federation, f"127.0.0.1:{port}", name="gateway-down")
    sidecar = start_client(hub.crew, hub.federation, gateway.target, name="sidecar-down")
    for _ in range(2):
        with sidecar.connect() as connection, contextlib.suppress(ConnectionResetError):
            assert connection.recv(1) == b""
        failure = gateway.wait_for("failure", reason="target_down")
        assert f"127.0.0.1:{port}" in failure["detail"]
    assert gateway.status()["connections_open"] == 0


def test_a_gateway_that_is_down_is_named_by_the_sidecar(hub: Hub) -> None:
    """Without its gateway the sidecar ends the plain connection and says whom it could not reach."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    sidecar = start_client(hub.crew, hub.federation, f"127.0.0.1:{port}", name="sidecar-alone")
    # It may be gone again before the connection is made at this end.
    with contextlib.suppress(ConnectionResetError), sidecar.connect() as connection:
        assert connection.recv(1) == b""
    assert f"127.0.0.1:{port}" in sidecar.wait_for("failure", reason="target_down")["detail"]


def refused_at_start(*words: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "pqfl", *words], capture_output=True, text=True, timeout=60, check=False
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr


def starts(hub: Hub, tmp_path: Path) -> dict[str, tuple[list[str], int, str]]:
    """Command lines that cannot work: words, status, and what the one sentence names."""
    gateway, site = hub.federation.gateway, hub.federation.site("bank-a")
    loose = tmp_path / "loose.key"
    loose.write_bytes((gateway / "tls.key").read_bytes())
    loose.chmod(0o644)
    signing = ["--cert", f"{site}/signing.pem", "--key", f"{site}/signing.key", "--cacert", f"{site}/ca.pem"]
    base = ["server", "--listen", "127.0.0.1:0", "--target", "127.0.0.1:1"]
    own = identity(gateway)
    return {
        "nobody allowed": ([*base, *own], 2, "whom it allows"),
        "signing certificate": ([*base, *signing, "--allow-all"], 2, "signing.pem"),
        "client certificate": ([*base, *identity(site), "--allow-all"], 2, "tls.pem"),
        "other key": ([*base, *own[:2], "--key", f"{site}/tls.key", *own[4:], "--allow-all"], 2, f"{site}/tls.key"),
        "loose key": ([*base, *own[:2], "--key", str(loose), *own[4:], "--allow-all"], 2, "chmod 600"),
        "missing file": ([*base, *own[:4], "--cacert", f"{tmp_path}/nowhere.pem", "--allow-all"], 2, "nowhere.pem"),
        "level": ([*base, *own, "--allow-all", "--level", "cnsa2"], 2, "tls.pem"),
        "remote target": (["server", "--listen", "127.0.0.1:0", "--target", "192.0.2.1:1", *own, "--allow-all"], 2,
                          "--target 192.0.2.1:1"),
        "bad address": (["server", "--listen", "127.0.0.1", "--target", "127.0.0.1:1", *own, "--allow-all"], 2,
                        "--listen '127.0.0.1'"),
        "bad rule": ([*base, *own, "--allow-uri", "bank-a"], 2, "bank-a"),
        "port in use": (["server", "--listen", hub.target, "--target", "127.0.0.1:1", *own, "--allow-all"], 1,
                        f"--listen {hub.target}: the address is in use"),
        "remote listener": (["client", "--listen", "0.0.0.0:0", "--target", "127.0.0.1:1", *identity(site)], 2,
                            "--listen 0.0.0.0:0"),
        "audit log in use": ([*base, *own, "--allow-all", "--audit", f"{hub.folder}/audit.jsonl"], 2, "audit.jsonl"),
    }  # fmt: skip


def test_what_a_sidecar_cannot_start_with(hub: Hub, tmp_path: Path) -> None:
    """One sentence with the flag or the file, the documented status, no traceback."""
    for name, (words, status, named) in starts(hub, tmp_path).items():
        found, error = refused_at_start(*words)
        assert (found, named in error) == (status, True), f"{name}: {found} {error}"
        assert len(error.strip().splitlines()) == 1, name
