"""Sockets: no delay for small records, and ends that the other side can tell apart."""

import socket

import pytest

from gateway import sockets


def test_small_records_are_sent_at_once() -> None:
    """Nagle's algorithm is off where there is one; a unix socket has none."""
    with socket.socket() as tcp:
        sockets.set_no_delay(tcp)
        assert tcp.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    with socket.socket(socket.AF_UNIX) as unix:
        sockets.set_no_delay(unix)


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
