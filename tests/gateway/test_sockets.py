"""Sockets: connecting with a reason when it fails, and ends that the other side can tell apart."""

import asyncio
import socket
from pathlib import Path

import pytest

from gateway import sockets
from pqfl_transport.errors import TransportError
from pqfl_transport.net.address import Address


def test_connecting_to_ports_names_and_paths(tmp_path: Path) -> None:
    """Addresses, names with several addresses, and unix sockets; without Nagle's delay."""
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(tmp_path / "a.sock"))
        unix.listen()
        port = tcp.getsockname()[1]
        for address in (Address("127.0.0.1", port), Address("localhost", port), Address(path=str(tmp_path / "a.sock"))):
            with asyncio.run(sockets.connect(address, 5)) as connection:
                assert connection.getblocking() is False
                if address.path is None:
                    assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


@pytest.mark.parametrize("address", [Address(path="/nowhere/a.sock"), Address("host.invalid", 1)])
def test_a_target_that_is_not_there_is_named(address: Address) -> None:
    """Nobody listens, no such path, no such name: one error with the target."""
    with pytest.raises(TransportError, match="target") as caught:
        asyncio.run(sockets.connect(address, 5))
    assert caught.value.reason == "target_down"


def test_a_port_where_nobody_listens_is_named() -> None:
    """A refused connection is the target being down."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(TransportError, match=f"127.0.0.1:{port}"):
        asyncio.run(sockets.connect(Address("127.0.0.1", port), 5))


def test_an_abort_is_a_reset_and_an_end_is_an_end() -> None:
    """The other side sees ConnectionResetError for one and end of file for the other."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        for action, reset in ((sockets.abort, True), (sockets.end_output, False)):
            client = socket.create_connection(server.getsockname())
            accepted, _ = server.accept()
            action(client)
            with accepted:
                if reset:
                    with pytest.raises(ConnectionResetError):
                        accepted.recv(1)
                else:
                    assert accepted.recv(1) == b""
            client.close()


def test_ending_what_is_gone_is_harmless() -> None:
    """Closing twice and ending a closed socket raise nothing."""
    one, two = socket.socketpair()
    two.close()
    sockets.end_output(one)
    sockets.abort(one)
    sockets.end_output(one)
    sockets.abort(one)
