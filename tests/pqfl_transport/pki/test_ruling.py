"""The policy in force: from a name, a file and an advisory, and nothing forgets what it has seen."""

import json
import time
from pathlib import Path

import pytest

from pqfl_transport.errors import ConfigurationError, MessageError, PolicyError
from pqfl_transport.pki import keystore
from pqfl_transport.pki.advisory import Seen
from pqfl_transport.pki.memory import beside
from pqfl_transport.pki.ruling import Ruling, load_advisory, load_policy
from pqfl_transport.pki.trust import Trust
from pqfl_transport.policy import for_level
from tests.pqfl_transport.policy.test_files import GOOD
from tests.support.advisories import publish
from tests.support.pki import Federation, make_federation

HIGH = for_level("high")
FALLEN = "SecP256r1MLKEM768"


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return make_federation(tmp_path_factory.mktemp("federation"), sites=())


class Clock:
    ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


def ruling(federation: Federation, path: Path, clock: Clock | None = None) -> Ruling:
    return Ruling(HIGH, Trust.load(federation.ca_pem), "fed", path, clock=clock or Clock())


def test_a_policy_is_a_name_or_a_file(tmp_path: Path) -> None:
    """A word with a slash or the ending of a file is a file; a relative one starts where it is told."""
    (tmp_path / "own.toml").write_text(GOOD)
    assert load_policy("cnsa2-2026").name == "cnsa2-2026"
    assert load_policy(str(tmp_path / "own.toml")).name == "cardio-2027"
    assert load_policy("own.toml", folder=tmp_path).name == "cardio-2027"
    for word, named in (("own", "unknown policy"), ("./own", "own: no such file"), ("more.toml", "more.toml: no such")):
        with pytest.raises(ConfigurationError, match=named):
            load_policy(word)


def test_an_advisory_tightens_and_a_newer_one_replaces_it(federation: Federation, tmp_path: Path) -> None:
    """Read again, the file says what counts from then on."""
    path = publish(federation, tmp_path / "a.json", FALLEN)
    rules = ruling(federation, path)
    assert rules.policy == HIGH
    assert rules.read().groups == ("X25519MLKEM768",)
    publish(federation, path, FALLEN, "ChaCha20-Poly1305", number=2)
    assert rules.read().tls_suites == ("TLS_AES_256_GCM_SHA384",)
    assert rules.policy.name == "high-2026+advisory-2"


def test_an_earlier_one_changes_nothing_even_after_a_restart(federation: Federation, tmp_path: Path) -> None:
    """The number is kept in a file, by whoever reads it; without that file this process remembers itself."""
    path = publish(federation, tmp_path / "a.json", FALLEN, number=5)
    rules = ruling(federation, path)
    rules.read()
    publish(federation, path, number=4)
    for reader in (rules, ruling(federation, path)):
        with pytest.raises(MessageError, match=r"a\.json: .*older than number 5") as caught:
            reader.read()
        assert caught.value.reason == "stale_advisory"
    assert rules.policy.groups == ("X25519MLKEM768",)
    beside(path).unlink()
    with pytest.raises(MessageError):
        rules.read()


def test_the_higher_of_both_memories_counts(federation: Federation, tmp_path: Path) -> None:
    """A memory that was put back does not lower what this process has seen, nor the other way round."""
    path = publish(federation, tmp_path / "a.json", number=5)
    roots = keystore.root_keys(keystore.load_anchors(federation.ca_pem))
    for own in (None, Seen(3, bytes(32)), Seen(9, bytes(32))):

        def read(own: Seen | None = own) -> int:
            return load_advisory(
                path, roots, federation="fed", now=time.time(), seen=own, seen_path=tmp_path / "kept"
            ).number  # fmt: skip

        if own is not None and own.number == 9:
            with pytest.raises(MessageError, match="number 9"):
                read()
        else:
            assert read() == 5
    assert json.loads((tmp_path / "kept").read_text())["number"] == 5


def test_one_that_leaves_nothing_is_seen_all_the_same(federation: Federation, tmp_path: Path) -> None:
    """Bringing the former file back does not bring the algorithm back; a higher number does what it says."""
    path = publish(federation, tmp_path / "a.json", number=1)
    rules = ruling(federation, path)
    rules.read()
    former = path.read_bytes()
    publish(federation, path, "ML-DSA-65", number=2)
    for _ in range(2):
        with pytest.raises(PolicyError) as caught:
            rules.read()
        assert caught.value.reason == "withdrawn"
    path.write_bytes(former)
    with pytest.raises(MessageError):
        rules.read()
    publish(federation, path, FALLEN, number=3)
    assert rules.read().groups == ("X25519MLKEM768",)


def test_an_advisory_that_ends_goes_on_counting_for_who_has_it(federation: Federation, tmp_path: Path) -> None:
    """Also over a restart, and it is said to be stale; who never had it has to get the current one."""
    path = publish(federation, tmp_path / "a.json", FALLEN, seconds=100)
    ruling(federation, path).read()
    late = Clock()
    late.ahead = 200
    restarted = ruling(federation, path, late)
    assert restarted.read().groups == ("X25519MLKEM768",)
    assert restarted.advised is not None
    assert restarted.advised.stale
    beside(path).unlink()
    with pytest.raises(MessageError) as caught:
        ruling(federation, path, late).read()
    assert caught.value.reason == "expired"


def test_it_says_when_it_will_change(federation: Federation, tmp_path: Path) -> None:
    """So that whoever runs does not have to look all the time."""
    path = publish(federation, tmp_path / "a.json", FALLEN, not_before=time.time() + 50, seconds=100)
    clock = Clock()
    rules = ruling(federation, path, clock)
    assert rules.seconds_to_change() is None
    assert rules.read() == HIGH
    assert 45 < (rules.seconds_to_change() or 0) <= 50
    clock.ahead = 60
    assert rules.read() != HIGH
    assert 35 < (rules.seconds_to_change() or 0) <= 40


def test_without_an_advisory_the_policy_is_the_chosen_one(federation: Federation, tmp_path: Path) -> None:
    """Nothing is read and nothing is written."""
    rules = Ruling(HIGH, Trust.load(federation.ca_pem), "fed")
    assert (rules.read(), rules.advised, rules.seconds_to_change()) == (HIGH, None, None)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"pqfl": "advisory-seen/v1", "number": 1, "sha256": "00"}',
        '{"pqfl": "x", "number": 1, "sha256": ""}',
    ],
)
def test_a_memory_that_is_none_is_an_error(federation: Federation, tmp_path: Path, text: str) -> None:
    """A damaged file must not count as an empty one: that would let an earlier advisory in."""
    path = publish(federation, tmp_path / "a.json")
    beside(path).write_text(text)
    with pytest.raises(ConfigurationError, match=r"a\.json\.seen") as caught:
        ruling(federation, path).read()
    assert caught.value.reason == "malformed"


def test_what_cannot_be_remembered_is_not_taken(federation: Federation, tmp_path: Path) -> None:
    """The sentence names the file that cannot be written."""
    rules = ruling(federation, publish(federation, tmp_path / "a.json"))
    rules.seen_path = tmp_path / "nowhere" / "seen"
    with pytest.raises(ConfigurationError, match="nowhere/seen: cannot remember") as caught:
        rules.read()
    assert caught.value.reason == "not_writable"
