"""Addresses: one grammar, read back as written."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pqfl_transport.errors import ConfigurationError
from pqfl_transport.net.address import Address


@pytest.mark.parametrize(
    ("text", "local"),
    [
        ("127.0.0.1:80", True),
        ("[::1]:8443", True),
        ("unix:/run/agg.sock", True),
        ("0.0.0.0:80", False),
        ("[::]:80", False),
        ("10.1.2.3:0", False),
        ("localhost:7", True),
        ("hub.example.org:443", False),
        ("[fe80::1%eth0]:443", False),
        ("systemd:pqfl.socket", False),
        ("127.0.0.1:65535", True),
    ],
)
def test_addresses(text: str, local: bool) -> None:
    """Addresses read back as written and know whether only this machine reaches them."""
    address = Address.parse(text, "listen")
    assert str(address) == text
    assert address.is_local is local


def test_what_an_address_consists_of() -> None:
    """Host and port, or a path, or the name of a socket that the service manager opened."""
    assert Address.parse("[fe80::1%eth0]:443", "--listen") == Address(host="fe80::1%eth0", port=443)
    assert Address.parse("unix:/run/a:1", "--listen") == Address(path="/run/a:1")
    assert Address.parse("systemd:one", "--listen") == Address(activation="one")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "unix:",
        "unix:/a\0b",
        ":80",
        "ho st:80",
        "[host]:80",
        "::1:80",
        "[127.0.0.1]:80",
        "127.0.0.1:65536",
        "127.0.0.1:-1",
        "127.0.0.1:",
        "1.2.3.4:²",
        "1.2.3.4:" + "9" * 5000,
        f"{'a' * 256}:80",
        "[fe80::1%]:80",
        "[fe80::1%eth0 ]:80",
        "[fe80::1%a\r\nb]:80",
        "[fe80::1%sixteenletters16]:80",
        "[fe80::1%a%b]:80",
        "systemd:",
        "systemd:a:b",
        "systemd:a\nb",
        "systemd:é",
        f"systemd:{'a' * 256}",
    ],
)
def test_bad_addresses(text: str) -> None:
    """What is not an address is refused, and the flag is named."""
    with pytest.raises(ConfigurationError, match=r"^listen ") as caught:
        Address.parse(text, "listen")
    assert caught.value.reason == "bad_address"


@pytest.mark.parametrize("text", ["hub.example.org:443", "[::1]:1", "unix:/run/agg.sock"])
def test_a_target_is_something_to_connect_to(text: str) -> None:
    """Hosts with a port and paths are targets."""
    assert Address.parse_target(text, "--target") == Address.parse(text, "--target")


@pytest.mark.parametrize("text", ["hub.example.org:0", "systemd:agg", "hub.example.org"])
def test_what_can_only_be_listened_on_is_no_target(text: str) -> None:
    """Port 0 and the service manager's sockets are refused when the configuration is read."""
    with pytest.raises(ConfigurationError, match="--target") as caught:
        Address.parse_target(text, "--target")
    assert caught.value.reason == "bad_address"


@given(text=st.one_of(st.text(max_size=30), st.from_regex(r"(unix:|systemd:|\[[0-9a-f:%]*\]:|[a-z.]+:)[ -~]{0,8}")))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    """No text makes the parser fail in another way than by its own error."""
    try:
        address = Address.parse(text, "listen")
    except ConfigurationError:
        return
    assert Address.parse(str(address), "again") == address
