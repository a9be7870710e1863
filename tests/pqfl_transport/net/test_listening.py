"""Listening: the kernel's port is told, a taken address is named, a dead process's socket is cleared away."""

import socket
from pathlib import Path

import pytest

from pqfl_transport.errors import PlatformError
from pqfl_transport.net.address import Address
from pqfl_transport.net.listening import bound_address, listen


def test_port_zero_is_chosen_by_the_kernel() -> None:
    """The address that is announced is one that can be connected to."""
    asked = Address.parse("127.0.0.1:0", "--listen")
    with listen(asked, "--listen") as server:
        bound = bound_address(server, asked)
        assert bound.port > 0
        assert server.getblocking() is False
        socket.create_connection((bound.host, bound.port)).close()


def test_ipv6_works_where_the_machine_has_it() -> None:
    """``[::1]:0`` listens on the loopback of IPv6."""
    asked = Address.parse("[::1]:0", "--listen")
    try:
        server = listen(asked, "--listen")
    except PlatformError as error:
        pytest.skip(f"no IPv6 here: {error}")
    with server:
        assert str(bound_address(server, asked)).startswith("[::1]:")


def test_a_taken_port_is_named() -> None:
    """The error has the flag, the address and what to look for."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = Address("127.0.0.1", other.getsockname()[1])
        with pytest.raises(PlatformError, match=rf"--listen {address}: the address is in use") as caught:
            listen(address, "--listen")
        assert caught.value.reason == "in_use"


def test_an_address_that_is_not_ours_is_named() -> None:
    """Another machine's address cannot be listened on."""
    with pytest.raises(PlatformError, match=r"--status 192\.0\.2\.1:1") as caught:
        listen(Address("192.0.2.1", 1), "--status")
    assert caught.value.reason == "listen"


def test_a_unix_socket_that_somebody_uses_is_not_taken(tmp_path: Path) -> None:
    """Two services never share a path without knowing."""
    address = Address(path=str(tmp_path / "a.sock"))
    with listen(address, "--listen") as server:
        assert bound_address(server, address) == address
        with pytest.raises(PlatformError) as caught:
            listen(address, "--listen")
        assert caught.value.reason == "in_use"


def test_a_unix_socket_left_behind_is_replaced(tmp_path: Path) -> None:
    """A process that was killed leaves its socket's file; the next one starts all the same."""
    address = Address(path=str(tmp_path / "a.sock"))
    listen(address, "--listen").close()
    assert (tmp_path / "a.sock").exists()
    with listen(address, "--listen"), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(tmp_path / "a.sock"))


def test_a_file_in_the_way_is_not_removed(tmp_path: Path) -> None:
    """What is no socket is somebody's file."""
    (tmp_path / "notes").write_text("mine")
    with pytest.raises(PlatformError):
        listen(Address(path=str(tmp_path / "notes")), "--listen")
    assert (tmp_path / "notes").read_text() == "mine"


def test_a_folder_that_is_missing_is_an_error_of_ours(tmp_path: Path) -> None:
    """No traceback for a path whose folder does not exist."""
    with pytest.raises(PlatformError, match="nowhere"):
        listen(Address(path=str(tmp_path / "nowhere" / "a.sock")), "--listen")
