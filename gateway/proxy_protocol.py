"""PROXY protocol, version 2: telling the backend who is there, in a header before the first byte.

The document is HAProxy's ``proxy-protocol.txt``; its sections are cited as §. A header informs and never authenticates:
whoever can connect to the backend can write one.
"""

import ipaddress
import os
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from types import MappingProxyType

from pqfl_transport.algorithms import find
from pqfl_transport.errors import MessageError
from pqfl_transport.net.address import Address
from pqfl_transport.tls.peers import PeerFacts

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
HEAD_BYTES = 16
_HEAD = struct.Struct("!12sBBH")
_LOCAL, _PROXY = 0x20, 0x21
_UNSPECIFIED, _TCP4, _TCP6, _UNIX_STREAM = 0x00, 0x11, 0x21, 0x31
_ADDRESS_BYTES = MappingProxyType({_UNSPECIFIED: 0, _TCP4: 12, _TCP6: 36, _UNIX_STREAM: 216})
_UNIX_PATH_BYTES = 108
_MAX_VALUE_BYTES = 0xFFFF

# §2.2.1 to §2.2.7.
ALPN, AUTHORITY, CRC32C, NOOP, UNIQUE_ID, SSL = 0x01, 0x02, 0x03, 0x04, 0x05, 0x20
SSL_VERSION, SSL_CN, SSL_CIPHER, SSL_SIG_ALG, SSL_KEY_ALG, SSL_GROUP = 0x21, 0x22, 0x23, 0x24, 0x25, 0x26
SSL_SIG_SCHEME, SSL_CLIENT_CERT = 0x27, 0x28
# The first of those that are for applications (§2.2.8): the SPIFFE ID of the peer.
SPIFFE_ID = 0xE0
CLIENT_SSL, CLIENT_CERT_CONN, CLIENT_CERT_SESS = 0x01, 0x02, 0x04
_FIELD = struct.Struct("!BH")
_SSL_HEAD = struct.Struct("!BI")
_VERIFIED = 0

_CRC_BYTES = 4
# Castagnoli's polynomial, reflected (RFC 9260, appendix A).
_CRC_POLYNOMIAL = 0x82F63B78


@dataclass(frozen=True, slots=True)
class Header:
    """What a header says.

    Without addresses and fields it is a LOCAL one: the proxy speaks for itself, as for a health check.
    """

    source: Address | None = None
    destination: Address | None = None
    """Both or none, of one kind: host and port, or a path."""
    tlvs: Mapping[int, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SslField:
    """What a header says of TLS between client and proxy (§2.2.6)."""

    bits: int
    """`CLIENT_SSL`, `CLIENT_CERT_CONN` and `CLIENT_CERT_SESS`."""
    verify: int
    """Zero where the client's certificate was verified."""
    tlvs: Mapping[int, bytes]


def encode(header: Header) -> bytes:
    """Return the bytes of a header. Raises ``MessageError`` (``malformed``) for what does not fit into one."""
    kind, addresses = _encode_addresses(header.source, header.destination)
    body = addresses + _encode_tlvs(header.tlvs)
    if len(body) > _MAX_VALUE_BYTES:
        raise _malformed(f"{len(body)} bytes do not fit")
    return _HEAD.pack(SIGNATURE, _PROXY if body else _LOCAL, kind, len(body)) + body


def header_bytes(head: bytes) -> int:
    """Return how long the header is that begins with these 16 bytes. Raises ``MessageError`` (``malformed``)."""
    if len(head) < HEAD_BYTES:
        raise _malformed("cut short")
    signature, command, kind, length = _HEAD.unpack_from(head)
    if signature != SIGNATURE or command not in {_LOCAL, _PROXY}:
        raise _malformed("not a header of version 2")
    # A LOCAL header is skipped whatever it says of a family.
    if command == _PROXY and (kind not in _ADDRESS_BYTES or length < _ADDRESS_BYTES[kind]):
        raise _malformed("no addresses of a stream")
    return HEAD_BYTES + int(length)


def decode(data: bytes) -> tuple[Header, int]:
    """Return the header at the beginning of ``data`` and its length in bytes.

    A checksum is verified where there is one, padding is left out. Raises ``MessageError`` (``malformed``).
    """
    end = header_bytes(data)
    if len(data) < end:
        raise _malformed("cut short")
    _, command, kind, _ = _HEAD.unpack_from(data)
    if command == _LOCAL:
        return Header(), end
    start = HEAD_BYTES + _ADDRESS_BYTES[kind]
    source, destination = _decode_addresses(kind, data[HEAD_BYTES:start])
    fields = _decode_tlvs(data[start:end])
    at = fields.pop(CRC32C, None)
    if at is not None:
        _check_checksum(data[:end], start + at.start, at.stop - at.start)
    tlvs = {number: data[start + at.start : start + at.stop] for number, at in fields.items()}
    return Header(source, destination, tlvs), end


def decode_ssl(value: bytes) -> SslField:
    """Return what the field `SSL` says. Raises ``MessageError`` (``malformed``)."""
    if len(value) < _SSL_HEAD.size:
        raise _malformed("its TLS field is cut short")
    bits, verify = _SSL_HEAD.unpack_from(value)
    fields = value[_SSL_HEAD.size :]
    return SslField(bits, verify, {number: fields[at] for number, at in _decode_tlvs(fields).items()})


def tls_tlvs(peer: PeerFacts, *, authority: str | None = None, certificate: bytes | None = None) -> dict[int, bytes]:
    """Return the fields about an admitted peer and the TLS connection to it.

    ``authority`` is the name that the client asked for, ``certificate`` its certificate in DER. The common name is
    there where the certificate has one; who the peer is says `SPIFFE_ID`.
    """
    inner = {
        SSL_VERSION: b"TLSv1.3",
        SSL_CIPHER: peer.cipher_suite.encode(),
        # This one and the next are about our own certificate, and the signature made with it in the handshake.
        SSL_KEY_ALG: peer.own_sigalg.encode(),
        SSL_SIG_SCHEME: (find(peer.own_sigalg).openssl_name or peer.own_sigalg).encode(),
        SSL_GROUP: peer.group.encode(),
    }
    if peer.certified.cn is not None:
        inner[SSL_CN] = peer.certified.cn.encode()
    if certificate is not None:
        inner[SSL_CLIENT_CERT] = certificate
    # A resumed session has the certificate of the connection that it continues.
    bits = CLIENT_SSL | CLIENT_CERT_SESS | (0 if peer.resumed else CLIENT_CERT_CONN)
    found = {SSL: _SSL_HEAD.pack(bits, _VERIFIED) + _encode_tlvs(inner)}
    for number, text in (
        (ALPN, peer.alpn),
        (AUTHORITY, authority),
        (SPIFFE_ID, None if peer.id is None else str(peer.id)),
    ):
        if text is not None:
            found[number] = text.encode()
    return found


def header_for(accepted: socket.socket, peer: PeerFacts) -> bytes:
    """Return the header for a connection that was accepted from this peer. Raises ``OSError`` where it is gone."""
    source, destination = _address(accepted.getpeername()), _address(accepted.getsockname())
    return encode(Header(source, destination, tls_tlvs(peer)))


def _address(name: tuple[str, int] | str | bytes) -> Address:
    """Return what the operating system says of one end of a socket."""
    if isinstance(name, tuple):
        return Address(host=name[0], port=name[1])
    return Address(path=os.fsdecode(name))


def _encode_addresses(source: Address | None, destination: Address | None) -> tuple[int, bytes]:
    if source is None and destination is None:
        return _UNSPECIFIED, b""
    if source is None or destination is None or (source.path is None) is not (destination.path is None):
        raise _malformed("source and destination have to be of one kind")
    if source.path is not None and destination.path is not None:
        return _UNIX_STREAM, _encode_path(source.path) + _encode_path(destination.path)
    ends = [_ip_address(end.host) for end in (source, destination)]
    ports = struct.pack("!HH", source.port, destination.port)
    if all(isinstance(end, ipaddress.IPv4Address) for end in ends):
        return _TCP4, ends[0].packed + ends[1].packed + ports
    return _TCP6, b"".join(_as_ipv6(end).packed for end in ends) + ports


def _encode_path(path: str) -> bytes:
    encoded = os.fsencode(path)
    if len(encoded) > _UNIX_PATH_BYTES:
        raise _malformed(f"a path has {_UNIX_PATH_BYTES} bytes at most")
    return encoded.ljust(_UNIX_PATH_BYTES, b"\0")


def _ip_address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    try:
        found = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        raise _malformed(f"{host!r} is not an IP address") from None
    # A socket for both families says ::ffff:192.0.2.1 and means an IPv4 peer.
    return found if found.version == 4 or found.ipv4_mapped is None else found.ipv4_mapped  # noqa: PLR2004


def _as_ipv6(end: ipaddress.IPv4Address | ipaddress.IPv6Address) -> ipaddress.IPv6Address:
    return end if isinstance(end, ipaddress.IPv6Address) else ipaddress.IPv6Address(f"::ffff:{end}")


def _decode_addresses(kind: int, block: bytes) -> tuple[Address | None, Address | None]:
    if kind == _UNSPECIFIED:
        return None, None
    if kind == _UNIX_STREAM:
        source, destination = (
            Address(path=os.fsdecode(_path(end))) for end in (block[:_UNIX_PATH_BYTES], block[_UNIX_PATH_BYTES:])
        )
        return source, destination
    size = 4 if kind == _TCP4 else 16
    hosts = [str(ipaddress.ip_address(block[at : at + size])) for at in (0, size)]
    ports = struct.unpack_from("!HH", block, 2 * size)
    return Address(host=hosts[0], port=ports[0]), Address(host=hosts[1], port=ports[1])


def _path(padded: bytes) -> bytes:
    # An abstract name begins with a zero byte; a path ends at the first.
    return padded.rstrip(b"\0") if padded.startswith(b"\0") else padded.partition(b"\0")[0]


def _encode_tlvs(tlvs: Mapping[int, bytes]) -> bytes:
    for number, value in tlvs.items():
        if len(value) > _MAX_VALUE_BYTES:
            raise _malformed(f"field {number:#04x}: {len(value)} bytes do not fit")
    return b"".join(_FIELD.pack(number, len(value)) + value for number, value in tlvs.items())


def _decode_tlvs(data: bytes) -> dict[int, slice]:
    """Return where the value of each field is. Padding is left out; nothing else may come twice."""
    found: dict[int, slice] = {}
    at = 0
    while at < len(data):
        if at + _FIELD.size > len(data):
            raise _malformed("a field is cut short")
        number, length = _FIELD.unpack_from(data, at)
        at += _FIELD.size + length
        if at > len(data) or number in found:
            raise _malformed(f"field {number:#04x} is cut short or comes twice")
        if number != NOOP:
            found[number] = slice(at - length, at)
    return found


def _check_checksum(header: bytes, at: int, length: int) -> None:
    """Check §2.2.3: the checksum of the whole header, with zeros in the place of the checksum."""
    if length != _CRC_BYTES:
        raise _malformed("its checksum has not 4 bytes")
    expected = int.from_bytes(header[at : at + _CRC_BYTES], "big")
    if _crc32c(header[:at] + bytes(_CRC_BYTES) + header[at + _CRC_BYTES :]) != expected:
        raise _malformed("its checksum is wrong")


def _crc32c(data: bytes) -> int:
    table, crc = _crc_table(), 0xFFFFFFFF
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


@cache
def _crc_table() -> tuple[int, ...]:
    def entry(value: int) -> int:
        for _ in range(8):
            value = (value >> 1) ^ (_CRC_POLYNOMIAL if value & 1 else 0)
        return value

    return tuple(map(entry, range(256)))


def _malformed(what: str) -> MessageError:
    return MessageError(f"PROXY header: {what}", reason="malformed")
