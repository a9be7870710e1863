"""Lines of a hash chain: what is made is what is read, and nothing else passes."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pqfl_transport.crypto.pyca import SigningKey
from pqfl_transport.errors import MessageError
from pqfl_transport.hashchain import (
    CHECKPOINT,
    GENESIS,
    Walk,
    canonical,
    checkpoint_facts,
    digest,
    make_line,
    parse_line,
)

KEY = SigningKey.from_seed("ML-DSA-44", bytes(32))
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
FACTS = st.dictionaries(TEXT, TEXT | st.integers(-(2**53), 2**53) | st.booleans() | st.none(), max_size=5)


def chain(*facts: dict[str, object], key: SigningKey | None = None) -> list[bytes]:
    """Lines of one chain, each with a newline; with a key a signed head follows."""
    lines, previous = [], GENESIS
    kinds = [("event", one) for one in facts] + ([(CHECKPOINT, checkpoint_facts(key))] if key else [])
    for number, (kind, one) in enumerate(kinds):
        signer = key if kind == CHECKPOINT else None
        line = make_line(sequence=number, previous=previous, now=number, kind=kind, facts=one, key=signer)
        lines.append(canonical(line) + b"\n")
        previous = line["hash"]
    return lines


def walked(lines: list[bytes], keys: list[SigningKey] | None) -> None:
    """Walk over these lines to their end."""
    walk = Walk(None if keys is None else [key.verifying_key for key in keys])
    for line in lines:
        walk.take(line, "here")
    walk.finish("here")


def reason(lines: list[bytes], keys: list[SigningKey] | None = None) -> str:
    """Why a walk over these lines ends."""
    with pytest.raises(MessageError) as caught:
        walked(lines, keys)
    return caught.value.reason


@given(facts=st.lists(FACTS, max_size=4))
def test_what_is_made_is_read(facts: list[dict[str, object]]) -> None:
    """Any facts that JSON can say survive, and the walk counts them."""
    lines = chain(*facts, key=KEY)
    walk = Walk([KEY.verifying_key])
    for number, line in enumerate(lines):
        walk.take(line, str(number))
        assert parse_line(line.removesuffix(b"\n"), "")["seq"] == number
    assert (walk.finish("").lines, walk.finish("").sealed_lines) == (len(facts) + 1, len(facts) + 1)


def test_a_changed_a_dropped_and_a_moved_line_break_the_chain() -> None:
    """Also where the changed line has got its right hash."""
    first, second, third = chain({"n": 1}, {"n": 2}, {"n": 3})
    changed = json.loads(second)
    changed["facts"] = {"n": 9}
    changed["hash"] = digest({name: value for name, value in changed.items() if name != "hash"})
    for lines in ([first, third], [second, first, third], [first, canonical(changed) + b"\n", third]):
        assert reason(lines) == "audit_chain"


def test_a_signed_head_holds_only_under_its_key() -> None:
    """A stranger's key is unknown, and a signature over something else does not hold."""
    other = SigningKey.from_seed("ML-DSA-44", bytes([1]) * 32)
    lines = chain({"n": 1}, key=KEY)
    assert reason(lines, [other]) == "unknown_signer"
    head = json.loads(lines[1])
    head["time"] = "2030-01-01T00:00:00.000000Z"
    head["hash"] = digest({name: value for name, value in head.items() if name != "hash"})
    assert reason([lines[0], canonical(head) + b"\n"], [KEY]) == "bad_signature"


@given(data=st.binary(max_size=200))
def test_junk_is_no_line(data: bytes) -> None:
    """Bytes that nobody made are refused with the place they stand at."""
    with pytest.raises(MessageError, match="here"):
        parse_line(data, "here")
