"""A gateway renews its classical twin by itself, and a site's is renewed by a command; nobody loses a connection."""

import shutil
import socket
import ssl
from pathlib import Path

import pytest

from pqfl.demo.processes import Crew
from pqfl_transport.pki import keystore
from tests.support.commands import good, refused
from tests.support.pki import GATEWAY_NAME, Federation, make_federation
from tests.support.sidecars import START_SECONDS, Running, echo, plain_server, start_server

NAMES = ("classical.pem", "classical.key", "classical-ca.pem")


def connect(gateway: Running, site: Path) -> ssl.SSLSocket:
    """As another program does that knows a twin's files."""
    context = ssl.create_default_context(cafile=str(site / "classical-ca.pem"))
    context.load_cert_chain(site / "classical.pem", site / "classical.key")
    raw = socket.create_connection(gateway.address, timeout=START_SECONDS)
    return context.wrap_socket(raw, server_hostname="localhost")


def is_served(connection: ssl.SSLSocket) -> bool:
    connection.sendall(b"x")
    return connection.recv(1) == b"x"


def give_twins(federation: Federation, tmp_path: Path) -> None:
    good("ca", "twin", "init", "--dir", federation.ca)
    for name, folder in ((GATEWAY_NAME, federation.gateway), ("bank-a", federation.site("bank-a"))):
        good("ca", "twin", "issue", "--dir", federation.ca, "--name", name, "--out", tmp_path / name)
        for file in NAMES:
            shutil.move(tmp_path / name / file, folder / file)


@pytest.mark.slow
def test_twins_renew_under_traffic(tmp_path: Path) -> None:
    """What the hub gives is valid for a minute, so the gateway renews both certificates again at once."""
    federation = make_federation(tmp_path / "fed", sites=("bank-a",))
    give_twins(federation, tmp_path)
    folder, site = federation.gateway, federation.site("bank-a")
    with Crew(tmp_path) as crew, plain_server(echo) as target:
        hub = crew.start(
            "hub", "-m", "pqfl", "ca", "serve", "--dir", str(federation.ca), "--listen", "127.0.0.1:0", "--validity",
            "60s", "--log-format", "json",
        )  # fmt: skip
        address = hub.wait_for(lambda line: line.get("event") == "listening", START_SECONDS)["address"]
        # Once by the command, so that what is left to the gateway is short.
        said = good("renew", "--identity", folder, "--hub", address)
        assert ["classical.pem", "until"] in [line.split()[:2] for line in said.splitlines()]
        first = keystore.read_certificate_file(folder / "classical.pem")
        gateway = start_server(
            crew, federation, target, "--allow-all", "--pq", "prefer", "--renew", address, "--cert",
            f"{folder}/classical.pem", "--key", f"{folder}/classical.key", "--classical-cacert",
            f"{folder}/classical-ca.pem",
        )  # fmt: skip
        with connect(gateway, site) as lasting:
            assert is_served(lasting)
            renewed = [gateway.process.wait_for(lambda line: line.get("event") == "renewal", 60) for _ in range(2)]
            assert {line["result"] for line in renewed} == {"ok"}
            assert sorted(bool(line.get("twin")) for line in renewed) == [False, True]
            assert is_served(lasting)
            good("renew", "--identity", site, "--hub", address)
            with connect(gateway, site) as fresh:
                assert is_served(fresh)
                shown = fresh.getpeercert(binary_form=True)
            assert is_served(lasting)
        second = keystore.read_certificate_file(folder / "classical.pem")
        assert second != first
        assert shown == second.public_bytes(keystore.Encoding.DER)
        good("ca", "revoke", "--dir", federation.ca, "--name", "bank-a", "--reason", "keyCompromise")
        assert "revoked" in refused("renew", "--identity", site, "--hub", address, status=1)
