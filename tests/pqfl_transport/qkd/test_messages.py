"""ETSI GS QKD 014: requests as the standard writes them, answers parsed strictly, errors by whose fault they are."""

import base64
import json
import uuid
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pqfl_transport.errors import ConfigurationError, MessageError, PeerError, PqflError, TransportError
from pqfl_transport.qkd import messages
from pqfl_transport.qkd.messages import (
    MAX_ANSWER_BYTES,
    dec_keys_request,
    enc_keys_request,
    error_of,
    parse_named_keys,
    parse_new_keys,
    parse_status,
    status_request,
)
from tests.support.keymanagers import STATUS

IDS = ("550e8400-e29b-41d4-a716-446655440000", "bc490419-7d60-487f-adc1-4ddcc177c139")


def container(*ids: str, size: int = 32, **more: Any) -> bytes:
    """A key container whose keys consist of their own number."""
    keys = [
        {"key_ID": key_id, "key": base64.b64encode(bytes([number]) * size).decode()}
        for number, key_id in enumerate(ids, 1)
    ]
    return json.dumps({"keys": keys} | more).encode()


def test_requests_are_as_the_standard_says() -> None:
    """Paths with the other SAE's ID, percent-encoded; bodies with the members of clauses 6.2 and 6.4."""
    assert (status_request("south").method, status_request("south").path) == ("GET", "/api/v1/keys/south/status")
    request = enc_keys_request("spiffe://f/site/a?b", number=3, size_bits=512)
    assert request.path == "/api/v1/keys/spiffe%3A%2F%2Ff%2Fsite%2Fa%3Fb/enc_keys"
    assert (request.method, json.loads(request.body)) == ("POST", {"number": 3, "size": 512})
    request = dec_keys_request("north", IDS)
    assert request.path == "/api/v1/keys/north/dec_keys"
    assert json.loads(request.body) == {"key_IDs": [{"key_ID": IDS[0]}, {"key_ID": IDS[1]}]}


@pytest.mark.parametrize(
    "make",
    [
        lambda: status_request(""),
        lambda: status_request(".."),
        lambda: status_request("a\nb"),
        lambda: status_request("a" * 257),
        lambda: enc_keys_request("a", number=0),
        lambda: enc_keys_request("a", number=129),
        lambda: enc_keys_request("a", size_bits=0),
        lambda: enc_keys_request("a", size_bits=257),
        lambda: enc_keys_request("a", size_bits=8200),
        lambda: dec_keys_request("a", []),
        lambda: dec_keys_request("a", ["1"]),
        lambda: dec_keys_request("a", IDS * 65),
    ],
)
def test_requests_that_no_manager_could_answer_are_not_made(make: Any) -> None:
    """The caller is told."""
    with pytest.raises(ConfigurationError) as caught:
        make()
    assert caught.value.reason == "key_request"


def test_a_status_is_parsed() -> None:
    """All of its members; what a vendor adds is left alone."""
    status = parse_status(json.dumps(STATUS | {"status_extension": {"x": 1}}).encode(), "km")
    assert (status.stored_key_count, status.target_kme_id, status.key_size) == (25000, "EEEEFFFFGGGGHHHH", 352)


@pytest.mark.parametrize("change", [{"key_size": "352"}, {"key_size": True}, {"key_size": -1}, {"slave_SAE_ID": None}])
def test_a_status_of_wrong_types_is_refused(change: dict[str, Any]) -> None:
    """A number as a string, a truth value, less than nothing, nothing."""
    with pytest.raises(PeerError) as caught:
        parse_status(json.dumps(STATUS | change).encode(), "km")
    assert caught.value.reason == "bad_answer"


def test_keys_are_parsed_in_the_order_asked_for() -> None:
    """A manager may answer in any order and spell a UUID in any case."""
    data = container(*IDS, key_container_extension={})
    assert [key.material for key in parse_new_keys(data, "km", number=2, size_bits=256)] == [b"\1" * 32, b"\2" * 32]
    found = parse_named_keys(data, "km", key_ids=[IDS[1].upper(), IDS[0]], size_bits=256)
    assert [key.id for key in found] == [IDS[1], IDS[0]]
    assert "\1" not in repr(found)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "bad_answer"),
        (b"[]", "bad_answer"),
        (b"{}", "bad_answer"),
        (b'{"keys": []}', "bad_answer"),
        (b'{"keys": [1]}', "bad_answer"),
        (b'{"keys": [], "keys": []}', "bad_answer"),
        (b'{"keys": {"key": 1}}', "bad_answer"),
        (container(IDS[0]), "bad_answer"),
        (container(IDS[0], IDS[0].upper()), "bad_answer"),
        (container(IDS[0], "not-a-uuid"), "bad_answer"),
        (container(*IDS).replace(b'"AQEB', b'"AQE!'), "bad_answer"),
        (container(*IDS).replace(b'"key"', b'"kee"'), "bad_answer"),
        (container(*IDS, size=16), "wrong_key_size"),
        (container(*IDS, size=0), "wrong_key_size"),
        (container(*IDS) + b" " * MAX_ANSWER_BYTES, "bad_answer"),
        (container(*(str(uuid.UUID(int=number)) for number in range(129))), "bad_answer"),
    ],
)
def test_containers_outside_the_standard_are_refused(data: bytes, reason: str) -> None:
    """The manager is named, its keys are not shown."""
    with pytest.raises(PeerError, match="km") as caught:
        parse_new_keys(data, "km", number=2, size_bits=256)
    assert caught.value.reason == reason
    assert "AQE" not in str(caught.value)


def test_other_keys_than_those_asked_for_are_refused() -> None:
    """A manager that answers another question is not believed."""
    with pytest.raises(PeerError):
        parse_named_keys(container(IDS[0]), "km", key_ids=[IDS[1]], size_bits=256)
    with pytest.raises(PeerError):
        parse_named_keys(container(*IDS), "km", key_ids=[IDS[1]], size_bits=256)


@given(st.dictionaries(st.uuids().map(str), st.binary(min_size=32, max_size=32), min_size=1, max_size=16))
def test_whatever_a_manager_delivers_is_what_comes_out(keys: dict[str, bytes]) -> None:
    """Ids and bytes, for any number of keys."""
    rows = [{"key_ID": key_id, "key": base64.b64encode(key).decode()} for key_id, key in keys.items()]
    data = json.dumps({"keys": rows}).encode()
    found = parse_named_keys(data, "km", key_ids=list(keys), size_bits=256)
    assert {key.id: key.material for key in found} == keys


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["keys", "key", "key_ID", "x"]), inner),
    max_leaves=12,
)


@given(st.one_of(st.binary(max_size=200), JSON.map(lambda value: json.dumps(value).encode())))
def test_nothing_that_a_manager_sends_breaks_the_parsers(data: bytes) -> None:
    """An answer is parsed or is one of our errors, whatever it is."""
    for parse in (
        lambda: parse_new_keys(data, "km", number=1, size_bits=256),
        lambda: parse_named_keys(data, "km", key_ids=IDS, size_bits=256),
        lambda: parse_status(data, "km"),
    ):
        with suppress(PeerError):
            parse()
    assert isinstance(error_of(400, data, status_request("a"), "km"), PqflError)


@pytest.mark.parametrize(
    ("status", "request_", "kind", "reason"),
    [
        (401, status_request("a"), ConfigurationError, "key_manager_refused"),
        (403, dec_keys_request("a", IDS), ConfigurationError, "key_manager_refused"),
        (400, dec_keys_request("a", IDS), MessageError, "unknown_key_id"),
        (404, dec_keys_request("a", IDS), MessageError, "unknown_key_id"),
        (400, enc_keys_request("a"), ConfigurationError, "key_request"),
        (503, enc_keys_request("a"), TransportError, "keys_exhausted"),
        (503, dec_keys_request("a", IDS), TransportError, "key_manager_down"),
        (500, enc_keys_request("a"), TransportError, "key_manager_down"),
        (302, enc_keys_request("a"), TransportError, "key_manager_down"),
    ],
)
def test_errors_say_whose_fault_it_is(
    status: int, request_: messages.Request, kind: type[PqflError], reason: str
) -> None:
    """By status and by what was asked; the manager's message is shown, its control characters are not."""
    error = error_of(status, b'{"message": "no \\u001b[31m way", "details": [{"secret": 1}]}', request_, "km")
    assert (type(error), error.reason) == (kind, reason)
    assert "no ?[31m way" in str(error)
    assert "secret" not in str(error)
    assert error_of(status, b"<html>", request_, "km").reason == reason
