"""Profiles: every leaf has one use, and no two uses share one."""

from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pqfl_transport.errors import ConfigurationError
from pqfl_transport.pki.profiles import PROFILES, Usage, find_profile, parse_profiles
from pqfl_transport.pki.spiffe import Role


def test_usages_are_the_registered_identifiers() -> None:
    """Server and client authentication are RFC 5280's, document signing is RFC 9336's."""
    assert {usage: usage.oid.dotted_string for usage in Usage} == {
        Usage.SERVER: "1.3.6.1.5.5.7.3.1",
        Usage.CLIENT: "1.3.6.1.5.5.7.3.2",
        Usage.SIGNING: "1.3.6.1.5.5.7.3.36",
    }


def test_sites_and_operators_dial_and_the_others_listen() -> None:
    """A client's certificate serves nobody, a gateway's and an aggregator's dials nobody, and none of them signs."""
    assert {name: profile.tls_usage for name, profile in PROFILES.items()} == {
        "gateway": Usage.SERVER,
        "site": Usage.CLIENT,
        "aggregator": Usage.SERVER,
        "operator": Usage.CLIENT,
    }


def test_a_gateway_has_no_content_keys() -> None:
    """Who relays content can neither sign nor open it."""
    assert {name for name, profile in PROFILES.items() if profile.has_content_keys} == {"site", "aggregator"}


@pytest.mark.parametrize("name", list(PROFILES))
def test_a_profile_is_found_by_its_name_and_gives_the_role_of_that_name(name: str) -> None:
    """The word of the command line, the role in the SPIFFE ID and the row agree."""
    assert find_profile(name).role is Role(name)
    assert find_profile(name).leaf_days == (30 if name == "operator" else 90)


def test_an_unknown_profile_is_refused_with_the_known_ones() -> None:
    """A typo is answered with the words that exist."""
    with pytest.raises(ConfigurationError, match="'hospital'; profiles are gateway, site, aggregator") as caught:
        find_profile("hospital")
    assert caught.value.reason == "unknown_profile"


SHIPPED = (Path(__file__).resolve().parents[3] / "certs" / "profiles.toml").read_text()


def test_the_file_that_is_shipped_says_what_the_program_says() -> None:
    """Two places of one truth: a difference is a mistake."""
    assert parse_profiles(SHIPPED.encode(), "here") == PROFILES


def test_a_federation_chooses_validity_and_hosts() -> None:
    """Certificates for a week, and hosts in its own domain and network only."""
    text = SHIPPED.replace("days = 90", "days = 7").replace(
        'hosts = "any"', 'hosts = ["fl.example.org", "192.0.2.0/24"]'
    )
    row = parse_profiles(text.encode(), "here")["gateway"]
    assert row.leaf_days == 7
    for host in ("fl.example.org", "A.FL.example.org", "*.fl.example.org", ip_address("192.0.2.7")):
        row.require_host(host)
    for host in ("xfl.example.org", "example.org", "192.0.2.7", ip_address("192.0.3.7"), ip_address("::1")):
        with pytest.raises(ConfigurationError) as caught:
            row.require_host(host)
        assert caught.value.reason == "bad_host"


def test_a_site_names_no_hosts_and_a_gateway_any() -> None:
    """Nobody connects to a site."""
    PROFILES["gateway"].require_host("anything.example")
    with pytest.raises(ConfigurationError, match="a site may name no hosts"):
        PROFILES["site"].require_host("anything.example")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda text: text.replace('usage = "client"', 'usage = "server"', 1), r"\[site\]: usage is 'server'"),
        (lambda text: text.replace('role = "site"', 'role = "gateway"'), r"\[site\]: role"),
        (lambda text: text.replace("content_keys = false", "content_keys = 0", 1), r"\[gateway\]: content_keys is 0"),
        (lambda text: text.replace("content_keys = true", "content_keys = false", 1), r"\[site\]: content_keys"),
        (lambda text: text.replace("days = 90", "days = 0", 1), r"\[gateway\]: days"),
        (lambda text: text.replace("days = 90", "days = 826", 1), r"\[gateway\]: days"),
        (lambda text: text.replace("days = 90", "days = true", 1), r"\[gateway\]: days"),
        (lambda text: text.replace("days = 90\n", "", 1), r"\[gateway\]: expected exactly the keys"),
        (lambda text: text.replace('hosts = "any"', 'hosts = "all"', 1), r"\[gateway\]: hosts"),
        (lambda text: text.replace('hosts = "any"', "hosts = []", 1), r"\[gateway\]: hosts"),
        (lambda text: text.replace('hosts = "any"', 'hosts = ["192.0.2.7/8"]', 1), r"neither a domain"),
        (lambda text: text.replace('hosts = "any"', 'hosts = ["*.example"]', 1), r"neither a domain"),
        (lambda text: text.replace("[operator]", "[visitor]"), "expected exactly the tables"),
        (lambda text: text + "[", "not TOML"),
        (lambda text: text + "#" * 65536, "more than"),
    ],
)
def test_a_profile_that_others_cannot_rely_on_is_refused(change: Callable[[str], str], complaint: str) -> None:
    """File, table and key are named; role, usage and keys are not a federation's choice."""
    with pytest.raises(
        ConfigurationError, match=f"^here: {complaint}" if complaint[0] == "\\" else complaint
    ) as caught:
        parse_profiles(change(SHIPPED).encode(), "here")
    assert caught.value.reason == "bad_profiles"


@given(data=st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_junk_is_no_profiles(data: bytes) -> None:
    """Any other bytes are one error that names the file."""
    with pytest.raises(ConfigurationError, match="here"):
        parse_profiles(data, "here")
