"""Rows of the channel: groups and suites have the code points that peers see."""

from pqfl_transport.algorithms import Kind, find


def test_hybrid_groups_have_their_registered_code_points() -> None:
    """RFC 10024 gives them; a probe shows them."""
    points = {name: find(name, Kind.TLS_GROUP).code_point for name in ("X25519MLKEM768", "SecP256r1MLKEM768")}
    assert points == {"X25519MLKEM768": 0x11EC, "SecP256r1MLKEM768": 0x11EB}
    assert find("SecP384r1MLKEM1024", Kind.TLS_GROUP).code_point == 0x11ED


def test_key_wrap_is_a_row() -> None:
    """Experimental suites name the cipher that wraps their keys."""
    assert find("AES-256-KWP", Kind.AEAD).source.startswith("RFC 5649")
