"""Whom an operator's rules let in: patterns that mean one thing, and rules that can match nothing refused at once."""

import base64
import re
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pqfl_transport.errors import ConfigurationError, PeerError
from pqfl_transport.pki.spiffe import SpiffeId
from pqfl_transport.tls.allowed import AllowedPeers


@dataclass(frozen=True, slots=True)
class Somebody:
    """A peer with names."""

    id: SpiffeId | None = None
    name: str = "somebody"
    dns: tuple[str, ...] = ()
    ip: tuple[str, ...] = ()
    cn: str | None = None
    ous: tuple[str, ...] = ()
    spki_sha256: bytes = bytes(32)


SITE = Somebody(
    id=SpiffeId.parse("spiffe://fed/site/bank-a"),
    name="spiffe://fed/site/bank-a",
    dns=("Bank-A.example", "a.b.example"),
    ip=("10.1.2.3", "2001:db8::1"),
    cn="bank-a",
    ous=("site", "Risk & Credit"),
    spki_sha256=b"p" * 32,
)
WITHOUT_ID = replace(SITE, id=None, name="bank-a.example")
PIN = "sha256/" + base64.b64encode(b"p" * 32).decode()


def lets_in(peer: Somebody, *, federation: str | None = "fed", **rules: Any) -> bool:
    try:
        AllowedPeers(**rules).check(peer, federation=federation)
    except PeerError:
        return False
    return True


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("spiffe://fed/site/bank-a", True),
        ("spiffe://fed/site/bank", False),
        ("spiffe://fed/site/bank-a2", False),
        ("spiffe://fed/gateway/bank-a", False),
        ("spiffe://fe/site/bank-a", False),
        ("spiffe://fed/site/*", True),
        ("spiffe://fed/*/bank-a", True),
        ("spiffe://fed/*/*", True),
        ("spiffe://fed/**", True),
        ("spiffe://fed/site/**", True),
        ("spiffe://fed/*/**", True),
        ("spiffe://fed/gateway/*", False),
        ("spiffe://fed/gateway/**", False),
        ("spiffe://fed/*/bank-b", False),
        ("spiffe://fed2/**", False),
        ("spiffe://fed2/*/*", False),
    ],
)
def test_uris_match_by_whole_segments(pattern: str, expected: bool) -> None:
    """A star is one whole segment, two at the end are the rest, and everything else is byte for byte."""
    assert lets_in(SITE, uris=(pattern,)) is expected
    assert not lets_in(WITHOUT_ID, uris=(pattern,))


@pytest.mark.parametrize(
    "pattern",
    [
        "", "*", "**", "spiffe://", "spiffe://fed", "spiffe://fed/", "spiffe://fed/*", "spiffe://fed/site",
        "spiffe://*/site/bank-a", "spiffe://**", "spiffe://f*/site/bank-a", "spiffe://fed/site/bank-*",
        "spiffe://fed/site/*a", "spiffe://fed/**/bank-a", "spiffe://fed/**/*", "spiffe://fed/**/**",
        "spiffe://fed/site/bank-a/**", "spiffe://fed/site/bank-a/", "spiffe://fed/*/*/*", "spiffe://fed/site//*",
        "spiffe://fed//**", "spiffe://fed//bank-a", "spiffe://Fed/**", "spiffe://fed/site/Bank-A",
        "spiffe://fed/sites/*", "spiffe://fed/site/***", "https://fed/site/bank-a", "SPIFFE://fed/**", "fed/site/*",
        "spiffe://fed/site/*\n", " spiffe://fed/site/*",
    ],
)  # fmt: skip
def test_a_uri_rule_that_can_match_nothing_is_refused(pattern: str) -> None:
    """What looks like a rule and lets nobody in is a typing error, and the sentence has the rule and the form."""
    with pytest.raises(ConfigurationError, match=r"allowed peer .*spiffe://FEDERATION/") as caught:
        AllowedPeers(uris=(pattern,))
    assert caught.value.reason == "bad_name"
    assert repr(pattern) in str(caught.value)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("bank-a.EXAMPLE", True),
        ("bank-a.example.", True),
        ("*.example", True),
        ("*.b.example", True),
        ("*.a.b.example", False),
        ("example", False),
        ("ank-a.example", False),
        ("k-a.example", False),
        ("bank-a.example.org", False),
    ],
)
def test_dns_names_match_whatever_their_case_and_a_star_is_one_label(pattern: str, expected: bool) -> None:
    """A star never covers two labels, none, or a part of one."""
    assert lets_in(SITE, dns=(pattern,)) is expected


def test_a_star_label_is_not_the_bare_domain_and_letters_outside_ascii_match_nothing() -> None:
    """The lower case of the Kelvin sign is a k: it is not the operator's."""
    assert not lets_in(replace(SITE, dns=("example", ".example")), dns=("*.example",))
    assert not lets_in(replace(SITE, dns=("ban\N{KELVIN SIGN}-a.example",)), dns=("bank-a.example",))


@pytest.mark.parametrize(
    "pattern", ["", ".", "*", "*.", "*.*.example", "a.*.example", "b*.example", "a..b", ".a", "a b", "bänk.example",
                "a" * 64 + ".example", "a." * 130 + "a", "a\n", "https://a.example", "a.example:443"],
)  # fmt: skip
def test_a_dns_rule_that_can_match_nothing_is_refused(pattern: str) -> None:
    """Only a whole first label may be a star, and the rest has to be a host name in ASCII."""
    with pytest.raises(ConfigurationError, match="allowed DNS name") as caught:
        AllowedPeers(dns=(pattern,))
    assert caught.value.reason == "bad_name"


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("10.1.2.3", True),
        ("10.0.0.0/8", True),
        ("2001:db8::/32", True),
        ("2001:DB8:0:0::1", True),
        ("10.1.2.4", False),
        ("10.1.3.0/24", False),
        ("::ffff:10.1.2.3", False),
        ("0.0.0.0/0", True),
    ],
)
def test_ip_addresses_match_by_value_and_by_network(rule: str, expected: bool) -> None:
    """Spelling does not matter; an IPv4 address is not its IPv6 form."""
    assert lets_in(SITE, ips=(rule,)) is expected


def test_a_peer_without_addresses_is_in_no_network() -> None:
    """Even the network of all addresses needs one."""
    assert not lets_in(replace(SITE, ip=()), ips=("0.0.0.0/0", "::/0"))


@pytest.mark.parametrize("rule", ["", "10.0.0.1/8", "10.0.0", "10.0.0.0/33", "example.org", "*"])
def test_an_ip_rule_that_is_none_is_refused(rule: str) -> None:
    """A network whose host bits are set was meant to be something else."""
    with pytest.raises(ConfigurationError, match="allowed IP address") as caught:
        AllowedPeers(ips=(rule,))
    assert caught.value.reason == "bad_name"


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("bank-a", True), ("*", True), ("bank-*", True), ("*-a", True), ("b*k*a", True), ("bank-a*", True),
        ("bank", False), ("Bank-a", False), ("b", False), ("*b", False), ("bank-a*a", False), ("*x*", False),
        ("bank.a", False), ("[b]ank-a", False), ("bank-?", False),
    ],
)  # fmt: skip
def test_common_names_match_exactly_or_by_stars(pattern: str, expected: bool) -> None:
    """A star is any run of characters, the empty one too, and nothing else is special."""
    assert lets_in(SITE, cns=(pattern,)) is expected
    assert not lets_in(replace(SITE, cn=None), cns=(pattern,))
    assert not lets_in(replace(SITE, cn=""), cns=(pattern,))


@given(st.text("ab*", min_size=1, max_size=8), st.text("ab", min_size=1, max_size=8))
def test_stars_mean_what_the_regular_expression_would(pattern: str, text: str) -> None:
    """The search from left to right finds every match there is."""
    expression = ".*".join(re.escape(part) for part in pattern.split("*"))
    assert lets_in(replace(SITE, cn=text), cns=(pattern,)) is (re.fullmatch(expression, text) is not None)


def test_a_long_name_cannot_make_many_stars_slow() -> None:
    """What a backtracking search would try for years is over before a reader blinks."""
    assert not lets_in(replace(SITE, cn="a" * 20_000), cns=("a*" * 40 + "b",))


def test_any_unit_of_a_subject_is_enough() -> None:
    """A certificate may have several; every one is looked at, with the same stars."""
    assert lets_in(SITE, ous=("Risk*",))
    assert lets_in(SITE, ous=("nothing", "site"))
    assert not lets_in(SITE, ous=("Risk",))
    assert not lets_in(replace(SITE, ous=()), ous=("*",))


@pytest.mark.parametrize("rules", [{"cns": ("",)}, {"ous": ("",)}])
def test_an_empty_text_rule_is_refused(rules: dict[str, Any]) -> None:
    """It would be an operator's variable that was not set."""
    with pytest.raises(ConfigurationError, match="matches nobody"):
        AllowedPeers(**rules)


def test_a_pin_is_of_one_key() -> None:
    """The key is what counts, whatever the names; another key is refused."""
    assert lets_in(SITE, spki_pins=(PIN,))
    assert lets_in(WITHOUT_ID, spki_pins=(PIN,))
    assert not lets_in(replace(SITE, spki_sha256=b"q" * 32), spki_pins=(PIN,))


@pytest.mark.parametrize(
    "pin",
    ["", PIN.removeprefix("sha256/"), PIN.replace("sha256", "sha512"), PIN[:-4], PIN + "AAAA", PIN.replace("c", "-"),
     "sha256/" + "p" * 64, "sha256/é", " " + PIN, PIN + "\n"],
)  # fmt: skip
def test_a_pin_that_is_none_is_refused(pin: str) -> None:
    """Hexadecimal digits, another hash and a digest cut short are errors with the form that is expected."""
    with pytest.raises(ConfigurationError, match="RFC 7469") as caught:
        AllowedPeers(spki_pins=(pin,))
    assert caught.value.reason == "bad_pin"


def test_everybody_means_everybody_of_this_federation() -> None:
    """A certificate with the ID of another one is not let in, nor anybody with an ID where the own is not known."""
    assert lets_in(SITE, any_of_federation=True)
    assert not lets_in(SITE, federation="other", any_of_federation=True)
    assert not lets_in(SITE, federation=None, any_of_federation=True)


def test_everybody_includes_classical_peers_without_an_id() -> None:
    """They are there only where the operator gave a trust store for them, and that vouched for them."""
    assert lets_in(WITHOUT_ID, any_of_federation=True)


def test_no_rule_lets_nobody_in_and_one_of_several_is_enough() -> None:
    """Rules add up; that there are none can be asked."""
    assert not AllowedPeers()
    assert not lets_in(SITE)
    assert AllowedPeers(spki_pins=(PIN,))
    assert AllowedPeers(any_of_federation=True)
    assert lets_in(SITE, uris=("spiffe://fed/site/other",), cns=("other",), ips=("10.0.0.0/8",))
    # A rule beside "everybody" still lets in who is no one of the federation.
    assert lets_in(SITE, federation="other", any_of_federation=True, cns=("bank-a",))


def test_rules_are_compared_by_what_was_written() -> None:
    """A reload that reads the same rules finds the same rules."""
    assert AllowedPeers(uris=("spiffe://fed/**",)) == AllowedPeers(uris=("spiffe://fed/**",))
    assert AllowedPeers(uris=("spiffe://fed/**",)) != AllowedPeers(uris=("spiffe://fed/*/*",))


def test_a_refusal_names_the_peer_and_has_its_reason() -> None:
    """The log line of a refusal is enough to write the rule that was missing."""
    with pytest.raises(PeerError, match="spiffe://fed/site/bank-a is not on the list") as caught:
        AllowedPeers(cns=("other",)).check(SITE, federation="fed")
    assert caught.value.reason == "not_allowed"
