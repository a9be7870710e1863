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
    ],
)
def test_addresses(text: str, local: bool) -> None:
    """Addresses read back as written and know whether only this machine reaches them."""
    address = Address.parse(text, "listen")
    assert str(address) == text
    assert address.is_local is local


@pytest.mark.parametrize(
    "text", ["", "unix:", ":80", "ho st:80", "[host]:80", "::1:80", "[127.0.0.1]:80", "127.0.0.1:65536", "1.2.3.4:²"]
)
def test_bad_addresses(text: str) -> None:
    """What is not an address is refused."""
    with pytest.raises(ConfigurationError, match="listen"):
        Address.parse(text, "listen")


@given(text=st.text(max_size=30))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    """No text makes the parser fail in another way than by its own error."""
    try:
        address = Address.parse(text, "listen")
    except ConfigurationError:
        return
    assert Address.parse(str(address), "again") == address
