"""A sidecar of one process, in this one: signals, an end in order, an audit log with a signed head."""

import asyncio
import io
import json
import os
import signal
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.config import Source
from gateway.notify import Notifier
from gateway.standalone import run_alone
from pqfl_transport.audit import AuditLog, EventKind, verify_audit_log
from pqfl_transport.crypto import pkcs8
from pqfl_transport.crypto.pyca import SigningKey
from pqfl_transport.errors import ConfigurationError, PlatformError
from pqfl_transport.net.address import Address
from pqfl_transport.net.logs import EventLog
from pqfl_transport.pki.files import write_secret
from pqfl_transport.pki.keystore import load_signing_key
from tests.support.listeners import listener, source
from tests.support.loglines import Lines
from tests.support.pki import Federation, make_federation


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return make_federation(tmp_path_factory.mktemp("federation"), sites=("bank-a",))


def run(what: Source, use: Callable[[Lines, int], Awaitable[None]]) -> Lines:
    """Run a sidecar until ``use`` is done with it, then end it as an operator does."""

    async def scenario() -> Lines:
        lines = Lines()
        task = asyncio.create_task(run_alone(what, EventLog("json", stream=lines), Notifier(None)))
        port = int((await lines.wait_for("listening"))["address"].rsplit(":", 1)[1])
        await use(lines, port)
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(task, 20)
        assert (await lines.wait_for("stop"))["event"] == "stop"
        return lines

    return asyncio.run(scenario())


def test_what_happened_is_audited_and_signed(federation: Federation, tmp_path: Path) -> None:
    """Start, refusal and stop are in the chained log, whose head is signed at the end."""

    async def use(lines: Lines, port: int) -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"no TLS at all, but enough of it to be sure")
        await lines.wait_for("refusal")
        writer.close()

    path, key = tmp_path / "audit.jsonl", federation.site("bank-a") / "signing.key"
    run(source(listener(federation), audit=path, audit_key=key), use)
    kinds = [json.loads(line)["kind"] for line in path.read_text().splitlines()]
    assert kinds == ["start", "refusal", "stop", "checkpoint"]
    assert verify_audit_log(path, [load_signing_key(key).verifying_key]).sealed_lines == 4


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1])
def test_two_signals_reload(federation: Federation, number: signal.Signals) -> None:
    """Both of them; a broken configuration is said, and the former one goes on."""
    config = source(listener(federation)).config

    def broken() -> Any:
        raise ConfigurationError("tls.pem: no such file", reason="missing")

    async def use(lines: Lines, port: int) -> None:
        os.kill(os.getpid(), number)
        reload = await lines.wait_for("reload")
        assert (reload["result"], reload["detail"]) == ("failed", "tls.pem: no such file")
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.close()

    run(Source(config, broken), use)


def test_a_clock_reloads_too(federation: Federation) -> None:
    """With a timed reload nobody has to send a signal."""
    config = source(listener(federation), timed_reload_seconds=0.01).config
    again = source(listener(federation, connect_timeout_seconds=3.0), timed_reload_seconds=0.01).config

    async def use(lines: Lines, _port: int) -> None:
        assert (await lines.wait_for("reload"))["result"] == "ok"

    lines = run(Source(config, lambda: again), use)
    # Nothing changed after that, and so nothing more was said.
    assert len(lines.events("reload")) == 1


def test_what_cannot_be_audited_ends_the_service(
    federation: Federation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk under the log: nothing goes on unrecorded, and the service says why it ended."""
    full = PlatformError("audit.jsonl: no space left on device", reason="disk_full")

    def refuse(_log: AuditLog, kind: EventKind, **_facts: object) -> None:
        if kind is EventKind.REFUSAL:
            raise full

    async def scenario() -> None:
        lines = Lines()
        what = source(listener(federation), audit=tmp_path / "audit.jsonl")
        task = asyncio.create_task(run_alone(what, EventLog("json", stream=lines), Notifier(None)))
        port = int((await lines.wait_for("listening"))["address"].rsplit(":", 1)[1])
        monkeypatch.setattr(AuditLog, "event", refuse)
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"no TLS at all, but enough of it to be sure")
        with pytest.raises(PlatformError, match="no space left"):
            await asyncio.wait_for(task, 20)
        assert (await lines.wait_for("audit_failed"))["detail"] == str(full)
        writer.close()

    asyncio.run(scenario())


def test_what_cannot_start_says_so(federation: Federation, tmp_path: Path) -> None:
    """A taken port, a status port that is taken, an audit log that cannot be written."""

    def start(what: Source) -> None:
        asyncio.run(run_alone(what, EventLog("json", stream=io.StringIO()), Notifier(None)))

    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = Address("127.0.0.1", other.getsockname()[1])
        with pytest.raises(PlatformError, match="--listen"):
            start(source(listener(federation, listen=taken)))
        with pytest.raises(PlatformError, match="--status"):
            start(source(listener(federation), status=taken))
    with pytest.raises(ConfigurationError, match="audit"):
        start(source(listener(federation), audit=tmp_path / "nowhere" / "audit.jsonl"))


def test_an_encrypted_audit_key_signs_with_the_processes_passphrase(federation: Federation, tmp_path: Path) -> None:
    """The one of --passphrase-file; without it the sidecar does not start, because nothing would be signed."""

    async def use(_lines: Lines, _port: int) -> None:
        return

    path, key, phrase = tmp_path / "audit.jsonl", tmp_path / "audit.key", tmp_path / "pass"
    plain = SigningKey.generate("ML-DSA-65")
    write_secret(key, pkcs8.encrypt(plain.to_pem(), b"correct horse battery"))
    write_secret(phrase, b"correct horse battery")
    without = source(listener(federation), audit=path, audit_key=key)
    with pytest.raises(ConfigurationError, match=str(key)):
        asyncio.run(run_alone(without, EventLog("json", stream=io.StringIO()), Notifier(None)))
    run(source(listener(federation), audit=path, audit_key=key, passphrase_file=phrase), use)
    assert verify_audit_log(path, [plain.verifying_key]).sealed_lines == 3
