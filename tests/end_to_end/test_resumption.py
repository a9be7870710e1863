"""Resumption, where it is switched on: a new hybrid key exchange, no certificates, judged again, counted apart."""

import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from pqfl.demo.processes import Crew
from tests.support.classical import Signer, make_crl, pem
from tests.support.pki import Federation, make_federation
from tests.support.sidecars import Running, echo, plain_server, start_client, start_server


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return make_federation(tmp_path_factory.mktemp("federation"), sites=("bank-a",))


@pytest.fixture
def crew(tmp_path: Path) -> Iterator[Crew]:
    (tmp_path / "logs").mkdir()
    with Crew(tmp_path / "logs") as made:
        yield made


def use(sidecar: Running) -> None:
    with sidecar.connect() as connection:
        connection.sendall(b"x")
        assert connection.recv(1) == b"x"


def resumed(gateway: Running, count: int) -> list[bool]:
    return [
        gateway.process.wait_for(lambda line: line.get("event") == "connection", 20)["resumed"] for _ in range(count)
    ]


@pytest.mark.parametrize(
    ("server", "client", "expected"),
    [
        (("--resume", "300"), ("--resume", "300"), True),
        ((), ("--resume", "300"), False),
        (("--resume", "300"), (), False),
    ],
    ids=["both", "client only", "server only"],
)
def test_sessions_are_resumed_where_both_ends_want_it(
    federation: Federation, crew: Crew, server: tuple[str, ...], client: tuple[str, ...], expected: bool
) -> None:
    """Off by default; on, the second connection is resumed, over the hybrid group all the same, and counted apart."""
    with plain_server(echo) as target:
        gateway = start_server(crew, federation, target, "--allow-all", *server)
        sidecar = start_client(crew, federation, gateway.target, "--verify-uri", federation.gateway_uri, *client)
        for _ in range(2):
            use(sidecar)
            sidecar.wait_for("connection")
        assert resumed(gateway, 2) == [False, expected]
        handshakes = gateway.status()["listeners"]["main"]["handshakes"]
    assert {entry["group"] for entry in handshakes} == {"X25519MLKEM768"}
    assert {entry["resumed"]: entry["count"] for entry in handshakes} == (
        {False: 1, True: 1} if expected else {False: 2}
    )


def test_a_session_does_not_outlive_its_certificate(federation: Federation, crew: Crew, tmp_path: Path) -> None:
    """Revoked after the first connection, the site is refused although it resumes."""
    issuing = x509.load_pem_x509_certificate((federation.ca / "issuing.pem").read_bytes())
    issuer = Signer(issuing, load_pem_private_key((federation.ca / "issuing.key").read_bytes(), None))  # type: ignore[arg-type]
    crl = tmp_path / "revoked.pem"
    crl.write_bytes(pem(make_crl(issuer)))
    with plain_server(echo) as target:
        gateway = start_server(crew, federation, target, "--allow-all", "--resume", "300", "--crl", str(crl))
        sidecar = start_client(
            crew, federation, gateway.target, "--verify-uri", federation.gateway_uri, "--resume", "300"
        )
        use(sidecar)
        sidecar.wait_for("connection")
        site = x509.load_pem_x509_certificate((federation.site("bank-a") / "tls.pem").read_bytes())
        crl.write_bytes(pem(make_crl(issuer, number=2, revoked={site.serial_number: None})))
        psutil.Process(gateway.process.pid).send_signal(signal.SIGHUP)
        assert gateway.wait_for("reload")["result"] == "ok"
        with sidecar.connect() as connection:
            connection.sendall(b"x")
            with pytest.raises(ConnectionResetError):
                connection.recv(1)
        assert gateway.wait_for("refusal")["reason"] == "revoked"
