"""A worker: what it inherits, what it answers, and that it does not outlive its supervisor."""

import asyncio
import io
import os
import socket

import pytest

from gateway.channel import Channel
from gateway.worker import ENVIRONMENT, Inheritance, run_worker
from pqfl_transport.errors import ConfigurationError
from pqfl_transport.net.listening import listen
from pqfl_transport.net.logs import EventLog
from tests.support.listeners import ANYWHERE, listener, source
from tests.support.pki import Federation, make_federation


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return make_federation(tmp_path_factory.mktemp("federation"), sites=("bank-a",))


def test_an_inheritance_is_taken_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the worker itself starts is no worker; without one there is none."""
    assert Inheritance.take() is None
    given = Inheritance(1, 5, {"main": 6}, audited=True)
    monkeypatch.setenv(ENVIRONMENT, given.to_text())
    assert Inheritance.take() == given
    assert Inheritance.take() is None


def test_a_wrong_inheritance_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable is not for people."""
    monkeypatch.setenv(ENVIRONMENT, "[1, 2]")
    with pytest.raises(ConfigurationError, match=ENVIRONMENT):
        Inheritance.take()


@pytest.mark.parametrize("end", ["drain", "end", "supervisor gone"])
def test_a_worker_answers_and_ends(federation: Federation, end: str) -> None:
    """It serves, tells what it counted, reloads, audits through its supervisor, and ends when told or left alone."""

    async def scenario() -> None:
        ours, theirs = socket.socketpair()
        supervisor = await Channel.over(ours)
        listening = listen(ANYWHERE, "--listen")
        address = listening.getsockname()
        what = source(listener(federation))
        inheritance = Inheritance(0, theirs.detach(), {"main": listening.detach()}, audited=True)
        worker = asyncio.create_task(run_worker(what, EventLog("json", stream=io.StringIO()), inheritance))
        assert await supervisor.receive() == {"kind": "ready", "number": 0}
        supervisor.send("reload")
        assert await supervisor.receive() == {"kind": "reloaded", "result": "unchanged", "detail": ""}
        _, writer = await asyncio.open_connection(*address)
        writer.write(b"this is certainly no TLS, whatever else it may be")
        audited = await supervisor.receive()
        assert audited is not None
        assert (audited["kind"], audited["event"], audited["facts"]["reason"]) == ("audit", "refusal", "protocol")
        writer.close()
        supervisor.send("snapshot")
        answer = await supervisor.receive()
        assert answer is not None
        assert answer["snapshot"]["listeners"]["main"]["handshake_failures"] == {"protocol": 1}
        if end == "supervisor gone":
            supervisor.close()
        else:
            supervisor.send(end)
        await asyncio.wait_for(worker, 20)
        with pytest.raises(OSError, match=r"."):
            await asyncio.open_connection(*address)
        supervisor.close()

    asyncio.run(scenario())
    assert ENVIRONMENT not in os.environ
