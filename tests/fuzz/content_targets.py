"""Targets: envelopes and what is in them (`pqfl_transport.content`)."""

import base64
from collections.abc import Iterable, Iterator
from functools import cache

import numpy as np
import zstandard

from pqfl_transport.content.codecs import decode, encode
from pqfl_transport.content.envelope import Prologue, PrologueReader, decode_prologue, encode_prologue, verify_prologue
from pqfl_transport.content.header import CODECS, decode_header, encode_header
from pqfl_transport.content.keysource import KeyId
from pqfl_transport.content.opening import Opener, open_weights
from pqfl_transport.content.psk import PreSharedKey
from pqfl_transport.content.recipients import ReceivingKey, RecipientKey
from pqfl_transport.content.shares import combine, parse_contribution
from pqfl_transport.content.sparse import from_sparse
from pqfl_transport.content.streams import open_to
from pqfl_transport.content.tensors import TensorLayout, named_arrays, parse, total_bytes
from pqfl_transport.crypto.pyca import SigningKey, VerifyingKey
from pqfl_transport.errors import MessageError, PqflError
from tests.fuzz.registry import target, text_of
from tests.support.envelopes import make_keys
from tests.support.vectors import FOLDER, Vector, load

_MOST_BYTES = 1 << 20
_PIECE_BYTES = 61


class Trusting(VerifyingKey):
    """A sender's key that finds every signature good, so that what is behind a signature is reached."""

    __slots__ = ()

    def verify(self, signature: object, message: object, context: object) -> None:
        """Believe it."""


def trusting(key: SigningKey) -> Trusting:
    """Return a key that is this one in name only."""
    return Trusting(key.verifying_key.pyca_key)


KEYS = make_keys("standard")
SENDER = trusting(KEYS.signing)


@cache
def vectors(name: str) -> tuple[Vector, ...]:
    """Return the recorded vectors of a file."""
    return tuple(load(FOLDER / f"{name}.json"))


def envelopes(*names: str) -> Iterator[bytes]:
    """Yield the recorded envelopes of some files."""
    for name in names:
        yield from (vector.envelope for vector in vectors(name))


def _headers() -> Iterator[bytes]:
    for envelope in envelopes("headers", "mlkem768x25519-mldsa44"):
        yield envelope[4 : 4 + int.from_bytes(envelope[:4], "big")]


@target(_headers)
def header(data: bytes) -> None:
    """A header that parses is encoded to the very bytes that were parsed."""
    assert encode_header(decode_header(data)) == data


@target(lambda: envelopes("headers", "prologues", "mlkem768x25519-mldsa44"), max_bytes=16_384)
def prologue(data: bytes) -> None:
    """Read in pieces or at once, a prologue is the same, and is put together from its parts to the same bytes."""
    whole, rest = decode_prologue(data)
    assert whole.raw + rest == data
    assert encode_prologue(whole.header_bytes, whole.wrapped, whole.commitment, whole.signature) == whole
    reader, found, at = PrologueReader(), None, 0
    while found is None:
        found = reader.feed(data[at : at + _PIECE_BYTES])
        at += _PIECE_BYTES
    assert found == whole
    verify_prologue(whole, sender_key=SENDER, policy=KEYS.policy)


@target(lambda: envelopes("bodies", "layouts", "keys"), max_bytes=65_536)
def opening(data: bytes) -> None:
    """An envelope that everybody believes to be signed is opened or refused."""
    open_weights(
        data, receiving_key=KEYS.receiving, sender_key=SENDER, policy=KEYS.policy, max_plaintext_bytes=_MOST_BYTES
    )


@target(lambda: envelopes("bodies", "prologues"), max_bytes=65_536)
def stream(data: bytes) -> None:
    """In pieces of any size an envelope opens to what it opens to at once, or is refused as well."""

    def begin(found: Prologue) -> Opener:
        verify_prologue(found, sender_key=SENDER, policy=KEYS.policy)
        return Opener(found, KEYS.receiving, sender_key=SENDER)

    results = []
    for size in (len(data) + 1, _PIECE_BYTES):
        written = bytearray()
        try:
            open_to(written.extend, (data[at : at + size] for at in range(0, len(data), size)), begin)
        except PqflError:
            results.append(None)
        else:
            results.append(bytes(written))
    assert results[0] == results[1]


def _contributions() -> Iterator[bytes]:
    for vector in vectors("mlkem768x25519-mldsa44"):
        for one in vector.entry.get("contributions", []):
            yield base64.b64decode(one)


@cache
def _shared() -> tuple[Prologue, bytes]:
    vector = next(one for one in vectors("mlkem768x25519-mldsa44") if "contributions" in one.entry)
    return decode_prologue(vector.envelope)[0], base64.b64decode(vector.entry["contributions"][1])


@target(_contributions, max_bytes=8192)
def contribution(data: bytes) -> None:
    """Whatever somebody contributes beside a good one, the key is restored or nothing is."""
    parsed = parse_contribution(data)
    assert 1 <= parsed.index <= 255
    shared, good = _shared()
    combined = combine(shared, [("good", good), ("fuzzed", data)], KEYS.combiner, lambda _found: SENDER)
    assert len(combined.trustees) == 2


def _stored_keys() -> Iterator[bytes]:
    yield KEYS.receiving.to_pem()
    yield KEYS.receiving.public.to_pem()
    for level in ("maximum", "cnsa2"):
        yield make_keys(level).receiving.to_pem()
    for vector in vectors("keys"):
        if "receiving_pem" in vector.entry:
            yield vector.entry["receiving_pem"].encode()


@target(_stored_keys)
def receiving_key_pem(data: bytes) -> None:
    """A stored key is the same after it is stored again."""
    if b"PRIVATE" in data:
        key = ReceivingKey.from_pem(data)
        assert ReceivingKey.from_pem(key.to_pem()).fingerprint == key.fingerprint
    else:
        public = RecipientKey.from_pem(data)
        assert RecipientKey.from_pem(public.to_pem()) == public


@target(lambda: [KEYS.receiving.public.to_bytes(), make_keys("maximum").receiving.public.to_bytes()])
def receiving_key(data: bytes) -> None:
    """What a roster or a round document carries is the key that it says, byte by byte."""
    assert RecipientKey.from_bytes(data).to_bytes() == data


@target(lambda: [PreSharedKey("spring", b"k" * 32).to_pem()])
def psk_pem(data: bytes) -> None:
    """A stored pre-shared key is the same after it is stored again."""
    key = PreSharedKey.from_pem(data)
    again = PreSharedKey.from_pem(key.to_pem())
    assert (again.name, again.key("0" * 32)) == (key.name, key.key("0" * 32))


@target(lambda: [b"psk:spring:" + b"0a" * 16, b"qkd:north-south:BC490419-7d60-487f-adc1-4ddcc177c139"], max_bytes=300)
def extra_key_id(data: bytes) -> None:
    """An id of an extra key has one spelling, but for a UUID's letters."""
    text = text_of(data)
    found = KeyId.parse(text)
    assert str(found) == text
    assert KeyId.parse(found.canonical).canonical == found.canonical


def plaintexts(*names: str) -> Iterator[bytes]:
    """Yield what is inside the recorded envelopes, whether it is a good layout or not."""
    for name in names:
        for vector in vectors(name):
            yield _plaintext(vector)


def _plaintext(vector: Vector) -> bytes:
    found, rest = decode_prologue(vector.envelope)
    opener = Opener(found, KEYS.receiving, sender_key=SENDER)
    buffer = bytearray(len(rest) + 65_536)
    try:
        written = opener.update_into(rest, buffer)
        return bytes(buffer[:written]) + opener.finalize()
    except MessageError:
        return b""


@target(lambda: plaintexts("layouts"))
def layout(data: bytes) -> None:
    """Tensors that parse are laid out and parsed again to the same."""
    weights, metadata = parse(bytearray(data))
    again, facts = parse(bytearray(b"".join(TensorLayout.of(weights, metadata).buffers())))
    assert facts == metadata
    assert type(again) is type(weights)
    first, second = named_arrays(weights), named_arrays(again)
    assert list(first) == list(second)
    for one, other in zip(first.values(), second.values(), strict=True):
        assert (one.dtype, one.shape, one.tobytes()) == (other.dtype, other.shape, other.tobytes())


def _encoded() -> Iterator[bytes]:
    for number in range(len(CODECS)):
        for plaintext in plaintexts("codecs"):
            yield bytes([number]) + plaintext


@target(_encoded)
def codec(data: bytes) -> None:
    """The first byte is the codec: what comes out fits its bound, and bfloat16 survives being encoded again."""
    name = CODECS[data[0] % len(CODECS)] if data else CODECS[0]
    weights, metadata = parse(bytearray(data[1:]))
    decoded = decode(weights, metadata, name, max_bytes=_MOST_BYTES)
    assert total_bytes(decoded) <= _MOST_BYTES
    if name == "safetensors+bf16" and "codec" in metadata:
        finite = {key: one for key, one in named_arrays(decoded).items() if _is_finite(one)}
        encoded, facts = encode(finite, name)
        once = decode(encoded, facts, name, max_bytes=_MOST_BYTES)
        twice, more = encode(once, name)
        _assert_same(named_arrays(once), named_arrays(decode(twice, more, name, max_bytes=_MOST_BYTES)))


def _is_finite(array: "np.ndarray[tuple[int, ...], np.dtype[np.generic]]") -> bool:
    large = np.finfo(np.float32).max
    return array.dtype.kind == "f" and bool(np.isfinite(array).all()) and not (np.abs(array) > large).any()


def _assert_same(one: dict[str, object], other: dict[str, object]) -> None:
    for name, array in one.items():
        np.testing.assert_array_equal(np.asarray(array), np.asarray(other[name]))


def _sparse() -> Iterable[bytes]:
    return [b"\x02" + bytes([3, 70, 0, 0, 0, 0, 0, 0]) + bytes(8), b"\x01" + bytes(8)]


@target(_sparse, max_bytes=1024)
def sparse_content(data: bytes) -> None:
    """The first byte is how many entries are kept, the rest is what a blob of them decompresses to."""
    kept = 1 + (data[0] % 16 if data else 0)
    blob = np.frombuffer(zstandard.compress(data[1 : 1 + 8 * kept]), np.uint8)
    array = np.full(200, np.nan, "<f4")
    from_sparse(blob, kept, array, "w")
    assert np.isfinite(array).all()
    assert np.count_nonzero(array) <= kept
