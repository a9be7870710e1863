"""What an advisory leaves of a configuration: at which moment, and where it leaves nothing."""

import time
from dataclasses import replace

import pytest

from gateway.advising import advised_tls, advisory_facts, at_moment, next_change, policy_events
from gateway.config import ListenerConfig, ServiceConfig
from pqfl_transport.errors import ConfigurationError, PolicyError
from pqfl_transport.policy import Advised, Policy, advise, for_level
from pqfl_transport.tls.config import ClassicalSide, TlsConfig
from tests.support.advisories import advisory
from tests.support.listeners import listener, tls
from tests.support.pki import Federation, make_federation

HIGH = for_level("high")
FALLEN = "SecP256r1MLKEM768"


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return make_federation(tmp_path_factory.mktemp("federation"), sites=())


def under(federation: Federation, advised: Advised) -> ListenerConfig:
    return listener(federation, tls=tls(federation, policy=advised.policy), advised=advised)


def service(federation: Federation, *algorithms: str, not_before: float = 0, seconds: float = 3600) -> ServiceConfig:
    found = advise(HIGH, advisory(algorithms, not_before=not_before, seconds=seconds), time.time())
    return ServiceConfig((under(federation, found),))


def test_its_own_certificate_may_be_what_fell(federation: Federation) -> None:
    """Only the advisory is the obstacle, so it is a refusal by policy and says what is needed."""
    fallen = advise(HIGH, advisory(["ML-DSA-87"]), time.time())

    def make(policy: Policy, classical: ClassicalSide | None) -> TlsConfig:
        return tls(federation, policy=policy, classical=classical)

    with pytest.raises(PolicyError, match=r"withdraws what this end itself uses.*keys and certificates") as caught:
        advised_tls(make, fallen, None)
    assert caught.value.reason == "withdrawn"
    assert "ML-DSA-87 is broken" in str(caught.value)


@pytest.mark.parametrize("algorithms", [(), (FALLEN,)])
def test_what_is_wrong_anyway_is_no_effect_of_the_advisory(algorithms: tuple[str, ...]) -> None:
    """A broken file stays the operator's to mend, and reloads go on keeping what works."""

    def make(_policy: Policy, _classical: ClassicalSide | None) -> TlsConfig:
        raise ConfigurationError("tls.pem: no such file", reason="missing")

    with pytest.raises(ConfigurationError, match=r"tls\.pem"):
        advised_tls(make, advise(HIGH, advisory(algorithms), time.time()), None)


def test_time_passes_without_any_file(federation: Federation) -> None:
    """A withdrawal that was announced takes effect on its day; what else the configuration says stays."""
    soon = int(time.time()) + 50
    before = service(federation, FALLEN, not_before=soon)
    assert next_change(before, time.time()) == soon
    assert at_moment(before, soon - 1) == before
    after = at_moment(before, soon)
    assert after.listeners[0].tls.policy.groups == ("X25519MLKEM768",)
    assert (
        replace(after.listeners[0], tls=before.listeners[0].tls, advised=before.listeners[0].advised)
        == (before.listeners[0])
    )
    assert next_change(after, soon) == before.listeners[0].advised.advisory.expires_at  # type: ignore[union-attr]


def test_without_an_advisory_nothing_happens(federation: Federation) -> None:
    """No moment, no event, no fact."""
    config = ServiceConfig((listener(federation),))
    assert at_moment(config, time.time() + 1e9) == config
    assert next_change(config, 0) is None
    assert advisory_facts(config) == []
    assert list(policy_events(None, config)) == list(policy_events(config, config)) == []


def test_every_change_is_told_with_old_new_and_why(federation: Federation) -> None:
    """At the start, when an advisory comes, when it goes stale, and when it is taken away."""
    plain, advised = ServiceConfig((listener(federation),)), service(federation, FALLEN)
    for before in (None, plain):
        ((name, facts),) = policy_events(before, advised)
        assert (name, facts["old"], facts["new"]) == ("main", "high-2026", "high-2026+advisory-1")
        assert facts["withdrawn"] == f"groups: {FALLEN}"
        assert "a paper" in facts["why"]
    ((_, facts),) = policy_events(advised, at_moment(advised, time.time() + 7200))
    assert facts["stale"]
    assert "past its end" in facts["why"]
    ((_, facts),) = policy_events(advised, plain)
    assert (facts["old"], facts["new"]) == ("high-2026+advisory-1", "high-2026")
    assert "no advisory" in facts["why"]
    assert advisory_facts(advised)[0]["number"] == 1


def test_what_a_place_lacks_is_told_too(federation: Federation) -> None:
    """At the start and at a reload, with the reason for the order, beside an advisory where there is one."""
    plain = ServiceConfig((listener(federation),))
    slow = ServiceConfig((replace(plain.listeners[0], preferences=("a slow link", "no AES")),))
    for before in (None, plain):
        ((name, facts),) = policy_events(before, slow)
        assert (name, facts["why"]) == ("main", "a slow link; no AES")
    assert list(policy_events(slow, slow)) == []
    advised = service(federation, FALLEN)
    both = ServiceConfig((replace(advised.listeners[0], preferences=("a slow link",)),))
    ((_, facts),) = policy_events(advised, both)
    assert facts["preferred"] == "a slow link"


def test_a_classical_certificate_that_fell_is_not_shown_any_more(federation: Federation) -> None:
    """Peers with post-quantum certificates are served on; the classical half has to do without it."""
    shown: list[tuple[str, bool]] = []

    def make(policy: Policy, classical: ClassicalSide | None) -> TlsConfig:
        shown.append((policy.name, classical is not None and classical.identity is not None))
        if policy.name != "high-2026" and classical is not None and classical.identity is not None:
            raise ConfigurationError("old.pem: signed with ECDSA-P256", reason="bad_sigalg")
        return tls(federation, policy=policy)

    side = ClassicalSide((), tls(federation).identity)
    advised_tls(make, advise(HIGH, advisory([FALLEN]), time.time()), side)
    assert shown == [("high-2026+advisory-1", True), ("high-2026", True), ("high-2026+advisory-1", False)]
