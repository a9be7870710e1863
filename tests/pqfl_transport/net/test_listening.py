"""Listening: the kernel's port is told, a taken address is named, a dead process's socket is cleared away."""

import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from pqfl_transport.errors import ConfigurationError, PlatformError
from pqfl_transport.net import listening
from pqfl_transport.net.address import Address
from pqfl_transport.net.listening import bound_address, listen


@pytest.fixture
def environ(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A process to which nothing was passed and which took nothing."""
    monkeypatch.setattr(listening, "_taken", set())
    for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


@contextmanager
def passed(environ: pytest.MonkeyPatch, names: str, *sockets: socket.socket) -> Iterator[None]:
    """Make the descriptors of these sockets the ones that were passed; they need to follow each other."""
    numbers = [one.fileno() for one in sockets]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    environ.setattr(listening, "_FIRST_PASSED", numbers[0])
    environ.setenv("LISTEN_PID", str(os.getpid()))
    environ.setenv("LISTEN_FDS", str(len(sockets)))
    environ.setenv("LISTEN_FDNAMES", names)
    try:
        yield
    finally:
        for one in sockets:
            one.detach()


def neighbours(stack: ExitStack, count: int) -> list[socket.socket]:
    """Open listening sockets whose descriptors follow each other."""
    found: list[socket.socket] = []
    while len(found) < count or found[-1].fileno() - found[-count].fileno() != count - 1:
        found.append(stack.enter_context(socket.create_server(("127.0.0.1", 0))))
    return found[-count:]


def test_port_zero_is_chosen_by_the_kernel() -> None:
    """The address that is announced is one that can be connected to."""
    asked = Address.parse("127.0.0.1:0", "--listen")
    with listen(asked, "--listen") as server:
        bound = bound_address(server, asked)
        assert bound.port > 0
        assert server.getblocking() is False
        socket.create_connection((bound.host, bound.port)).close()


def test_ipv6_works_where_the_machine_has_it() -> None:
    """``[::1]:0`` listens on the loopback of IPv6."""
    asked = Address.parse("[::1]:0", "--listen")
    try:
        server = listen(asked, "--listen")
    except PlatformError as error:
        pytest.skip(f"no IPv6 here: {error}")
    with server:
        assert str(bound_address(server, asked)).startswith("[::1]:")


def test_a_taken_port_is_named() -> None:
    """The error has the flag, the address and what to look for."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = Address("127.0.0.1", other.getsockname()[1])
        with pytest.raises(PlatformError, match=rf"--listen {address}: the address is in use") as caught:
            listen(address, "--listen")
        assert caught.value.reason == "in_use"


def test_an_address_that_is_not_ours_is_named() -> None:
    """Another machine's address cannot be listened on."""
    with pytest.raises(PlatformError, match=r"--status 192\.0\.2\.1:1") as caught:
        listen(Address("192.0.2.1", 1), "--status")
    assert caught.value.reason == "listen"


def test_a_unix_socket_that_somebody_uses_is_not_taken(tmp_path: Path) -> None:
    """Two services never share a path without knowing."""
    address = Address(path=str(tmp_path / "a.sock"))
    with listen(address, "--listen") as server:
        assert bound_address(server, address) == address
        with pytest.raises(PlatformError) as caught:
            listen(address, "--listen")
        assert caught.value.reason == "in_use"


def test_a_unix_socket_left_behind_is_replaced(tmp_path: Path) -> None:
    """A process that was killed leaves its socket's file; the next one starts all the same."""
    address = Address(path=str(tmp_path / "a.sock"))
    listen(address, "--listen").close()
    assert (tmp_path / "a.sock").exists()
    with listen(address, "--listen"), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(tmp_path / "a.sock"))


def test_a_file_in_the_way_is_not_removed(tmp_path: Path) -> None:
    """What is no socket is somebody's file."""
    (tmp_path / "notes").write_text("mine")
    with pytest.raises(PlatformError):
        listen(Address(path=str(tmp_path / "notes")), "--listen")
    assert (tmp_path / "notes").read_text() == "mine"


def test_a_folder_that_is_missing_is_an_error_of_ours(tmp_path: Path) -> None:
    """No traceback for a path whose folder does not exist."""
    with pytest.raises(PlatformError, match="nowhere"):
        listen(Address(path=str(tmp_path / "nowhere" / "a.sock")), "--listen")


def test_several_listen_on_one_port_when_all_of_them_say_so() -> None:
    """Workers share an address, and a new process takes over before the old one lets go."""
    with listen(Address("127.0.0.1", 0), "--listen", reuse_port=True) as first:
        address = Address("127.0.0.1", first.getsockname()[1])
        with listen(address, "--listen", reuse_port=True) as second:
            assert second.getsockname() == first.getsockname()
        with pytest.raises(PlatformError) as caught:
            listen(address, "--listen")
        assert caught.value.reason == "in_use"


def test_a_port_is_not_shared_by_who_did_not_ask() -> None:
    """A port that another service holds for itself is in use, whatever the second one asks for."""
    with listen(Address("127.0.0.1", 0), "--listen") as first:
        with pytest.raises(PlatformError) as caught:
            listen(Address("127.0.0.1", first.getsockname()[1]), "--listen", reuse_port=True)
        assert caught.value.reason == "in_use"


def test_ipv6_sockets_take_no_ipv4() -> None:
    """The same port of 0.0.0.0 stays free for another listener."""
    try:
        server = listen(Address("::", 0), "--listen")
    except PlatformError as error:
        pytest.skip(f"no IPv6 here: {error}")
    with server:
        assert server.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
        listen(Address("0.0.0.0", server.getsockname()[1]), "--listen").close()  # noqa: S104 -- the point of it


def test_a_unix_socket_belongs_to_its_owner(tmp_path: Path) -> None:
    """Nobody else may connect, and the process's own file mode mask is as before."""
    before = os.umask(0o022)
    try:
        with listen(Address(path=str(tmp_path / "a.sock")), "--listen"):
            assert stat.S_IMODE((tmp_path / "a.sock").stat().st_mode) == 0o600
        assert os.umask(0o022) == 0o022
    finally:
        os.umask(before)


@pytest.mark.parametrize("host", ["a..b", "a" * 64 + ".example", "host.invalid"])
def test_a_name_that_is_none_is_an_error_of_ours(host: str) -> None:
    """Names that no resolver knows, or could know, are reported with the flag."""
    with pytest.raises(PlatformError, match="--listen"):
        listen(Address(host, 1), "--listen")


def test_a_passed_socket_is_taken_by_its_name(environ: pytest.MonkeyPatch) -> None:
    """Of several sockets that the service manager passed, the named one is used as it is, and no child inherits it."""
    with ExitStack() as stack:
        one, two = neighbours(stack, 2)
        two.set_inheritable(True)
        with passed(environ, "status:main", one, two), listen(Address(activation="main"), "--listen") as server:
            assert server.fileno() == two.fileno()
            assert (server.getblocking(), server.get_inheritable()) == (False, False)
            assert bound_address(server, Address(activation="main")) == Address(*two.getsockname())
            socket.create_connection(two.getsockname()).close()
            one.close()


def test_sockets_of_one_name_are_taken_one_after_the_other_and_each_once(environ: pytest.MonkeyPatch) -> None:
    """Two listeners never share a descriptor without knowing."""
    with ExitStack() as stack:
        one, two = neighbours(stack, 2)
        main = Address(activation="main")
        with (
            passed(environ, "main:main", one, two),
            listen(main, "--listen") as first,
            listen(main, "--listen") as second,
        ):
            assert {first.fileno(), second.fileno()} == {one.fileno(), two.fileno()}
            with pytest.raises(ConfigurationError, match="in use already") as caught:
                listen(main, "--status")
            assert caught.value.reason == "not_passed"


def test_sockets_without_names_are_called_unknown(environ: pytest.MonkeyPatch) -> None:
    """As sd_listen_fds_with_names(3) says."""
    with socket.create_server(("127.0.0.1", 0)) as one, passed(environ, "", one):
        environ.delenv("LISTEN_FDNAMES")
        listen(Address(activation="unknown"), "--listen").close()


def test_a_passed_unix_socket_says_where_it_is(environ: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Paths and abstract names are announced as such."""
    for name, announced in (
        (str(tmp_path / "a.sock"), str(tmp_path / "a.sock")),
        (f"\0pqfl-{os.getpid()}", f"@pqfl-{os.getpid()}"),
    ):
        environ.setattr(listening, "_taken", set())
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(name)
            one.listen()
            with passed(environ, "main", one), listen(Address(activation="main"), "--listen") as server:
                assert bound_address(server, Address(activation="main")) == Address(path=announced)


def test_a_socket_that_was_not_passed_is_named_with_those_that_were(environ: pytest.MonkeyPatch) -> None:
    """The operator sees what the unit is called and what it should be called."""
    with (
        socket.create_server(("127.0.0.1", 0)) as one,
        passed(environ, "pqfl.socket", one),
        pytest.raises(ConfigurationError, match=r"^--listen systemd:main: .* it passed 'pqfl.socket'$") as caught,
    ):
        listen(Address(activation="main"), "--listen")
    assert caught.value.reason == "not_passed"


def test_sockets_for_another_process_are_not_taken(environ: pytest.MonkeyPatch) -> None:
    """A child of the process that was meant inherits the variables and has no right to the numbers."""
    with socket.create_server(("127.0.0.1", 0)) as one, passed(environ, "main", one):
        environ.setenv("LISTEN_PID", str(os.getppid()))
        with pytest.raises(ConfigurationError, match="it passed none"):
            listen(Address(activation="main"), "--listen")


@pytest.mark.parametrize(("count", "names"), [("x", "main"), ("", "main"), ("999", "main"), ("2", "main"), ("0", "a")])
def test_variables_that_contradict_themselves_are_refused(environ: pytest.MonkeyPatch, count: str, names: str) -> None:
    """Numbers that are none, and another number of names than of sockets."""
    with socket.create_server(("127.0.0.1", 0)) as one, passed(environ, names, one):
        environ.setenv("LISTEN_FDS", count)
        with pytest.raises(ConfigurationError, match=r"--listen.*LISTEN_FD") as caught:
            listen(Address(activation="main"), "--listen")
        assert caught.value.reason == "not_passed"


@pytest.mark.parametrize("kind", ["datagram", "connected", "not listening", "no socket"])
def test_a_descriptor_that_does_not_listen_is_refused_and_left_open(environ: pytest.MonkeyPatch, kind: str) -> None:
    """A unit of the wrong kind is found at start and not at the first connection."""
    with ExitStack() as stack:
        if kind == "datagram":
            one = stack.enter_context(socket.socket(type=socket.SOCK_DGRAM))
        elif kind == "connected":
            one, other = socket.socketpair()
            stack.enter_context(one)
            stack.enter_context(other)
        elif kind == "not listening":
            one = stack.enter_context(socket.socket())
        else:
            pipe = os.pipe()
            for end in pipe:
                stack.callback(os.close, end)
        number = pipe[0] if kind == "no socket" else one.fileno()
        environ.setattr(listening, "_FIRST_PASSED", number)
        environ.setenv("LISTEN_PID", str(os.getpid()))
        environ.setenv("LISTEN_FDS", "1")
        environ.setenv("LISTEN_FDNAMES", "main")
        for _ in range(2):
            with pytest.raises(ConfigurationError, match=r"systemd:main.*socket") as caught:
                listen(Address(activation="main"), "--listen")
            assert caught.value.reason == "not_passed"
        os.fstat(number)


def test_a_process_that_was_started_by_a_socket_serves_it() -> None:
    """The whole of it with the real number of the first descriptor: 3."""
    script = (
        "import os, sys\n"
        "os.dup2(int(sys.argv[1]), 3)\n"
        "os.environ['LISTEN_PID'] = str(os.getpid())\n"
        "from pqfl_transport.net.address import Address\n"
        "from pqfl_transport.net.listening import listen\n"
        "server = listen(Address.parse('systemd:main', '--listen'), '--listen')\n"
        "server.setblocking(True)\n"
        "server.accept()[0].sendall(b'served')\n"
    )
    with socket.create_server(("127.0.0.1", 0)) as server:
        number = server.fileno()
        environment = {**os.environ, "LISTEN_FDS": "1", "LISTEN_FDNAMES": "main"}
        command = [sys.executable, "-c", script, str(number)]
        process = subprocess.Popen(command, pass_fds=[number], env=environment)
        try:
            with socket.create_connection(server.getsockname(), timeout=60) as client:
                assert client.makefile("rb").read() == b"served"
        finally:
            process.kill()
            process.wait()
