"""Connections over memory BIOs: they say what they wait for, and whom they refuse is told why."""

import ssl
from typing import Any

import pytest

from pqfl_transport.errors import PeerError
from pqfl_transport.tls.objects import PostQuantumObject
from tests.support.contexts import REFUSING, client, server
from tests.support.pki import Federation, make_federation


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return make_federation(tmp_path_factory.mktemp("federation"), sites=("bank-a", "bank-b"))


def shake_hands_in_memory(
    federation: Federation, **server_options: Any
) -> tuple[PostQuantumObject, PostQuantumObject, ssl.MemoryBIO]:
    """Carry the client's last flight to a server; return both, and what leads to the server."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    one: Any = client(federation).wrap_bio(to_client, to_server)
    two: Any = server(federation, **server_options).wrap_bio(to_server, to_client, server_side=True)
    for end in (one, two):
        with pytest.raises(ssl.SSLWantReadError):
            end.do_handshake()
    one.do_handshake()
    return one, two, to_server


def test_objects_that_shake_hands_say_what_they_wait_for(federation: Federation) -> None:
    """Over memory BIOs, in order: want-read, done, data, end, as the standard library's objects do."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    one: Any = client(federation).wrap_bio(to_client, to_server)
    two: Any = server(federation).wrap_bio(to_server, to_client, server_side=True)
    assert isinstance(one, PostQuantumObject)
    assert one.version() is one.cipher() is one.getpeercert() is None
    with pytest.raises(ssl.SSLWantReadError):
        one.do_handshake()
    with pytest.raises(ssl.SSLWantReadError):
        two.do_handshake()
    one.do_handshake()
    two.do_handshake()
    with pytest.raises(ssl.SSLWantReadError):
        two.read(10)
    assert one.write(b"ping") == 4
    buffer = bytearray(10)
    assert two.read(2, buffer) == 2
    assert two.pending() == 2
    assert two.read(10) == b"ng"
    with pytest.raises(ssl.SSLWantReadError):
        one.unwrap()
    assert two.read(10) == b""
    two.unwrap()
    one.unwrap()


def test_reading_nothing_waits_for_nothing(federation: Federation) -> None:
    """A read of no bytes is answered at once."""
    _, two, _ = shake_hands_in_memory(federation)
    two.do_handshake()
    assert two.read(0) == b""


def test_a_refused_client_may_finish_its_sentence(federation: Federation) -> None:
    """A server that refuses sends its alert and reads on until the client has ended; then the refusal is raised."""
    one, two, to_server = shake_hands_in_memory(federation, **REFUSING)
    with pytest.raises(ssl.SSLWantReadError):
        two.do_handshake()
    one.write(b"GET / HTTP/1.1")
    with pytest.raises(ssl.SSLWantReadError):
        two.do_handshake()
    with pytest.raises(ssl.SSLCertVerificationError, match=r"\[not_allowed\].*does not allow us"):
        one.read()
    to_server.write_eof()
    with pytest.raises(ssl.SSLCertVerificationError, match=r"\[not_allowed\] spiffe://fed/site/bank-a") as caught:
        two.do_handshake()
    assert isinstance(caught.value.__cause__, PeerError)


def test_a_refused_client_may_not_go_on_for_ever(federation: Federation) -> None:
    """After 1 MiB that nobody wants the refusal is final, whether the client has read it or not."""
    one, two, _ = shake_hands_in_memory(federation, **REFUSING)
    with pytest.raises(ssl.SSLWantReadError):
        two.do_handshake()
    one.write(bytes(1 << 20))
    with pytest.raises(ssl.SSLCertVerificationError, match="not_allowed"):
        two.do_handshake()
