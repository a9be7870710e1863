"""Notifications: what a service manager hears, on a real datagram socket."""

import contextlib
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.notify import Notifier
from pqfl_transport.errors import ConfigurationError


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    """The service manager's socket, and its name as NOTIFY_SOCKET says it."""
    name = str(tmp_path / "notify") if request.param == "path" else f"@pqfl-notify-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(name.replace("@", "\0") if request.param == "abstract" else name)
        listening.settimeout(30)
        yield listening, name


def test_what_the_manager_hears(manager: tuple[socket.socket, str]) -> None:
    """Each call is one datagram with the words of sd_notify(3)."""
    listening, name = manager
    notifier = Notifier.from_environment({"NOTIFY_SOCKET": name})
    notifier.ready()
    notifier.stopping()
    notifier.watchdog()
    notifier.status("serves 3 listeners")
    assert [listening.recv(1000) for _ in range(4)] == [
        b"READY=1", b"STOPPING=1", b"WATCHDOG=1", b"STATUS=serves 3 listeners",
    ]  # fmt: skip


def test_reloading_says_when(manager: tuple[socket.socket, str]) -> None:
    """Type=notify-reload wants the time of the monotonic clock, in microseconds."""
    listening, name = manager
    before = time.monotonic_ns() // 1000
    Notifier.from_environment({"NOTIFY_SOCKET": name}).reloading()
    after = time.monotonic_ns() // 1000
    first, second = listening.recv(1000).decode().split("\n")
    assert first == "RELOADING=1"
    assert before <= int(second.removeprefix("MONOTONIC_USEC=")) <= after


def test_a_status_is_one_line(manager: tuple[socket.socket, str]) -> None:
    """What comes from elsewhere cannot say READY=1 in a second line."""
    listening, name = manager
    Notifier.from_environment({"NOTIFY_SOCKET": name}).status("a\nREADY=1\r\n  b")
    assert listening.recv(1000) == b"STATUS=a READY=1 b"


@pytest.mark.parametrize("environ", [{}, {"NOTIFY_SOCKET": ""}, {"WATCHDOG_USEC": "1000000"}])
def test_without_a_manager_nothing_is_said(environ: dict[str, str]) -> None:
    """Every call does nothing, and there is no watchdog."""
    notifier = Notifier.from_environment(environ)
    notifier.ready()
    notifier.reloading()
    notifier.stopping()
    notifier.watchdog()
    notifier.status("text")
    assert notifier.watchdog_interval_seconds == 0


@pytest.mark.parametrize("name", ["/nowhere/notify", "@pqfl-nobody-listens", "/" + "x" * 200])
def test_a_manager_that_is_gone_does_not_end_the_service(name: str) -> None:
    """Serving goes on."""
    Notifier.from_environment({"NOTIFY_SOCKET": name}).ready()


def test_a_manager_that_does_not_read_does_not_stop_the_service(
    manager: tuple[socket.socket, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """When its queue is full, a call gives up after a while and does not wait for ever."""
    monkeypatch.setattr("gateway.notify._SEND_TIMEOUT_SECONDS", 0.01)
    listening, name = manager
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.connect(listening.getsockname())
        other.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                other.send(b"full")
    Notifier.from_environment({"NOTIFY_SOCKET": name}).watchdog()
    listening.setblocking(False)
    heard = set()
    with contextlib.suppress(BlockingIOError):
        while True:
            heard.add(listening.recv(1000))
    assert heard == {b"full"}


@pytest.mark.parametrize(
    ("pid", "seconds"),
    [(None, 15.0), (str(os.getpid()), 15.0), (str(os.getpid() + 1), 0.0), ("x", 0.0)],
    ids=["nobody", "this process", "another", "nonsense"],
)
def test_the_watchdog_is_told_twice_as_often_as_it_has_to_be(pid: str | None, seconds: float) -> None:
    """Half the time that the manager waits, and only when this process is meant."""
    environ = {"NOTIFY_SOCKET": "/run/notify", "WATCHDOG_USEC": "30000000"}
    if pid is not None:
        environ["WATCHDOG_PID"] = pid
    assert Notifier.from_environment(environ).watchdog_interval_seconds == seconds


@pytest.mark.parametrize(
    "environ",
    [
        {"NOTIFY_SOCKET": "vsock:2:1234"},
        {"NOTIFY_SOCKET": "notify"},
        {"NOTIFY_SOCKET": "/run/notify", "WATCHDOG_USEC": ""},
        {"NOTIFY_SOCKET": "/run/notify", "WATCHDOG_USEC": "-1"},
        {"NOTIFY_SOCKET": "/run/notify", "WATCHDOG_USEC": "3s"},
        {"NOTIFY_SOCKET": "/run/notify", "WATCHDOG_USEC": "²"},
        {"NOTIFY_SOCKET": "/run/notify", "WATCHDOG_USEC": "9" * 5000},
    ],
)
def test_variables_that_no_manager_sets_are_refused(environ: dict[str, str]) -> None:
    """A service that would be killed for its silence says so at its start."""
    with pytest.raises(ConfigurationError, match=r"NOTIFY_SOCKET|WATCHDOG_USEC") as caught:
        Notifier.from_environment(environ)
    assert caught.value.reason == "notify"
