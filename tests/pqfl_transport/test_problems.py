"""Problem documents: what one end raises, the other end raises again."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pqfl_transport import errors
from pqfl_transport.errors import MessageError, PqflError, RoundError, TransportError
from pqfl_transport.problems import from_problem, status_of, to_problem


@pytest.mark.parametrize("kind", PqflError.__subclasses__())
def test_every_error_class_comes_back(kind: type[PqflError]) -> None:
    """Each class of the error tree crosses HTTP and is raised as itself with its reason and sentence."""
    problem = to_problem(kind("the thing is broken", reason="some_reason"))
    assert set(problem) == {"type", "title", "status", "detail", "reason"}
    error = from_problem(problem["status"], json.dumps(problem).encode(), "http://hub")
    assert type(error) is kind
    assert error.reason == "some_reason"
    assert str(error) == "http://hub: the thing is broken"


def test_every_error_class_is_covered() -> None:
    """No class of the tree falls back to another's title."""
    kinds = {value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, PqflError)}
    titles = {to_problem(kind("x", reason="y"))["title"] for kind in kinds - {PqflError}}
    assert len(titles) == len(kinds) - 1


def test_statuses() -> None:
    """A reason has its own status where HTTP has a word for it, else its class's."""
    assert status_of(RoundError("x", reason="stale")) == 409
    assert status_of(RoundError("x", reason="wrong_shape")) == 422
    assert status_of(MessageError("x", reason="too_large")) == 413
    assert status_of(MessageError("x", reason="malformed")) == 400
    assert status_of(TransportError("x", reason="key_manager_down")) == 503


@given(status=st.integers(400, 599), body=st.binary(max_size=200))
def test_anything_else_is_a_transport_error(status: int, body: bytes) -> None:
    """An answer that is no problem document of ours becomes a transport error naming the status."""
    error = from_problem(status, body, "hub")
    assert isinstance(error, TransportError)
    assert error.reason == f"http_{status}"


def test_a_hostile_detail_is_tamed() -> None:
    """Control characters and endless text of the other end do not reach a terminal."""
    problem = to_problem(RoundError("\x1b[2J\n" + "x" * 5000, reason="stale"))
    error = from_problem(409, json.dumps(problem).encode(), "hub")
    assert str(error).isprintable()
    assert len(str(error)) < 1100
