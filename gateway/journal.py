"""What a sidecar says of itself: a log line for people, and an event in the audit log where one is kept."""

from collections.abc import Callable

from pqfl_transport.audit import EventKind
from pqfl_transport.net.logs import EventLog

Auditor = Callable[[EventKind, dict[str, object]], None]
"""Takes an event and its facts; raises ``PlatformError`` where it cannot be kept."""


class Journal:
    """Writes each event where it belongs."""

    def __init__(self, log: EventLog, auditor: Auditor | None) -> None:
        self._log, self._auditor = log, auditor

    def say(self, event: str, **facts: object) -> None:
        """Write a log line that is of no interest to an auditor."""
        self._log.event(event, **facts)

    def record(self, kind: EventKind, event: str = "", /, **facts: object) -> None:
        """Write an audit event and the log line that goes with it, under the same name unless another is given."""
        if self._auditor is not None:
            self._auditor(kind, {name: value for name, value in facts.items() if value is not None})
        self._log.event(event or kind.value, **facts)
