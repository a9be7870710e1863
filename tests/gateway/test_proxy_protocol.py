"""PROXY headers: the bytes of the document, strictly read back, and what they say of the TLS peer."""

import ipaddress
import socket
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import proxy_protocol as pp
from gateway.proxy_protocol import Header, decode, decode_ssl, encode, header_bytes, header_for, tls_tlvs
from pqfl_transport.errors import MessageError
from pqfl_transport.net.address import Address
from tests.support.peers import certified, peer

SIGNATURE = bytes.fromhex("0d0a0d0a 000d0a51 5549540a")
TCP4 = bytes.fromhex("2111000c c0000201 c6336402 01bb1f90")
TCP4_HEADER = Header(Address("192.0.2.1", 443), Address("198.51.100.2", 8080))

ports = st.integers(0, 65535)
ipv4 = st.builds(Address, host=st.ip_addresses(v=4).map(str), port=ports)
ipv6 = st.builds(Address, host=st.ip_addresses(v=6).filter(lambda one: one.ipv4_mapped is None).map(str), port=ports)
letters = st.characters(exclude_characters="\0", exclude_categories=["Cs"])
names = st.text(letters, min_size=1, max_size=107).filter(lambda text: len(text.encode()) < 108)
paths = st.builds(Address, path=st.one_of(st.just(""), names, names.map(lambda name: "\0" + name)))
numbers = st.integers(0, 255).filter(lambda number: number not in {pp.CRC32C, pp.NOOP})
fields = st.dictionaries(numbers, st.binary(max_size=200), max_size=5)


@st.composite
def headers(draw: st.DrawFn) -> Header:
    kind = draw(st.sampled_from([ipv4, ipv6, paths, None]))
    source, destination = (None, None) if kind is None else (draw(kind), draw(kind))
    return Header(source, destination, draw(fields))


def malformed(data: bytes) -> str:
    with pytest.raises(MessageError) as caught:
        decode(data)
    assert caught.value.reason == "malformed"
    return str(caught.value)


def crc_field(data: bytes) -> bytes:
    """Complete a header whose last field is a checksum of zeros, with the checksum that the document asks for."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return data[:-4] + (crc ^ 0xFFFFFFFF).to_bytes(4, "big")


def test_the_bytes_for_ipv4() -> None:
    """Signature, version and command, family, length, addresses, ports."""
    assert encode(TCP4_HEADER) == SIGNATURE + TCP4
    assert decode(SIGNATURE + TCP4) == (TCP4_HEADER, 28)


def test_the_bytes_for_ipv6() -> None:
    """36 bytes of addresses and ports; a zone means nothing to somebody else."""
    encoded = encode(Header(Address("fe80::1%eth0", 1), Address("2001:db8::2", 2)))
    assert encoded[12:16] == bytes.fromhex("21210024")
    assert encoded[16:] == bytes.fromhex("fe80") + bytes(13) + b"\1" + bytes.fromhex("20010db8") + bytes(11) + (
        b"\2" + b"\0\1\0\2"
    )
    assert decode(encoded)[0].source == Address("fe80::1", 1)


def test_the_bytes_for_unix_sockets() -> None:
    """Two names of 108 bytes, filled with zeros."""
    header = Header(Address(path="/run/site.sock"), Address(path="/run/hub.sock"))
    encoded = encode(header)
    assert encoded[12:16] == bytes.fromhex("213100d8")
    assert encoded[16:] == b"/run/site.sock".ljust(108, b"\0") + b"/run/hub.sock".ljust(108, b"\0")
    assert decode(encoded) == (header, 16 + 216)


def test_a_proxy_that_speaks_for_itself() -> None:
    """LOCAL: no addresses, no fields."""
    assert encode(Header()) == SIGNATURE + bytes.fromhex("20000000")
    assert decode(encode(Header())) == (Header(), 16)


def test_fields_without_addresses() -> None:
    """An unspecified family may still say something."""
    header = Header(tlvs={pp.UNIQUE_ID: b"7"})
    assert encode(header) == SIGNATURE + bytes.fromhex("21000004 05000137")
    assert decode(encode(header)) == (header, 20)


@pytest.mark.parametrize("rest", ["20110000", "20000003 ffffff", "20ff0001 00", "2031000c c0000201 c6336402 01bb1f90"])
def test_a_local_header_is_skipped_whatever_it_says(rest: str) -> None:
    """§2.2: the receiver discards the block, the family included, by its length."""
    data = SIGNATURE + bytes.fromhex(rest)
    assert decode(data + b"more") == (Header(), len(data))


def test_ipv4_peers_of_a_socket_for_both_families() -> None:
    """What a dual socket calls ::ffff:192.0.2.1 is an IPv4 peer; where only one end is, both are written as IPv6."""
    mapped = Header(Address("::ffff:192.0.2.1", 443), Address("::ffff:198.51.100.2", 8080))
    assert encode(mapped) == SIGNATURE + TCP4
    mixed = decode(encode(Header(Address("192.0.2.1", 1), Address("2001:db8::2", 2))))[0]
    assert mixed.source is not None
    assert ipaddress.ip_address(mixed.source.host) == ipaddress.ip_address("::ffff:192.0.2.1")


@given(header=headers(), more=st.binary(max_size=20))
def test_what_is_written_is_read_back(header: Header, more: bytes) -> None:
    """Any header, whatever follows it; its length is where the stream goes on."""
    encoded = encode(header)
    decoded, length = decode(encoded + more)
    assert (decoded, length) == (header, len(encoded))
    assert header_bytes(encoded[: pp.HEAD_BYTES]) == len(encoded)


@given(header=headers(), data=st.data())
def test_every_header_cut_short_is_refused(header: Header, data: st.DataObject) -> None:
    """A partial header is no header."""
    encoded = encode(header)
    assert "cut short" in malformed(encoded[: data.draw(st.integers(0, len(encoded) - 1))])


@given(st.one_of(st.binary(max_size=300), st.binary(max_size=300).map(lambda rest: SIGNATURE + b"\x21\x11" + rest)))
def test_no_bytes_break_the_decoder(data: bytes) -> None:
    """Any bytes are a header or refused, and one that was read can be written again."""
    try:
        header, length = decode(data)
    except MessageError:
        return
    assert length <= len(data)
    assert decode(encode(header))[0] == header


@pytest.mark.parametrize(
    "data",
    [
        b"",
        SIGNATURE,
        b"PROXY TCP4 192.0.2.1 198.51.100.2 443 8080\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(20),
        b"\0" + (SIGNATURE + TCP4)[1:],
        SIGNATURE + b"\x11" + TCP4[1:],
        SIGNATURE + b"\x22" + TCP4[1:],
        SIGNATURE + b"\x31" + TCP4[1:],
        SIGNATURE + b"\x21\x12" + TCP4[2:],
        SIGNATURE + b"\x21\x10" + TCP4[2:],
        SIGNATURE + b"\x21\x01" + TCP4[2:],
        SIGNATURE + b"\x21\x41" + TCP4[2:],
        SIGNATURE + b"\x21\x21" + TCP4[2:],
        SIGNATURE + bytes.fromhex("2111000b c0000201 c6336402 01bb1f"),
        SIGNATURE + bytes.fromhex("21110000"),
    ],
)
def test_what_is_no_header_of_a_stream_is_refused(data: bytes) -> None:
    """Other protocols, other versions, commands, families and transports, and blocks that are too short."""
    malformed(data)


@pytest.mark.parametrize("fields_", ["05", "0500", "050001", "05000201", "0500013705000138", "05000137 0600"])
def test_fields_that_do_not_fit_are_refused(fields_: str) -> None:
    """Cut short in their head or their value, or there twice."""
    body = bytes.fromhex(fields_)
    assert "field" in malformed(SIGNATURE + b"\x21\x00" + struct.pack("!H", len(body)) + body)


def test_padding_is_left_out() -> None:
    """§2.2.4: any number of NOOPs, of any length."""
    body = bytes.fromhex("040000 0400020000 05000137 04000100")
    assert decode(SIGNATURE + b"\x21\x00" + struct.pack("!H", len(body)) + body)[0].tlvs == {pp.UNIQUE_ID: b"7"}


def test_a_checksum_is_verified() -> None:
    """§2.2.3: the right one is accepted and left out; one changed bit anywhere is refused."""
    head = bytearray(SIGNATURE + TCP4 + bytes.fromhex("05000137 03000400000000"))
    head[14:16] = struct.pack("!H", len(head) - 16)
    good = crc_field(bytes(head))
    assert decode(good) == (Header(TCP4_HEADER.source, TCP4_HEADER.destination, {pp.UNIQUE_ID: b"7"}), len(good))
    for at in (16, 27, 31, len(good) - 1):
        bad = bytearray(good)
        bad[at] ^= 1
        assert "checksum" in malformed(bytes(bad))


def test_the_checksum_is_castagnolis() -> None:
    """The check value of CRC-32C in every catalogue."""
    assert pp._crc32c(b"123456789") == 0xE3069283


def test_a_checksum_of_another_length_is_refused() -> None:
    """It has 4 bytes."""
    assert "checksum" in malformed(SIGNATURE + bytes.fromhex("21000006 030003000000"))


@pytest.mark.parametrize(
    "header",
    [
        Header(source=Address("192.0.2.1", 1)),
        Header(Address("192.0.2.1", 1), Address(path="/run/a.sock")),
        Header(Address("hub.example", 1), Address("192.0.2.1", 1)),
        Header(Address(path="/" + "a" * 108), Address(path="/b")),
        Header(tlvs={pp.SSL: bytes(65536)}),
        Header(tlvs={1: bytes(65535), 2: b""}),
    ],
)
def test_what_no_header_can_say_is_not_written(header: Header) -> None:
    """One end only, ends of two kinds, a name, too long a path, too much."""
    with pytest.raises(MessageError) as caught:
        encode(header)
    assert caught.value.reason == "malformed"


def test_what_the_backend_hears_of_the_connection() -> None:
    """Version, suite, group, our key and signature, that the peer's certificate was verified, and who it is."""
    facts = peer(own_sigalg="ML-DSA-87", alpn="h2")
    found = tls_tlvs(facts, authority="hub.example")
    assert (found[pp.ALPN], found[pp.AUTHORITY], found[pp.SPIFFE_ID]) == (b"h2", b"hub.example", b"spiffe://fed/site/a")
    ssl = decode_ssl(found[pp.SSL])
    assert (ssl.bits, ssl.verify) == (pp.CLIENT_SSL | pp.CLIENT_CERT_CONN | pp.CLIENT_CERT_SESS, 0)
    assert ssl.tlvs == {
        pp.SSL_VERSION: b"TLSv1.3",
        pp.SSL_CIPHER: b"TLS_AES_256_GCM_SHA384",
        pp.SSL_KEY_ALG: b"ML-DSA-87",
        pp.SSL_SIG_SCHEME: b"mldsa87",
        pp.SSL_GROUP: b"X25519MLKEM768",
    }


def test_the_certificate_and_its_common_name() -> None:
    """Both are there when they are known; a classical peer without an ID has none."""
    facts = peer(None, certified=certified(None, cn="Klinik Köln"))
    found = tls_tlvs(facts, certificate=b"DER")
    assert pp.SPIFFE_ID not in found
    assert pp.ALPN not in found
    inner = decode_ssl(found[pp.SSL]).tlvs
    assert (inner[pp.SSL_CN], inner[pp.SSL_CLIENT_CERT]) == ("Klinik Köln".encode(), b"DER")


def test_a_resumed_session_showed_its_certificate_before() -> None:
    """§2.2.6: once in the session, not over this connection."""
    assert decode_ssl(tls_tlvs(peer(resumed=True))[pp.SSL]).bits == pp.CLIENT_SSL | pp.CLIENT_CERT_SESS


@pytest.mark.parametrize("value", [b"", bytes(4), bytes(5) + b"\x21\x00"])
def test_a_tls_field_that_is_none_is_refused(value: bytes) -> None:
    """Too short for its head, or for its inner fields."""
    with pytest.raises(MessageError):
        decode_ssl(value)


def test_the_header_of_an_accepted_connection() -> None:
    """Source is the peer, destination is where it connected to."""
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as client,
        server.accept()[0] as accepted,
    ):
        header, _ = decode(header_for(accepted, peer()))
        assert header.source == Address(*client.getsockname())
        assert header.destination == Address(*server.getsockname())
        assert pp.SSL in header.tlvs


def test_the_header_of_a_connection_to_a_path(tmp_path: Path) -> None:
    """A client of a unix socket has no name of its own."""
    path = str(tmp_path / "a.sock")
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        server.bind(path)
        server.listen()
        client.connect(path)
        with server.accept()[0] as accepted:
            header, _ = decode(header_for(accepted, peer()))
    assert (header.source, header.destination) == (Address(path=""), Address(path=path))


def test_a_connection_that_is_gone_has_no_header() -> None:
    """The caller treats it as any other end of a connection."""
    with socket.socket() as never, pytest.raises(OSError, match="not connected"):
        header_for(never, peer())
