"""The standard library's questions about a connection, answered for objects and sockets alike."""

import ssl
from contextlib import suppress
from typing import Any

import pytest

from pqfl_transport.errors import ConfigurationError
from tests.support.contexts import client, server
from tests.support.pki import Federation, make_federation


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return make_federation(tmp_path_factory.mktemp("federation"), sites=("bank-a",))


@pytest.fixture
def ends(federation: Federation) -> tuple[Any, Any]:
    """A client and a server over memory BIOs, before the first byte."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    one = client(federation, alpn=["h2"])
    two = server(federation, alpn=["h2"])
    return (
        one.wrap_bio(to_client, to_server, server_hostname="hub.example.org"),
        two.wrap_bio(to_server, to_client, server_side=True),
    )


def shake_hands(ends: tuple[Any, Any]) -> None:
    for end in ends * 2:
        with suppress(ssl.SSLWantReadError):
            end.do_handshake()


def test_before_the_handshake_nothing_is_known(ends: tuple[Any, Any]) -> None:
    """Every answer is None, and who is there cannot be asked."""
    for end in ends:
        assert end.version() is end.cipher() is end.getpeercert() is end.getpeercert(True) is None
        assert end.selected_alpn_protocol() is None
        assert not end.peer_closed
        assert end.pending() == 0
        with pytest.raises(ConfigurationError, match="not complete"):
            _ = end.peer


def test_after_it_both_ends_say_the_same(ends: tuple[Any, Any], federation: Federation) -> None:
    """Protocol, cipher, application protocol and channel binding agree; each names the other's certificate."""
    shake_hands(ends)
    one, two = ends
    for end in ends:
        assert end.version() == "TLSv1.3"
        assert end.cipher() == ("TLS_AES_256_GCM_SHA384", "TLSv1.3", 256)
        assert end.selected_alpn_protocol() == "h2"
        assert end.selected_npn_protocol() is end.compression() is end.shared_ciphers() is None
        assert end.session is None
        assert end.session_reused is False
    assert one.get_channel_binding("tls-exporter") == two.get_channel_binding("tls-exporter")
    assert len(one.get_channel_binding("tls-exporter")) == 32
    assert str(one.peer.id) == federation.gateway_uri
    assert str(two.peer.id) == federation.site_uri("bank-a")
    pem = (federation.gateway / "tls.pem").read_text()
    assert one.getpeercert(True) == ssl.PEM_cert_to_DER_cert(pem)


def test_the_dictionary_is_the_standard_librarys(ends: tuple[Any, Any], federation: Federation) -> None:
    """Its dates parse with ``ssl.cert_time_to_seconds`` and its names are those of the certificate."""
    shake_hands(ends)
    certificate, peer = ends[0].getpeercert(), ends[0].peer
    assert ssl.cert_time_to_seconds(certificate["notAfter"]) == peer.not_after.timestamp()
    assert certificate["serialNumber"] == f"{peer.serial_number:X}"
    assert certificate["subjectAltName"] == (
        ("URI", federation.gateway_uri), ("DNS", "localhost"), ("IP Address", "127.0.0.1"),
    )  # fmt: skip


def test_each_end_knows_its_side(ends: tuple[Any, Any]) -> None:
    """Which end it is, and what host was asked for, as libraries look it up."""
    one, two = ends
    assert (one.server_side, two.server_side) == (False, True)
    assert (one.server_hostname, two.server_hostname) == ("hub.example.org", None)
    assert one.context is not two.context


def test_what_has_no_meaning_here_is_refused(ends: tuple[Any, Any]) -> None:
    """Another context, another channel binding and a second look at the client raise; the same context may be set."""
    shake_hands(ends)
    one, two = ends
    one.context = one.context
    with pytest.raises(ConfigurationError):
        one.context = ssl.create_default_context()
    with pytest.raises(ValueError, match="tls-unique"):
        one.get_channel_binding()
    with pytest.raises(ConfigurationError):
        two.verify_client_post_handshake()


def test_an_end_is_known_from_a_cut(ends: tuple[Any, Any]) -> None:
    """`peer_closed` turns true with the peer's own end and with nothing else."""
    shake_hands(ends)
    one, two = ends
    with pytest.raises(ssl.SSLWantReadError):
        one.unwrap()
    assert not one.peer_closed
    assert two.read(1) == b""
    assert two.peer_closed
