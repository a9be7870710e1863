"""Profiles: every leaf has one use, and no two uses share one."""

import pytest

from pqfl_transport.errors import ConfigurationError
from pqfl_transport.pki.profiles import PROFILES, Usage, find_profile
from pqfl_transport.pki.spiffe import Role


def test_usages_are_the_registered_identifiers() -> None:
    """Server and client authentication are RFC 5280's, document signing is RFC 9336's."""
    assert {usage: usage.oid.dotted_string for usage in Usage} == {
        Usage.SERVER: "1.3.6.1.5.5.7.3.1",
        Usage.CLIENT: "1.3.6.1.5.5.7.3.2",
        Usage.SIGNING: "1.3.6.1.5.5.7.3.36",
    }


def test_a_site_dials_and_all_others_listen() -> None:
    """A site's TLS certificate serves nobody, a gateway's and an aggregator's dials nobody, and none of them signs."""
    assert {name: profile.tls_usage for name, profile in PROFILES.items()} == {
        "gateway": Usage.SERVER,
        "site": Usage.CLIENT,
        "aggregator": Usage.SERVER,
    }


def test_a_gateway_has_no_content_keys() -> None:
    """Who relays content can neither sign nor open it."""
    assert {name for name, profile in PROFILES.items() if profile.has_content_keys} == {"site", "aggregator"}


@pytest.mark.parametrize("name", list(PROFILES))
def test_a_profile_is_found_by_its_name_and_gives_the_role_of_that_name(name: str) -> None:
    """The word of the command line, the role in the SPIFFE ID and the row agree."""
    assert find_profile(name).role is Role(name)
    assert find_profile(name).leaf_days == 90


def test_an_unknown_profile_is_refused_with_the_known_ones() -> None:
    """A typo is answered with the words that exist."""
    with pytest.raises(ConfigurationError, match="'hospital'; profiles are gateway, site, aggregator") as caught:
        find_profile("hospital")
    assert caught.value.reason == "unknown_profile"
