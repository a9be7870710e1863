"""What operators write, on the command line and in a file, becomes values of the right type or one clear sentence."""

from pathlib import Path
from typing import Any

import pytest

from gateway.options import OPTIONS, Takes, collect, options_of, parse
from pqfl_transport.errors import ConfigurationError
from pqfl_transport.tls.config import Role

ROWS = {option.name: option for option in OPTIONS}


def test_names_are_those_of_one_grammar() -> None:
    """No name twice, and every row has its sentence or its default."""
    assert len(ROWS) == len(OPTIONS)
    assert all(option.help and option.name == option.name.lower() for option in OPTIONS)


def test_each_command_has_its_own_options() -> None:
    """A server allows, a client verifies, both listen."""
    names = {role: {option.name for option in options_of(role)} for role in Role}
    assert "allow-uri" in names[Role.SERVER] - names[Role.CLIENT]
    assert {"verify-uri", "proxy"} <= names[Role.CLIENT] - names[Role.SERVER]
    assert "listen" in names[Role.SERVER] & names[Role.CLIENT]


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("connect-timeout", "10", 10.0), ("connect-timeout", "1.5", 1.5), ("connect-timeout", "250ms", 0.25),
        ("idle-timeout", "5m", 300.0), ("timed-reload", "2h", 7200.0), ("resume", "1d", 86400.0),
        ("workers", "4", 4), ("bytes-per-second-per-peer", "4096", 4096),
        ("bytes-per-second-per-peer", "10M", 10 << 20),
        ("cert", "a/b.pem", Path("a/b.pem")), ("mode", "http", "http"), ("connect-timeout", 3, 3.0),
    ],
)  # fmt: skip
def test_values_that_are_understood(name: str, text: object, value: object) -> None:
    """Durations with units, sizes with letters, numbers as a file writes them."""
    assert parse(ROWS[name], text, name) == value


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("connect-timeout", "soon"), ("connect-timeout", "-1"), ("connect-timeout", "1 m"), ("workers", "2.5"),
        ("workers", "٣"), ("bytes-per-second-per-peer", "10T"), ("mode", "udp"), ("quiet", "yes"), ("listen", ["a"]),
        ("workers", True),
    ],
)  # fmt: skip
def test_values_that_are_not(name: str, text: object) -> None:
    """The sentence names the option and what was expected."""
    with pytest.raises(ConfigurationError, match=rf"{name}.*expected"):
        parse(ROWS[name], text, name)


def write(folder: Path, text: str) -> Path:
    path = folder / "pqfl.toml"
    path.write_text(text)
    return path


def test_flags_go_over_the_file(tmp_path: Path) -> None:
    """What the command line says replaces what the file says; the rest stays."""
    file = write(tmp_path, 'listen = "127.0.0.1:1"\ntarget = "127.0.0.1:2"\nworkers = 2\nallow-all = true\n')
    told = collect(Role.SERVER, {"listen": "127.0.0.1:9"}, file)
    ((name, role, values),) = told.listeners
    assert (name, role) == ("main", Role.SERVER)
    assert values == {"listen": "127.0.0.1:9", "target": ("127.0.0.1:2",), "allow-all": True}
    assert told.service == {"workers": 2}


def test_listeners_share_what_stands_at_the_top(tmp_path: Path) -> None:
    """Each table adds to it or overrides it, a role of its own included, and takes only what its role has."""
    file = write(
        tmp_path,
        'cacert = "ca.pem"\nallow-all = true\n'
        '[[listener]]\nname = "in"\nlisten = "0.0.0.0:1"\n'
        '[[listener]]\nname = "out"\nrole = "client"\nlisten = "127.0.0.1:3"\ncacert = "other.pem"\n',
    )
    told = collect(Role.SERVER, {}, file)
    assert [(name, role) for name, role, _ in told.listeners] == [("in", Role.SERVER), ("out", Role.CLIENT)]
    first, second = (values for _, _, values in told.listeners)
    assert first == {"cacert": Path("ca.pem"), "allow-all": True, "listen": "0.0.0.0:1"}
    assert second == {"cacert": Path("other.pem"), "listen": "127.0.0.1:3"}


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("lissten = 1", "lissten: no such option"),
        ("listen = [", "pqfl.toml"),
        ('verify-uri = "spiffe://a/gateway/b"', "option of pqfl client"),
        ("listener = 3", "[[listener]]"),
        ('[[listener]]\nrole = "both"', "role is server or client"),
        ("[[listener]]\nworkers = 3", "workers stands at the top"),
        ('[[listener]]\nname = "x"\nallow-all = 1', "listener x: allow-all: expected true or false"),
    ],
)
def test_mistakes_in_a_file_name_file_and_key(tmp_path: Path, text: str, named: str) -> None:
    """One sentence that says where to look."""
    file = write(tmp_path, text)
    with pytest.raises(ConfigurationError) as caught:
        collect(Role.SERVER, {}, file)
    assert named in str(caught.value)
    assert str(file) in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    """Said with its path."""
    with pytest.raises(ConfigurationError, match=r"nowhere\.toml"):
        collect(Role.SERVER, {}, tmp_path / "nowhere.toml")


def test_switches_are_rows_too() -> None:
    """A flag without a value is true or absent."""
    value: Any = parse(ROWS["allow-all"], True, "allow-all")
    assert (ROWS["allow-all"].takes, value) == (Takes.SWITCH, True)
