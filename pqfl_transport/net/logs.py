"""Structured log lines on standard error: logfmt for people, JSON for programs. No secret, no payload."""

import json
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TextIO

Facts = dict[str, object]


_ROUTINE = frozenset({"connection", "start", "stop", "round", "update", "model"})


class EventLog:
    """Writes one line an event. ``quiet`` keeps only what went wrong and where the service listens."""

    def __init__(self, style: str, *, quiet: bool = False, stream: TextIO | None = None) -> None:
        self._format: Callable[[Facts], str] = _json_line if style == "json" else _logfmt_line
        self._quiet = quiet
        self._stream = stream or sys.stderr

    def event(self, event: str, **facts: object) -> None:
        """Write one event with its facts; ``None`` is left out."""
        if self._quiet and event in _ROUTINE:
            return
        line = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event} | facts
        self._stream.write(self._format({name: value for name, value in line.items() if value is not None}) + "\n")
        self._stream.flush()


def _json_line(facts: Facts) -> str:
    return json.dumps(facts, default=str)


def _logfmt_line(facts: Facts) -> str:
    return " ".join(f"{name}={_logfmt_value(value)}" for name, value in facts.items())


def _logfmt_value(value: object) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    needs_quotes = not text or any(c in text for c in ' "=\\') or not text.isprintable()
    return json.dumps(text) if needs_quotes else text
