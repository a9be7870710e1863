"""Rules: what an envelope has to name, what it may name, and what several readers can share."""

from dataclasses import replace

import pytest

from pqfl_transport.errors import ConfigurationError, MessageError, PolicyError
from pqfl_transport.extrakeys.rules import ANYBODY, Mode, Rule, Rules, judge
from tests.support.envelopes import make_keys, split

HEADER = split(make_keys().seal())[0].header
LINK = "qkd:north-south:bc490419-7d60-487f-adc1-4ddcc177c139"
ANOTHER = "qkd:north-east:bc490419-7d60-487f-adc1-4ddcc177c139"
SPRING = "psk:spring:" + "0" * 32
REQUIRE = Rule(Mode.REQUIRE, ("qkd:north-south", "psk:spring"))
PREFER = Rule(Mode.PREFER, ("qkd:north-south",))
GROUP = Rule(Mode.REQUIRE, ("psk:spring",))


def test_rules_are_found_by_peer_and_direction() -> None:
    """A peer's own rule, else the one for anybody, else nothing."""
    rules = Rules({("a", "update"): PREFER, (ANYBODY, "update"): GROUP})
    assert rules.find("a", "update") == PREFER
    assert rules.find("b", "update") == GROUP
    assert rules.find("a", "model") == Rule(Mode.OFF)


def test_what_several_readers_share() -> None:
    """One rule for all of them, and no key of a link, which has two ends."""
    rules = Rules({("a", "model"): GROUP, ("b", "model"): GROUP, ("c", "model"): PREFER, ("d", "model"): PREFER})
    assert rules.common(["a", "b"], "model") == GROUP
    assert rules.common(["c"], "model") == PREFER
    assert rules.common([], "model") == Rule()
    for peers, reason in ((["a", "c"], "no_common_key"), (["a", "e"], "no_common_key"), (["c", "d"], "point_to_point")):
        with pytest.raises(ConfigurationError) as caught:
            rules.common(peers, "model")
        assert caught.value.reason == reason


def test_what_a_rule_accepts() -> None:
    """All that it requires; what it prefers, or nothing, which is said."""
    ids, missing = judge(REQUIRE, replace(HEADER, extra_key_ids=(SPRING, LINK)))
    assert ([str(key_id) for key_id in ids], missing) == ([SPRING, LINK], ())
    assert judge(PREFER, HEADER) == ((), ("qkd:north-south",))
    assert judge(Rule(), HEADER) == ((), ())


@pytest.mark.parametrize("ids", [(), (LINK,), (SPRING,)])
def test_a_required_key_that_is_not_named_is_refused(ids: tuple[str, ...]) -> None:
    """None at all, or one of two."""
    with pytest.raises(PolicyError) as caught:
        judge(REQUIRE, replace(HEADER, extra_key_ids=ids))
    assert caught.value.reason == "no_extra_key"


@pytest.mark.parametrize("rule", [REQUIRE, PREFER, Rule()])
@pytest.mark.parametrize(
    "ids", [(ANOTHER,), ("psk:autumn:" + "0" * 32,), ("nonsense",), (LINK, LINK.replace("bc", "cc"))]
)
def test_ids_of_other_sources_are_refused_in_every_mode(rule: Rule, ids: tuple[str, ...]) -> None:
    """Another link's, another secret's, no id at all, two of one link: nobody chooses for us what is mixed in."""
    with pytest.raises(MessageError) as caught:
        judge(rule, replace(HEADER, extra_key_ids=ids))
    assert caught.value.reason == "extra_key"
