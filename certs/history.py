"""Checking the ledger: the chain of events holds, and the certificates are what the events say."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from certs.entry import Entry, State
from certs.ledger import Ledger
from pqfl_transport.crypto.pyca import VerifyingKey
from pqfl_transport.errors import MessageError
from pqfl_transport.hashchain import ChainSummary, Walk, parse_line

_ISSUING = frozenset({"issue", "renew"})


def verify_history(
    ledger: Ledger, keys: Iterable[VerifyingKey] | None, *, against: bytes | None = None
) -> ChainSummary:
    """Check every event, the chain, its signed heads under ``keys``, and the certificates against the events.

    ``against`` is a head that was exported before: the chain has to contain it, so nothing up to it was cut off or
    written anew. Raises ``MessageError``: what `hashchain.Walk.take` raises, ``rewritten``, ``ledger_mismatch``.
    """
    where = str(ledger.path)
    kept = None if against is None else against.strip()
    if kept is not None:
        parse_line(kept, "the head that was kept")
    walk, books, found = Walk(keys), _Books(), False
    for number, line in enumerate(ledger.lines()):
        walk.take(line, f"{where}: event {number}")
        books.take(json.loads(line))
        found = found or line.rstrip(b"\n") == kept
    summary = walk.finish(where)
    if kept is not None and not found:
        raise MessageError(
            f"{where}: does not contain the head that was kept: events were cut off or written anew", reason="rewritten"
        )
    books.compare(ledger.entries(), where)
    return summary


class _Books:
    """What the events say about certificates."""

    def __init__(self) -> None:
        self._issued: dict[str, Mapping[str, Any]] = {}
        self._revoked: dict[str, tuple[Any, ...]] = {}

    def take(self, event: Mapping[str, Any]) -> None:
        facts = event["facts"]
        if event["kind"] in _ISSUING:
            self._issued[str(facts.get("sha256"))] = facts
        elif event["kind"] == "revoke":
            said = (facts.get("revoked_at"), facts.get("reason"), facts.get("state") == State.WITHDRAWN)
            self._revoked[str(facts.get("sha256"))] = said

    def compare(self, entries: Iterable[Entry], where: str) -> None:
        seen = set()
        for entry in entries:
            seen.add(entry.sha256)
            said = self._revoked.get(entry.sha256, ("", "", False))
            has = (entry.revoked_at, entry.reason, entry.state == State.WITHDRAWN)
            if self._issued.get(entry.sha256) != entry.event_facts() or said != has:
                raise _mismatch(where, f"certificate {entry.serial} of {entry.id or entry.usage} is not what they say")
        if missing := self._issued.keys() - seen:
            raise _mismatch(where, f"{len(missing)} certificates that they tell of are missing")


def _mismatch(where: str, why: str) -> MessageError:
    return MessageError(f"{where}: certificates and events do not agree: {why}", reason="ledger_mismatch")
