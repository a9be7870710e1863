"""Log lines: one a line, whatever is in them, for people and for programs."""

import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pqfl_transport.net.logs import EventLog


def lines(style: str, *, quiet: bool = False, **facts: object) -> list[str]:
    stream = io.StringIO()
    EventLog(style, quiet=quiet, stream=stream).event("connection", **facts)
    return stream.getvalue().splitlines()


def test_json_lines_are_for_programs() -> None:
    """Types stay, what is None is left out, and every line has its time and event."""
    (line,) = lines("json", peer="spiffe://fed/site/a", bytes_in=7, alpn=None, seconds=0.25)
    facts = json.loads(line)
    assert (facts["event"], facts["peer"], facts["bytes_in"], facts["seconds"]) == (
        "connection", "spiffe://fed/site/a", 7, 0.25,
    )  # fmt: skip
    assert "alpn" not in facts
    assert facts["time"].endswith("+00:00")


def test_logfmt_is_for_people() -> None:
    """Plain values stand bare, others in quotes."""
    (line,) = lines("logfmt", peer="spiffe://fed/site/a", detail='said "no"', empty="", seconds=1 / 3)
    assert 'peer=spiffe://fed/site/a detail="said \\"no\\"" empty="" seconds=0.333333' in line


@pytest.mark.parametrize("style", ["json", "logfmt"])
@given(text=st.text(max_size=50))
def test_no_value_makes_a_second_line(style: str, text: str) -> None:
    """What a peer sends cannot forge a line of the log, nor hide in control characters."""
    stream = io.StringIO()
    EventLog(style, stream=stream).event("refusal", detail=text)
    written = stream.getvalue()
    assert written.count("\n") == 1
    assert all(letter.isprintable() for letter in written[:-1]) or style == "json"


def test_quiet_keeps_what_matters() -> None:
    """Ordinary connections are left out; refusals and where it listens are not."""
    stream = io.StringIO()
    log = EventLog("json", quiet=True, stream=stream)
    for event in ("start", "connection", "update", "listening", "refusal", "failure"):
        log.event(event)
    assert [json.loads(line)["event"] for line in stream.getvalue().splitlines()] == ["listening", "refusal", "failure"]
