"""PEM armour: what goes in comes out, and nothing else passes for it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pqfl_transport.content.armour import MAX_PEM_BYTES, from_pem, to_pem
from pqfl_transport.errors import ConfigurationError


@given(st.binary(max_size=300))
def test_what_goes_in_comes_out(data: bytes) -> None:
    """Any bytes, on lines of at most 64 characters."""
    pem = to_pem(data, "PQFL THING")
    assert from_pem(pem, "PQFL THING") == data
    assert from_pem(b"\n" + pem.replace(b"\n", b"\r\n"), "PQFL THING") == data
    assert all(len(line) <= 64 for line in pem.splitlines())


@pytest.mark.parametrize(
    "pem",
    [
        b"",
        to_pem(b"x", "PQFL OTHER"),
        to_pem(b"x", "PQFL THING") * 2,
        to_pem(b"x", "PQFL THING") + b"and more",
        to_pem(b"x" * 60, "PQFL THING").replace(b"e", b"!"),
        to_pem(b"x" * MAX_PEM_BYTES, "PQFL THING"),
    ],
    ids=["nothing", "another label", "two blocks", "more behind it", "not base64", "too large"],
)
def test_anything_else_is_refused(pem: bytes) -> None:
    """One block of the expected label, whole, and nothing beside it."""
    with pytest.raises(ConfigurationError) as caught:
        from_pem(pem, "PQFL THING")
    assert caught.value.reason == "bad_key"
