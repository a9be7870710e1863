"""Blocking sockets over the engine: both directions, each end of its own, and no cut taken for an end."""

import http.client
import socket
import ssl
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import pytest

from pqfl_transport.errors import ConfigurationError, PeerError
from pqfl_transport.tls.sockets import TlsSocket
from tests.support.contexts import LARGE, client, server
from tests.support.pki import Federation, make_federation


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return make_federation(tmp_path_factory.mktemp("federation"), sites=("bank-a",))


def test_blocking_sockets(federation: Federation) -> None:
    """Two threads over a socket pair: data both ways, half-close, and the plain sockets back at the end."""
    ours, theirs = socket.socketpair()
    got: list[bytes] = []

    def serve() -> None:
        with (
            server(federation).wrap_socket(theirs, server_side=True) as wrapped,
            wrapped.makefile("rb") as stream,
        ):
            got.append(stream.read(len(LARGE)))
            wrapped.sendall(LARGE[::-1])
            got.append(stream.read())

    thread = threading.Thread(target=serve)
    thread.start()
    wrapped: Any = client(federation).wrap_socket(ours)
    wrapped.sendall(LARGE)
    received = bytearray()
    while len(received) < len(LARGE):
        received += wrapped.recv(1 << 16)
    assert bytes(received) == LARGE[::-1]
    wrapped.send(b"the end")
    wrapped.shutdown(socket.SHUT_WR)
    assert wrapped.recv(10) == b""
    thread.join(10)
    assert got == [LARGE, b"the end"]
    assert wrapped.version() == "TLSv1.3"
    wrapped.close()


def test_unwrap_gives_the_plain_socket_back(federation: Federation) -> None:
    """After both ends of TLS the connection goes on in clear."""
    ours, theirs = socket.socketpair()

    def serve() -> None:
        wrapped: Any = server(federation).wrap_socket(theirs, server_side=True)
        plain = wrapped.unwrap()
        plain.sendall(plain.recv(100).upper())
        plain.close()

    thread = threading.Thread(target=serve)
    thread.start()
    wrapped: Any = client(federation).wrap_socket(ours)
    with wrapped.unwrap() as plain:
        plain.sendall(b"in clear")
        assert plain.recv(100) == b"IN CLEAR"
    thread.join(10)


def test_a_cut_stream_is_not_its_end(federation: Federation) -> None:
    """The network ending without close_notify raises; only the peer's own end reads as an end."""
    ours, theirs = socket.socketpair()
    ready = threading.Event()

    def serve() -> None:
        wrapped: Any = server(federation).wrap_socket(theirs, server_side=True)
        wrapped.send(b"half of a mess")
        ready.wait(10)
        socket.socket(fileno=wrapped.detach()).close()

    thread = threading.Thread(target=serve)
    thread.start()
    wrapped: Any = client(federation).wrap_socket(ours)
    assert wrapped.recv(100) == b"half of a mess"
    ready.set()
    with pytest.raises(ssl.SSLEOFError, match="truncated"):
        wrapped.recv(100)
    thread.join(10)
    wrapped.close()


def test_a_refused_client_is_told_why(federation: Federation) -> None:
    """The server's alert arrives before its end, and both sides have the reason."""
    ours, theirs = socket.socketpair()
    errors: list[BaseException | None] = []

    def serve() -> None:
        context = server(federation, allow_all=False, allow_uris=["spiffe://fed/site/bank-b"])
        with pytest.raises(ssl.SSLCertVerificationError) as caught:
            context.wrap_socket(theirs, server_side=True)
        errors.append(caught.value.__cause__)

    thread = threading.Thread(target=serve)
    thread.start()
    wrapped: Any = client(federation).wrap_socket(ours)
    with pytest.raises(ssl.SSLCertVerificationError, match="does not allow us") as caught:
        wrapped.recv(1)
    thread.join(10)
    errors.append(caught.value.__cause__)
    assert [error.reason for error in errors if isinstance(error, PeerError)] == ["not_allowed"] * 2
    wrapped.close()


def test_a_timeout_is_kept(federation: Federation) -> None:
    """A socket that was given a timeout has it as a TLS socket too, in the handshake already."""
    ours, theirs = socket.socketpair()
    with theirs:
        ours.settimeout(0.05)
        with pytest.raises(TimeoutError):
            client(federation).wrap_socket(ours)


def test_the_handshake_can_wait(federation: Federation) -> None:
    """Wrapped without shaking hands, it does so when it is told to; flags are refused."""
    ours, theirs = socket.socketpair()
    thread = threading.Thread(target=lambda: server(federation).wrap_socket(theirs, server_side=True).close())
    thread.start()
    wrapped: Any = client(federation).wrap_socket(ours, do_handshake_on_connect=False)
    assert wrapped.version() is wrapped.cipher() is wrapped.getpeercert() is None
    wrapped.do_handshake()
    assert wrapped.cipher()[0] == "TLS_AES_256_GCM_SHA384"
    assert wrapped.selected_alpn_protocol() is None
    assert str(wrapped.peer.id) == federation.gateway_uri
    with pytest.raises(ValueError, match="flags"):
        wrapped.recv(1, socket.MSG_PEEK)
    assert wrapped.read() == b""
    thread.join(10)
    wrapped.close()


class Pair:
    """A server and a client over a socket pair, each after its handshake."""

    def __init__(self, federation: Federation) -> None:
        ours, theirs = socket.socketpair()
        made: list[Any] = []
        thread = threading.Thread(
            target=lambda: made.append(server(federation).wrap_socket(theirs, server_side=True))
        )  # fmt: skip
        thread.start()
        self.client: Any = client(federation).wrap_socket(ours, server_hostname="hub.example.org")
        thread.join(10)
        (self.server,) = made

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        self.server.close()


def fill(end: Any, full: type[OSError]) -> int:
    """Send until the network takes no more; return how much was taken of `LARGE`."""
    taken = 0
    while taken < len(LARGE):
        try:
            taken += end.send(LARGE[taken : taken + 100_000])
        except full:
            return taken
    raise AssertionError("the network takes everything")


def test_a_file_is_encrypted_too(federation: Federation, tmp_path: Path) -> None:
    """`sendfile` does not hand the file to the operating system, which would send it in clear."""
    (tmp_path / "weights").write_bytes(b"secret weights " * 1000)
    with Pair(federation) as pair:
        with (tmp_path / "weights").open("rb") as file:
            assert pair.client.sendfile(file) == 15_000
        wire = socket.socket.recv(pair.server, 1 << 16)
        assert b"secret" not in wire
        pair.server._engine.receive(wire)
        assert pair.server.recv(1 << 16) == b"secret weights " * 1000


HARMLESS = {
    "accept", "bind", "close", "connect", "connect_ex", "detach", "family", "fileno", "get_inheritable", "getblocking",
    "getpeername", "getsockname", "getsockopt", "gettimeout", "listen", "makefile", "proto", "set_inheritable",
    "setblocking", "setsockopt", "settimeout", "timeout", "type", "ioctl", "share",
}  # fmt: skip


def test_nothing_of_a_plain_socket_gets_past_tls() -> None:
    """Every public method that a socket has is ours, is refused, or carries no bytes: also in a later Python."""
    inherited = {
        name for name in dir(socket.socket) if not name.startswith("_") and getattr(TlsSocket, name) is getattr(
            socket.socket, name
        )
    }  # fmt: skip
    assert inherited <= HARMLESS


@pytest.mark.parametrize("name", ["sendmsg", "sendto", "recvfrom", "recvmsg", "recvmsg_into", "recvfrom_into", "dup"])
def test_calls_that_would_bypass_tls_are_refused(federation: Federation, name: str) -> None:
    """They say which calls there are instead."""
    with Pair(federation) as pair, pytest.raises(ConfigurationError, match="sendall") as caught:
        getattr(pair.client, name)(b"x")
    assert caught.value.reason == "bypasses_tls"


def test_one_thread_reads_while_another_writes(federation: Federation) -> None:
    """Both directions at once from two threads an end, far more than any buffer holds, arrive unchanged."""
    with Pair(federation) as pair:
        got: dict[str, bytes] = {}

        def receive(name: str, end: Any) -> None:
            with end.makefile("rb") as stream:
                got[name] = stream.read(len(LARGE))

        threads = [
            threading.Thread(target=receive, args=("client", pair.client)),
            threading.Thread(target=receive, args=("server", pair.server)),
            threading.Thread(target=pair.client.sendall, args=(LARGE,)),
            threading.Thread(target=pair.server.sendall, args=(LARGE[::-1],)),
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert got["server"] == LARGE
        assert got["client"] == LARGE[::-1]


def test_a_socket_that_does_not_block_says_what_it_waits_for(federation: Federation) -> None:
    """Want-read and want-write, and what was taken before it was full arrives whole and in order."""
    with Pair(federation) as pair:
        pair.client.setblocking(False)
        with pytest.raises(ssl.SSLWantReadError):
            pair.client.recv(1)
        taken = fill(pair.client, ssl.SSLWantWriteError)
        assert taken
        received = bytearray()
        while len(received) < taken:
            received += pair.server.recv(1 << 16)
            with suppress(ssl.SSLWantWriteError):
                pair.client.send(b"")
        assert received == LARGE[:taken]


def test_a_write_that_timed_out_leaves_no_gap(federation: Federation) -> None:
    """What a full network did not take in time goes out with the next call, before anything else."""
    with Pair(federation) as pair:
        pair.client.settimeout(0.01)
        taken = fill(pair.client, TimeoutError)
        received = bytearray()

        def receive() -> None:
            with pair.server.makefile("rb") as stream:
                received.extend(stream.read())

        thread = threading.Thread(target=receive)
        thread.start()
        pair.client.settimeout(10)
        pair.client.send(b"the end")
        pair.client.shutdown(socket.SHUT_WR)
        thread.join(10)
        assert received.startswith(LARGE[:taken])
        assert received.endswith(b"the end")


def test_closing_waits_for_nobody(federation: Federation) -> None:
    """A peer that reads nothing does not keep a socket from being closed."""
    with Pair(federation) as pair:
        pair.client.setblocking(False)
        fill(pair.client, ssl.SSLWantWriteError)
        pair.client.setblocking(True)
        pair.client.close()
        assert pair.client.fileno() == -1


def test_only_connected_streams_are_wrapped(federation: Federation) -> None:
    """A listening or unconnected socket is refused, and stays as usable as it was."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        with pytest.raises(ConfigurationError, match="connect or accept first") as caught:
            server(federation).wrap_socket(listener, server_side=True)
        assert caught.value.reason == "not_connected"
        assert listener.fileno() >= 0
    ours, theirs = socket.socketpair(type=socket.SOCK_DGRAM)
    with ours, theirs, pytest.raises(ConfigurationError, match="stream"):
        client(federation).wrap_socket(ours)


def test_the_standard_librarys_http_client_takes_it(federation: Federation) -> None:
    """`http.client` with our context speaks to a blocking server of ours, and both know whom they speak to."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        seen: list[str] = []

        def serve() -> None:
            connection, _ = listener.accept()
            wrapped: Any = server(federation).wrap_socket(connection, server_side=True)
            with wrapped, wrapped.makefile("rb") as stream:
                while stream.readline().strip():
                    pass
                seen.append(str(wrapped.peer.id))
                wrapped.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")

        thread = threading.Thread(target=serve)
        thread.start()
        port = listener.getsockname()[1]
        connection = http.client.HTTPSConnection("127.0.0.1", port, context=client(federation), timeout=10)
        connection.request("GET", "/")
        assert connection.getresponse().read() == b"hello"
        connection.close()
        thread.join(10)
    assert seen == [federation.site_uri("bank-a")]
