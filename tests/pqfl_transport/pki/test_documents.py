"""Signed documents: they come back as they were signed, and nothing else comes back."""

import base64
import json
import math
import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pqfl_transport.crypto.contexts import Context
from pqfl_transport.crypto.pyca import SigningKey
from pqfl_transport.errors import MessageError
from pqfl_transport.pki.documents import (
    DocumentKind,
    decode_base64,
    open_document,
    parse_object,
    require_fields,
    sign_document,
)

KEY = SigningKey.from_seed("ML-DSA-65", bytes(32))
OTHER = SigningKey.from_seed("ML-DSA-65", bytes([1]) * 32)
KEYS = (OTHER.verifying_key, KEY.verifying_key)
KIND = DocumentKind.ROUND
PAYLOAD = {"number": 3, "text": "häuser", "nested": {"list": [1, 2.5, None, True]}}
SIGNED = sign_document(KIND, PAYLOAD, KEY)

# Text that UTF-8 can carry; a lone surrogate has no bytes to sign.
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=10,
)


def refusal(data: bytes, kind: DocumentKind = KIND, *, max_bytes: int = 1_000_000) -> str:
    """The reason for which a document is refused."""
    with pytest.raises(MessageError) as caught:
        open_document(data, kind, KEYS, max_bytes=max_bytes)
    assert kind.tag in str(caught.value)
    return caught.value.reason


def changed(**fields: Any) -> bytes:
    """The good document with some of its outer fields replaced; `None` leaves one out."""
    document = json.loads(SIGNED) | fields
    return json.dumps({name: value for name, value in document.items() if value is not None}).encode()


@settings(max_examples=50, deadline=None)
@given(payload=st.dictionaries(TEXT, JSON, max_size=5), kind=st.sampled_from(DocumentKind))
def test_round_trip(payload: dict[str, Any], kind: DocumentKind) -> None:
    """Whatever JSON can say comes back as it was, under its kind."""
    assert open_document(sign_document(kind, payload, KEY), kind, KEYS) == payload


@given(data=st.binary(max_size=100) | st.text(max_size=100).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_any_bytes_are_malformed(data: bytes) -> None:
    """No input makes the reader fail in its own way."""
    assert refusal(data) == "malformed"


@given(document=JSON | st.fixed_dictionaries(dict.fromkeys(["pqfl", "payload", "signature", "signer"], JSON)))
def test_any_json_is_refused(document: object) -> None:
    """JSON of any shape, the right field names included, is refused with our own error."""
    assert refusal(json.dumps(document).encode()) in {"malformed", "unknown_signer"}


@settings(max_examples=300, deadline=None)
@given(position=st.integers(0, len(SIGNED) - 2), value=st.integers(1, 255))
def test_no_changed_byte_changes_the_payload(position: int, value: int) -> None:
    """A document with one byte changed is refused, or the byte was white space and the payload is the signed one."""
    data = bytearray(SIGNED)
    data[position] ^= value
    try:
        assert open_document(bytes(data), KIND, KEYS) == PAYLOAD
    except MessageError:
        return
    assert SIGNED[position : position + 1].isspace()


@pytest.mark.parametrize("end", [0, 1, len(SIGNED) // 2, len(SIGNED) - 3, len(SIGNED) - 2])
def test_a_cut_document_is_malformed(end: int) -> None:
    """Half a document is none."""
    assert refusal(SIGNED[:end]) == "malformed"


def test_the_signature_covers_the_payloads_text() -> None:
    """Another number, and even the same JSON in other words, does not hold."""
    text = json.loads(SIGNED)["payload"]
    assert refusal(changed(payload=text.replace("3", "4", 1))) == "bad_signature"
    assert refusal(changed(payload=text + " ")) == "bad_signature"


def test_a_document_of_one_kind_is_none_of_another() -> None:
    """Neither its tag nor, with the tag rewritten, its signature passes for another kind."""
    assert refusal(SIGNED, DocumentKind.ROSTER) == "malformed"
    assert refusal(changed(pqfl=DocumentKind.ROSTER.tag), DocumentKind.ROSTER) == "bad_signature"
    assert len({kind.context for kind in DocumentKind}) == len(DocumentKind)
    assert DocumentKind.ROSTER.context is Context.ROSTER


def test_the_version_is_part_of_the_kind() -> None:
    """A document of a later version is not guessed at."""
    assert refusal(changed(pqfl="round/v2")) == "malformed"


def test_only_the_keys_asked_for_may_sign() -> None:
    """A stranger is unknown, even if he names a known key: then his signature does not hold."""
    stranger = SigningKey.from_seed("ML-DSA-65", bytes([2]) * 32)
    by_stranger = json.loads(sign_document(KIND, PAYLOAD, stranger))
    assert refusal(json.dumps(by_stranger).encode()) == "unknown_signer"
    assert refusal(changed(signature=by_stranger["signature"])) == "bad_signature"
    assert refusal(changed(signer=OTHER.verifying_key.fingerprint.hex())) == "bad_signature"
    assert refusal(changed(signer=json.loads(SIGNED)["signer"].upper())) == "unknown_signer"


def test_no_keys_open_nothing() -> None:
    """A reader that trusts nobody refuses everything."""
    with pytest.raises(MessageError) as caught:
        open_document(SIGNED, KIND, [])
    assert caught.value.reason == "unknown_signer"


def test_a_large_document_is_refused_unread() -> None:
    """The cap is on what was received; exactly the cap is still read."""
    assert open_document(SIGNED, KIND, KEYS, max_bytes=len(SIGNED)) == PAYLOAD
    assert refusal(SIGNED, max_bytes=len(SIGNED) - 1) == "too_large"


@pytest.mark.parametrize("field", ["pqfl", "payload", "signature", "signer"])
@pytest.mark.parametrize("value", [None, 1, True, [], {}])
def test_every_outer_field_is_a_string(field: str, value: object) -> None:
    """A field that is missing or not a string is malformed, whichever it is."""
    assert refusal(changed(**{field: value})) == "malformed"


def test_millions_of_small_values_are_never_made_of_what_nobody_signed() -> None:
    """A roster may be large, so what stands around its signed text is a few strings and nothing nested."""
    items = 2_000_000
    for data in (
        b'{"a":[' + b"[]," * items + b"[]]}",
        b"[" * items,
        b'{"payload":{' + b'"a":"bc",' * items + b'"a":"b"}}',
        b"{" + b'"a":"bc",' * items + b'"a":"b"}',
    ):
        tracemalloc.start()
        assert refusal(data, max_bytes=100_000_000) == "malformed"
        _, peak_bytes = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak_bytes < 2 * len(data) + 100_000


@pytest.mark.parametrize("space", ["", " \n\t\r"])
def test_white_space_and_escapes_are_json_s(space: str) -> None:
    """Whoever writes the same JSON in another way is read all the same."""
    fields = [
        f"{space}{json.dumps(name)}{space}:{space}{json.dumps(value)}{space}"
        for name, value in json.loads(SIGNED).items()
    ]
    assert open_document(f"{space}{{{','.join(reversed(fields))}}}{space}".encode(), KIND, KEYS) == PAYLOAD


@pytest.mark.parametrize(
    "data", [b"{}", b'{"a":"b",}', b'{"a" "b"}', b'{"a":"b"}x', b'{"a":"b"', b'{"a":"b","a":"b"}', b'{"a":"\n"}']
)
def test_the_outer_object_is_strict_json(data: bytes) -> None:
    """As everything else that is read."""
    assert refusal(data) == "malformed"


def test_unknown_outer_fields_are_malformed() -> None:
    """Nothing unsigned rides along."""
    assert refusal(changed(comment="x")) == "malformed"


@pytest.mark.parametrize("payload", ["[]", "1", "null", '"text"', "", "{", '{"a":1,"a":2}', '{"a":NaN}', '{"a":1e999}'])
def test_a_signed_payload_is_still_parsed_strictly(payload: str) -> None:
    """A good signature over something that is no strict JSON object does not make it one."""
    signature = KEY.sign(payload.encode(), KIND.context)
    assert refusal(changed(payload=payload, signature=base64.b64encode(signature).decode())) == "malformed"


def test_a_payload_that_is_no_unicode_is_malformed() -> None:
    """JSON can spell a lone surrogate; it has no bytes that anybody could have signed."""
    assert refusal(changed(payload="\ud800")) == "malformed"


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_json_cannot_say_is_not_signed(value: float) -> None:
    """Not a number and infinity are refused before they are signed."""
    with pytest.raises(ValueError, match="JSON"):
        sign_document(KIND, {"value": value}, KEY)


@pytest.mark.parametrize(
    "data",
    [
        b'{"a":1,"a":1}',
        b'{"a":{"b":1,"b":2}}',
        b'{"a":Infinity}',
        b'{"a":-Infinity}',
        b'{"a":-1e400}',
        b'{"a":' + b"9" * 5000 + b"}",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"\xff{}",
        b"\xef\xbb\xbf{}",
        "{}".encode("utf-16"),
        b"{} {}",
        b"",
    ],
    ids=lambda data: data[:12],
)
def test_strict_json(data: bytes) -> None:
    """No duplicate names, no numbers out of range, no depth that breaks the parser, no other encoding."""
    with pytest.raises(MessageError, match="here: ") as caught:
        parse_object(data, "here")
    assert caught.value.reason == "malformed"


def test_fields_are_exact() -> None:
    """Missing, unknown and wrongly typed fields are named; true is not a number."""
    fields = {"a": int, "b": (int, float)}
    assert require_fields({"a": 1, "b": 2.5}, fields, "here") == {"a": 1, "b": 2.5}
    for value, complaint in (
        ({"b": 1}, "here: lacks a"),
        ({"a": 1, "b": 1, "c": 1}, "here: has unknown fields 'c'"),
        ({"a": "1", "b": 1}, "here: a is of the wrong type"),
        ({"a": True, "b": 1}, "here: a is of the wrong type"),
        ({"a": 1, "b": False}, "here: b is of the wrong type"),
        ({"a": 1.0, "b": 1}, "here: a is of the wrong type"),
    ):
        with pytest.raises(MessageError, match=complaint):
            require_fields(value, fields, "here")


@given(data=st.binary(max_size=50))
def test_base64_round_trip(data: bytes) -> None:
    """Every byte string has exactly one spelling."""
    assert decode_base64(base64.b64encode(data).decode(), "here") == data


@pytest.mark.parametrize("text", ["A", "AA", "AA=", "AB==", "AA==\n", " AA==", "A-_A", "AA==AA==", "ÄÄÄÄ", "AAA=A"])
def test_other_spellings_of_base64_are_malformed(text: str) -> None:
    """No white space, no missing padding, no stray bits, no other alphabet."""
    with pytest.raises(MessageError, match="here: ") as caught:
        decode_base64(text, "here")
    assert caught.value.reason == "malformed"
