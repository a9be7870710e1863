"""What is said once arrives where it belongs."""

import io
import json
from typing import Any

from gateway.journal import Journal
from pqfl_transport.audit import EventKind
from pqfl_transport.net.logs import EventLog


def test_an_event_is_logged_and_audited() -> None:
    """Both have the same facts; what is not known is in neither."""
    stream, audited = io.StringIO(), []

    def audit(kind: EventKind, facts: dict[str, object]) -> None:
        audited.append((kind, facts))

    journal = Journal(EventLog("json", stream=stream), audit)
    journal.record(EventKind.REFUSAL, reason="expired", peer=None)
    journal.record(EventKind.START, "listening", address="127.0.0.1:1")
    journal.say("draining", connections=3)
    lines: list[dict[str, Any]] = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line["event"] for line in lines] == ["refusal", "listening", "draining"]
    assert "peer" not in lines[0]
    assert audited == [(EventKind.REFUSAL, {"reason": "expired"}), (EventKind.START, {"address": "127.0.0.1:1"})]


def test_without_an_audit_log_the_line_is_written_all_the_same() -> None:
    """Auditing is an operator's choice."""
    stream = io.StringIO()
    Journal(EventLog("logfmt", stream=stream), None).record(EventKind.STOP)
    assert "event=stop" in stream.getvalue()
