"""Targets: what comes over a network besides envelopes: proxies' headers and answers, HTTP, protocol buffers."""

import contextlib
import json
from collections.abc import Iterator

from gateway import proxy_protocol
from gateway.http.protobuf import FieldReader, fields_of
from gateway.http.rules import matches, path_of
from gateway.proxies import Proxy
from pqfl_transport import exchange
from pqfl_transport.aggregation.secagg.messages import (
    Advertise,
    Kind,
    Packet,
    Share,
    Shared,
    Survivors,
    Unmask,
    parse_message,
    split_many,
)
from pqfl_transport.crypto.contexts import length_prefixed
from pqfl_transport.errors import MessageError, PqflError
from pqfl_transport.net.address import Address
from pqfl_transport.net.resumable import UPLOAD_COMPLETE, UPLOAD_LENGTH, UPLOAD_OFFSET, UploadAddress, UploadFields
from pqfl_transport.problems import from_problem, to_problem
from pqfl_transport.qkd import messages
from tests.fuzz.registry import target, text_of
from tests.support.secagg import Network

_TARGET = Address(host="hub.example", port=443)


def _proxy_headers() -> Iterator[bytes]:
    ends = (Address(host="192.0.2.1", port=1), Address(host="192.0.2.2", port=2))
    tlvs = {0x20: bytes(5) + b"\x21\0\x02ab", 0x02: b"hub"}
    yield proxy_protocol.encode(proxy_protocol.Header(*ends, tlvs))
    yield proxy_protocol.encode(proxy_protocol.Header(Address(host="::1", port=1), Address(host="::2", port=2), {}))
    yield proxy_protocol.encode(proxy_protocol.Header(Address(path="/run/a"), Address(path="/run/b"), {}))
    yield proxy_protocol.encode(proxy_protocol.Header())


@target(_proxy_headers)
def proxy_header(data: bytes) -> None:
    """A PROXY header that is read is written and read to the same."""
    found, size = proxy_protocol.decode(data)
    assert size == proxy_protocol.header_bytes(data) <= len(data)
    if 0x20 in found.tlvs:
        with contextlib.suppress(MessageError):
            proxy_protocol.decode_ssl(found.tlvs[0x20])
    if found.source is not None and None not in {found.source.path, found.source.host}:
        again, _ = proxy_protocol.decode(proxy_protocol.encode(found))
        assert again.tlvs == found.tlvs


@target(lambda: [b"\x08\x05\x12\x04\x08\x01\x10\x02", b"\x12\x06\x0a\x04\x18\x07\x20\x01", b"\x0d\0\0\0\0"])
def protobuf(data: bytes) -> None:
    """Fields are the same whether a message comes in one piece or byte by byte."""
    whole, pieces = FieldReader(2, 1, 3), FieldReader(2, 1, 3)
    results = []
    for reader, parts in ((whole, [data]), (pieces, [data[at : at + 1] for at in range(len(data))])):
        try:
            for part in parts:
                reader.feed(part)
        except MessageError as error:
            results.append((reader.values, str(error)))
        else:
            results.append((reader.values, reader.at_boundary))
    assert results[0] == results[1]
    fields_of(data, 1)


@target(lambda: [b"/v1/rounds/3/updates/00?x=1", b"/a/%2e%2e/b", b"/;/./a"], max_bytes=512)
def request_path(data: bytes) -> None:
    """A path that passes holds nothing that a backend could read in another way."""
    path = path_of(text_of(data))
    assert not {".", ".."} & {part.partition(";")[0] for part in path.split("/")}
    assert "\\" not in path
    assert "//" not in path
    matches("/v1/rounds/*/updates/**", path)


@target(lambda: [b"/v1/rounds/3/uploads/bank-a/" + b"ab" * 32, b"/v1/rounds/03/uploads/a/x"], max_bytes=300)
def upload_address(data: bytes) -> None:
    """Where an upload goes on names one upload, whose own address is found again."""
    found = UploadAddress.parse(text_of(data))
    assert UploadAddress.parse(str(found)) == found


@target(lambda: [b"?1;x=1\n100\n5", b"?0\n999999999999999\n", b" ?1 \n-1\n1.0"], max_bytes=200)
def upload_fields(data: bytes) -> None:
    """A field of an upload is of its form, or as good as absent."""
    values = (text_of(data).split("\n") + [""] * 3)[:3]
    found = UploadFields.of(dict(zip((UPLOAD_COMPLETE, UPLOAD_OFFSET, UPLOAD_LENGTH), values, strict=True)))
    assert found.complete in {None, True, False}
    assert all(number is None or 0 <= number < 10**15 for number in (found.offset, found.length))


def _key_manager_answers() -> Iterator[bytes]:
    key = {"key_ID": "bc490419-7d60-487f-adc1-4ddcc177c139", "key": "A" * 43 + "="}
    yield json.dumps({"keys": [key]}).encode()
    yield json.dumps({"message": "no keys", "details": [{"reason": "exhausted"}]}).encode()
    numbers = {"key_size": 256, "stored_key_count": 9, "max_key_count": 9, "max_key_per_request": 1,
               "max_key_size": 512, "min_key_size": 64, "max_SAE_ID_count": 0}  # fmt: skip
    names = ("source_KME_ID", "target_KME_ID", "master_SAE_ID", "slave_SAE_ID")
    yield json.dumps(dict.fromkeys(names, "x") | numbers).encode()


@target(_key_manager_answers)
def key_manager_answer(data: bytes) -> None:
    """Whatever a key manager answers, keys come out that were asked for, or an error in one printable line."""
    named = "bc490419-7d60-487f-adc1-4ddcc177c139"
    for parse in (
        lambda: messages.parse_status(data, "km"),
        lambda: messages.parse_new_keys(data, "km", number=1, size_bits=256),
        lambda: messages.parse_named_keys(data, "km", key_ids=[named], size_bits=256),
    ):
        with contextlib.suppress(PqflError):
            parse()
    for status in (400, 401, 404, 503):
        error = messages.error_of(status, data, messages.dec_keys_request("north", [named]), "km")
        assert str(error).isprintable()


def _problems() -> Iterator[bytes]:
    yield json.dumps(to_problem(MessageError("no", reason="bad_body"))).encode()
    yield b'{"type":"urn:pqfl:problem:round:stale","detail":"x"}'


@target(_problems)
def problem(data: bytes) -> None:
    """An answer is an error of ours in one printable line, whatever the other end wrote."""
    error = from_problem(500, data, "hub")
    assert isinstance(error, PqflError)
    assert str(error).isprintable()
    assert len(str(error)) < 2000


@target(lambda: [b'{"state":"closed","round":3}', b"[]", b'{"state":null}'])
def round_event(data: bytes) -> None:
    """An event of the aggregator names a state or does not."""
    assert isinstance(exchange._state(data), str | None)


@target(lambda: [b"http://user:p%40ss@proxy:3128", b"socks5://[::1]:1080"], max_bytes=400)
def proxy_url(data: bytes) -> None:
    """A proxy's URL is taken or refused without repeating what may be a password."""
    said = ""
    try:
        Proxy.parse(text_of(data), "--proxy").conversation(_TARGET)
    except PqflError as error:
        said = str(error)
    assert len(said) < 400


@target(lambda: [b"\0HTTP/1.1 200 OK\r\nA: b\r\n\r\nrest", b"\x01\x05\x02\x01\0\x05\0\0\x01\x7f\0\0\x01\0\x50rest"])
def proxy_answer(data: bytes) -> None:
    """What a proxy answers opens a tunnel or is refused, in one piece or byte by byte, to the same end."""
    url = "socks5://user:pass@proxy:1" if data[:1] and data[0] % 2 else "http://proxy:1"
    ends = []
    for parts in ([data[1:]], [data[at : at + 1] for at in range(1, len(data))]):
        conversation, rest = Proxy.parse(url, "--proxy").conversation(_TARGET), b""
        try:
            for part in parts:
                if part:
                    rest += conversation.receive(part)
        except PqflError as error:
            ends.append((False, error.reason))
        else:
            ends.append((conversation.complete, rest))
    assert ends[0] == ends[1]


def _secagg_messages() -> Iterator[bytes]:
    net = Network(3)
    net.run()
    first = [data for name, data in net.sent if name == next(iter(net.sites))]
    for data in (*net.seen, *first):
        yield data
        message = parse_message(data)
        # Without signature, ciphertexts and members' messages it is small enough to be changed everywhere.
        body = tuple(item if len(item) < 256 else length_prefixed(b"") for item in message.body)
        head = message.signed.partition(length_prefixed(message.body[0]))[0]
        yield length_prefixed(head + length_prefixed(*body), b"signature", b"")
    yield Packet(b"shares", b"key", bytes(32), bytes(32), bytes(32)).encode()


_SECAGG_BODIES = {
    Kind.ADVERTISE: Advertise, Kind.SHARE: Share, Kind.SHARED: Shared, Kind.UPLOADED: Survivors,
    Kind.CONSISTENCY: Survivors, Kind.UNMASK: Unmask,
}  # fmt: skip


@target(_secagg_messages, max_bytes=16_384)
def secagg_message(data: bytes) -> None:
    """A message of secure aggregation, its body, and a packet are written again to the bytes that were read."""
    with contextlib.suppress(MessageError):
        assert Packet.decode(data).encode() == data
    message = parse_message(data)
    assert message.raw == data
    assert parse_message(message.statement).signed == message.signed
    body = _SECAGG_BODIES.get(message.kind)
    if body is not None:
        assert body.decode(message).encode() == message.body
    for item in (message.body[-1], message.attachment):
        with contextlib.suppress(MessageError):
            assert length_prefixed(*split_many(message, item)) == item
