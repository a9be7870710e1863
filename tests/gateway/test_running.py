"""Which way a sidecar runs follows from its configuration and from who started it."""

import os
from typing import Any

import pytest

from gateway import running
from gateway.worker import ENVIRONMENT, Inheritance
from tests.support.listeners import listener, source
from tests.support.pki import Federation, make_federation


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return make_federation(tmp_path_factory.mktemp("federation"), sites=("bank-a",))


@pytest.mark.parametrize(
    ("workers", "inherited", "expected"), [(1, False, "alone"), (2, False, "supervisor"), (2, True, "worker")]
)
def test_the_way_it_runs(
    federation: Federation, monkeypatch: pytest.MonkeyPatch, workers: int, inherited: bool, expected: str
) -> None:
    """Alone, as a supervisor, or as one of its workers; nothing of the service manager is passed on."""
    ran: list[str] = []

    def stand_in(name: str) -> Any:
        async def run(*_arguments: object) -> None:
            ran.append(name)

        return run

    for name, function in (("alone", "run_alone"), ("supervisor", "run_supervisor"), ("worker", "run_worker")):
        monkeypatch.setattr(running, function, stand_in(name))
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/nobody")
    if inherited:
        monkeypatch.setenv(ENVIRONMENT, Inheritance(0, 3, {"main": 4}, audited=False).to_text())
    running.serve(source(listener(federation), workers=workers))
    assert ran == [expected]
    assert ENVIRONMENT not in os.environ
    assert inherited or "NOTIFY_SOCKET" not in os.environ
