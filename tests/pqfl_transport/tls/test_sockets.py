"""Blocking sockets over the engine: both directions, each end of its own, and no cut taken for an end."""

import socket
import ssl
import threading
from pathlib import Path
from typing import Any

import pytest

from pqfl_transport.errors import PeerError
from pqfl_transport.tls import client_context, server_context
from tests.support.pki import Federation, make_federation

LARGE = bytes(range(256)) * (16 << 12)


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return make_federation(tmp_path_factory.mktemp("federation"), sites=("bank-a",))


def files(folder: Path) -> tuple[Path, Path, Path]:
    return folder / "tls.pem", folder / "tls.key", folder / "ca.pem"


def server(federation: Federation, **options: Any) -> ssl.SSLContext:
    return server_context(*files(federation.gateway), **({"allow_all": True} | options))


def client(federation: Federation) -> ssl.SSLContext:
    return client_context(*files(federation.site("bank-a")), verify_uri=federation.gateway_uri)


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
