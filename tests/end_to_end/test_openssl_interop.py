"""The sidecars and OpenSSL's own TLS client and server: nothing of ours is at the other end.

They run with `openssl_conf/native.cnf`, and with classical settings for what has to be refused.
"""

import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from pqfl.demo.processes import Crew, Event, Process
from pqfl_transport.policy import SecurityLevel, for_level, leaf_algorithm
from tests.support.openssl import find_openssl
from tests.support.pki import Federation, make_federation
from tests.support.tools import Tool, running

NATIVE = Path(__file__).resolve().parents[2] / "openssl_conf" / "native.cnf"
_DEADLINE_SECONDS = 30


@pytest.fixture(scope="module")
def openssl() -> str:
    return find_openssl()


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return make_federation(tmp_path_factory.mktemp("federation"), sites=("bank-a",))


@pytest.fixture
def crew(tmp_path: Path) -> Iterator[Crew]:
    logs = tmp_path / "logs"
    logs.mkdir()
    with Crew(logs) as processes:
        yield processes


@contextmanager
def tool(*command: object, configuration: Path | str = NATIVE) -> Iterator[Tool]:
    with running(*command, environment={"OPENSSL_CONF": str(configuration)}) as started:
        yield started


def who(folder: Path, federation: Federation) -> tuple[object, ...]:
    """The flags that give a party's certificate and key, and make OpenSSL verify its peer's."""
    return (
        "-cert", folder / "tls.pem", "-key", folder / "tls.key", "-CAfile", federation.ca_pem, "-verify_return_error",
    )  # fmt: skip


def sidecar(crew: Crew, role: str, folder: Path, *flags: str) -> tuple[Process, str]:
    """Start `pqfl server` or `pqfl client` on a free port; return it and where it listens."""
    process = crew.start(
        role, "-m", "pqfl", role, "--listen", "127.0.0.1:0", "--cert", str(folder / "tls.pem"),
        "--key", str(folder / "tls.key"), "--cacert", str(folder / "ca.pem"), "--log-format", "json", *flags,
    )  # fmt: skip
    event = process.wait_for(lambda event: event.get("event") == "listening", _DEADLINE_SECONDS)
    return process, event["address"]


def seen(process: Process, kind: str) -> Event:
    return process.wait_for(lambda event: event.get("event") == kind, _DEADLINE_SECONDS)


@contextmanager
def shouting_server() -> Iterator[str]:
    """A plain server that answers one connection in capitals until its end."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            # A sidecar that is ended resets its connections, which is part of some tests.
            with connection, suppress(ConnectionError):
                while data := connection.recv(1 << 16):
                    connection.sendall(data.upper())

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"


def test_s_client_through_the_gateway(openssl: str, federation: Federation, crew: Crew) -> None:
    """OpenSSL's client gets through, agrees on what was negotiated, and may change its keys on the way."""
    with shouting_server() as target:
        process, address = sidecar(crew, "server", federation.gateway, "--target", target, "--allow-all")
        site = federation.site("bank-a")
        with tool(openssl, "s_client", "-connect", address, "-brief", *who(site, federation)) as client:
            client.send("a first line")
            client.read_until("^A FIRST LINE$")
            # OpenSSL's client takes a line with this one letter for the order to update the keys (RFC 9846 §4.7.3).
            client.send("K")
            client.read_until("KEYUPDATE")
            client.send("after new keys")
            client.read_until("^AFTER NEW KEYS$")
            assert client.finish() == 0
        event = seen(process, "connection")
    for line in (
        "Protocol version: TLSv1.3",
        "Ciphersuite: TLS_AES_256_GCM_SHA384",
        "Signature type: mldsa65",
        "Verification: OK",
        "Negotiated TLS1.3 group: X25519MLKEM768",
    ):
        assert line in client.said
    assert (event["peer"], event["group"]) == (federation.site_uri("bank-a"), "X25519MLKEM768")
    assert (event["own_sigalg"], event["peer_sigalg"]) == ("ML-DSA-65", "ML-DSA-65")
    assert (event["reason"], event["bytes_in"]) == ("complete", len("a first line\nafter new keys\n"))


def test_s_server_behind_a_sites_sidecar(openssl: str, federation: Federation, crew: Crew) -> None:
    """A plain client reaches OpenSSL's server through `pqfl client`, which verified it."""
    command = (openssl, "s_server", "-accept", "127.0.0.1:0", "-rev", "-Verify", "2", "-naccept", "1")
    with tool(*command, *who(federation.gateway, federation)) as server:
        port = server.read_until(r"^ACCEPT .*:(\d+)$")[1]
        process, address = sidecar(
            crew, "client", federation.site("bank-a"), "--target", f"127.0.0.1:{port}",
            "--verify-uri", federation.gateway_uri,
        )  # fmt: skip
        host, _, own_port = address.rpartition(":")
        with socket.create_connection((host, int(own_port)), _DEADLINE_SECONDS) as plain:
            plain.sendall(b"drawer\n")
            with plain.makefile("rb") as stream:
                assert stream.readline() == b"reward\n"
        event = seen(process, "connection")
        server.read_until("CONNECTION CLOSED")
    for line in ("Protocol version: TLSv1.3", "Verification: OK", "Signature type: mldsa65"):
        assert line in server.said
    assert (event["peer"], event["group"]) == (federation.gateway_uri, "X25519MLKEM768")


@pytest.mark.parametrize("level", list(SecurityLevel))
def test_every_level_in_both_directions(openssl: str, crew: Crew, tmp_path: Path, level: SecurityLevel) -> None:
    """With the level's first group and keys, OpenSSL's client reaches our gateway and our sidecar OpenSSL's server."""
    made = make_federation(tmp_path / "federation", level=level, sites=("bank-a",))
    site, policy = made.site("bank-a"), for_level(level)
    only = ("-groups", policy.groups[0])
    with shouting_server() as target:
        process, address = sidecar(crew, "server", made.gateway, "--target", target, "--allow-all", "--level", level)
        command = (openssl, "s_client", "-connect", address, "-brief", *only, *who(site, made))
        with tool(*command, configuration=os.devnull) as client:
            client.send("a first line")
            client.read_until("^A FIRST LINE$")
            assert client.finish() == 0
        events = [seen(process, "connection")]
    command = (openssl, "s_server", "-accept", "127.0.0.1:0", "-rev", "-Verify", "2", "-naccept", "1", *only)
    with tool(*command, *who(made.gateway, made), configuration=os.devnull) as server:
        port = server.read_until(r"^ACCEPT .*:(\d+)$")[1]
        target_flags = ("--target", f"127.0.0.1:{port}", "--verify-uri", made.gateway_uri, "--level", level)
        process, address = sidecar(crew, "client", site, *target_flags)
        host, _, own_port = address.rpartition(":")
        with socket.create_connection((host, int(own_port)), _DEADLINE_SECONDS) as plain:
            plain.sendall(b"drawer\n")
            with plain.makefile("rb") as stream:
                assert stream.readline() == b"reward\n"
        events.append(seen(process, "connection"))
    algorithm = leaf_algorithm(policy)
    for event in events:
        found = event["group"], event["own_sigalg"], event["peer_sigalg"]
        assert found == (policy.groups[0], algorithm, algorithm)


@pytest.mark.parametrize(
    ("flags", "with_certificate", "reason", "told"),
    [
        (("-groups", "x25519"), True, "no_pq_group", "handshake failure"),
        (("-groups", "MLKEM512"), True, "no_pq_group", "handshake failure"),
        (("-tls1_2",), True, "protocol", "protocol version"),
        ((), False, "no_client_cert", "certificate required"),
    ],
    ids=["classical group", "group of no policy", "TLS 1.2", "no certificate"],
)
def test_what_the_gateway_refuses_openssls_client_is_told(
    openssl: str,
    federation: Federation,
    crew: Crew,
    flags: tuple[str, ...],
    with_certificate: bool,
    reason: str,
    told: str,
) -> None:
    """Each has its reason in the log, and reaches the client as an alert and not as a reset."""
    process, address = sidecar(crew, "server", federation.gateway, "--target", "127.0.0.1:9", "--allow-all")
    identity = who(federation.site("bank-a"), federation) if with_certificate else ("-CAfile", federation.ca_pem)
    command = (openssl, "s_client", "-connect", address, *identity, *flags)
    with tool(*command, configuration=os.devnull) as client:
        # A client without certificate believes itself done; it is told when it reads.
        client.read_until(told)
        client.finish()
    assert seen(process, "refusal")["reason"] == reason


@pytest.mark.parametrize("flags", [("-groups", "x25519"), ("-groups", "MLKEM768"), ("-tls1_2",)], ids=" ".join)
def test_servers_that_a_site_refuses(openssl: str, federation: Federation, crew: Crew, flags: tuple[str, ...]) -> None:
    """Against a server without a group of the policy, or of an older version, no byte of the plain side goes out."""
    command = (openssl, "s_server", "-accept", "127.0.0.1:0", "-rev", "-naccept", "1", *flags)
    with tool(*command, *who(federation.gateway, federation), configuration=os.devnull) as server:
        port = server.read_until(r"^ACCEPT .*:(\d+)$")[1]
        process, address = sidecar(
            crew, "client", federation.site("bank-a"), "--target", f"127.0.0.1:{port}",
            "--verify-uri", federation.gateway_uri,
        )  # fmt: skip
        host, _, own_port = address.rpartition(":")
        with socket.create_connection((host, int(own_port)), _DEADLINE_SECONDS) as plain:
            plain.settimeout(_DEADLINE_SECONDS)
            with pytest.raises(ConnectionResetError):
                plain.recv(1)
    assert seen(process, "refusal")["reason"] in {"no_pq_group", "protocol"}


@pytest.mark.parametrize(
    ("flags", "shakes_hands"),
    [((), True), (("-groups", "SecP256r1MLKEM768"), True), (("-groups", "x25519"), False), (("-tls1_2",), False)],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_the_configuration_alone_makes_openssls_server_refuse(
    openssl: str, federation: Federation, flags: tuple[str, ...], shakes_hands: bool
) -> None:
    """Between two OpenSSL commands without a flag of ours, native.cnf lets hybrid groups of TLS 1.3 pass, no others."""
    command = (openssl, "s_server", "-accept", "127.0.0.1:0", "-rev", "-naccept", "1")
    with tool(*command, *who(federation.gateway, federation)) as server:
        port = server.read_until(r"^ACCEPT .*:(\d+)$")[1]
        client_command = (openssl, "s_client", "-connect", f"127.0.0.1:{port}", "-brief", "-CAfile", federation.ca_pem)
        with tool(*client_command, *flags, configuration=os.devnull) as client:
            client.read_until("Verification: OK" if shakes_hands else "alert")
            client.finish()
    assert ("CONNECTION ESTABLISHED" in client.said) is shakes_hands


def test_a_sidecar_ends_while_openssl_is_connected(openssl: str, federation: Federation, crew: Crew) -> None:
    """After two TERMs the gateway is gone, and the client sees the end at once."""
    with shouting_server() as target:
        process, address = sidecar(crew, "server", federation.gateway, "--target", target, "--allow-all")
        command = (openssl, "s_client", "-connect", address, "-brief", *who(federation.site("bank-a"), federation))
        with tool(*command) as client:
            client.send("here")
            client.read_until("^HERE$")
            psutil.Process(process.pid).send_signal(signal.SIGTERM)
            seen(process, "draining")
            psutil.Process(process.pid).send_signal(signal.SIGTERM)
            process.wait(_DEADLINE_SECONDS)
            # Not `finish`: its standard input is still open, so only the gateway's end can have ended it.
            assert client.child.wait(_DEADLINE_SECONDS) is not None
