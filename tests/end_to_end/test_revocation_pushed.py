"""Whoever is revoked at the hub is thrown out at the gateways within seconds, however seldom they would ask."""

import time
from contextlib import suppress
from pathlib import Path

from pqfl.demo.processes import Crew
from tests.end_to_end.test_enrolment import start_hub
from tests.support.commands import good
from tests.support.pki import make_federation
from tests.support.sidecars import echo, plain_server, start_client, start_server


def test_a_gateway_hears_of_a_revocation_by_itself(tmp_path: Path) -> None:
    """It asks once an hour; the hub holds its request and answers it when there is another list. Others go on."""
    federation = make_federation(tmp_path / "fed", sites=("bank-a", "bank-b"))
    good("ca", "crl", "--dir", federation.ca)
    with Crew(tmp_path) as crew, plain_server(echo) as target:
        hub, address = start_hub(crew, federation)
        gateway = start_server(
            crew, federation, target, "--allow-all", "--crl", f"{tmp_path}/crl.pem", "--crl-url",
            f"https://{address}/v1/crl", "--crl-poll", "1h",
        )  # fmt: skip
        first, second = (
            start_client(crew, federation, gateway.target, folder=federation.site(name), name=name)
            for name in federation.sites
        )
        with first.connect() as revoked, second.connect() as staying:
            for connection in (revoked, staying):
                connection.sendall(b"here")
                assert connection.recv(10) == b"here"
            good("ca", "revoke", "--dir", federation.ca, "--name", "bank-a", "--reason", "keyCompromise")
            # Processes of a loaded machine are slow; an hour is what it would take without being told.
            revoked.settimeout(60)
            with suppress(ConnectionError):
                assert revoked.recv(10) == b""
            gateway.wait_for("connection", reason="revoked")
            staying.sendall(b"still here")
            assert staying.recv(10) == b"still here"
        begin = time.monotonic()
        hub.end()
        assert time.monotonic() - begin < 30, "the request that waits kept the hub from ending"
