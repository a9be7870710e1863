"""The sidecars and Node's TLS, at every level: issued certificates, hybrid groups, and what each side refuses."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pqfl.demo.processes import Crew
from pqfl_transport.policy import SecurityLevel, for_level, leaf_algorithm
from tests.support import pki
from tests.support.node import FOLDER, find_node
from tests.support.pki import Federation, make_federation
from tests.support.sidecars import Running, echo, identity, plain_server, read_all, start
from tests.support.tools import Tool, running


@pytest.fixture(scope="module")
def node() -> str:
    return find_node()


@pytest.fixture(scope="module", params=list(SecurityLevel))
def federation(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Federation:
    """A federation of each level."""
    return make_federation(tmp_path_factory.mktemp(request.param), level=request.param, sites=("bank-a",))


@pytest.fixture
def crew(tmp_path: Path) -> Iterator[Crew]:
    (tmp_path / "logs").mkdir()
    with Crew(tmp_path / "logs") as processes:
        yield processes


def group(federation: Federation) -> str:
    """The level's first choice."""
    return for_level(federation.authority.level).groups[0]


def told(tool: Tool, event: str) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads(tool.read_until(f'"event":"{event}"').string)
    return facts


def sidecar(crew: Crew, federation: Federation, role: str, folder: Path, *words: str) -> Running:
    return start(crew, role, role, *identity(folder), "--level", federation.authority.level, *words)


def test_nodes_client_through_the_gateway(node: str, federation: Federation, crew: Crew) -> None:
    """Node's client gets through with a site's certificate; both agree on group and party."""
    site = federation.site("bank-a")
    with plain_server(echo) as target:
        gateway = sidecar(crew, federation, "server", federation.gateway, "--target", target, "--allow-all")
        with running(node, FOLDER / "client.js", *gateway.address, group(federation), site, "localhost") as client:
            facts = told(client, "connected")
            assert told(client, "data")["text"] == "from node\n"
            assert client.finish() == 0
        event = gateway.wait_for("connection")
    assert facts["authorized"] is True
    assert (facts["protocol"], facts["cipher"]) == ("TLSv1.3", "TLS_AES_256_GCM_SHA384")
    assert facts["names"].startswith(f"URI:{federation.gateway_uri}, ")
    assert facts["group"] == event["group"] == group(federation)
    assert event["peer"] == federation.site_uri("bank-a")
    assert event["peer_sigalg"] == event["own_sigalg"] == leaf_algorithm(for_level(federation.authority.level))


def test_nodes_server_behind_a_sites_sidecar(node: str, federation: Federation, crew: Crew) -> None:
    """A plain client reaches Node's server, which has the gateway's certificate and verified the site's."""
    with running(node, FOLDER / "server.js", group(federation), federation.gateway) as server:
        target = f"127.0.0.1:{told(server, 'listening')['port']}"
        expected = ("--verify-uri", federation.gateway_uri)
        site = sidecar(crew, federation, "client", federation.site("bank-a"), "--target", target, *expected)
        with site.connect() as plain:
            plain.sendall(b"drawer")
            plain.shutdown(socket.SHUT_WR)
            assert read_all(plain) == b"DRAWER"
        facts = told(server, "connection")
        event = site.wait_for("connection")
    assert facts["authorized"] is True
    assert facts["names"] == f"URI:{federation.site_uri('bank-a')}"
    assert (event["peer"], event["group"]) == (federation.gateway_uri, group(federation))


def test_the_gateway_refuses_nodes_classical_group(node: str, federation: Federation, crew: Crew) -> None:
    """With X25519 alone Node is told so by an alert, and the log has the reason."""
    site = federation.site("bank-a")
    gateway = sidecar(crew, federation, "server", federation.gateway, "--target", "127.0.0.1:9", "--allow-all")
    with running(node, FOLDER / "client.js", *gateway.address, "X25519", site, "localhost") as client:
        assert "handshake failure" in told(client, "error")["message"]
    gateway.wait_for("refusal", reason="no_pq_group")


def test_the_gateway_refuses_a_namesake_from_node(
    node: str, federation: Federation, crew: Crew, tmp_path: Path
) -> None:
    """A certificate of another authority with all the same names gets an alert, and the log has the reason."""
    stranger = pki.other_authority(federation, tmp_path / "odd")
    (stranger / "ca.pem").write_bytes(federation.ca_pem.read_bytes())
    gateway = sidecar(crew, federation, "server", federation.gateway, "--target", "127.0.0.1:9", "--allow-all")
    with running(node, FOLDER / "client.js", *gateway.address, group(federation), stranger, "localhost") as client:
        assert "alert" in told(client, "error")["message"]
    gateway.wait_for("refusal", reason="untrusted")
