"""Keys of one party: what is sealed with, what is opened with, and that each id serves one envelope."""

import threading
import uuid
from pathlib import Path
from typing import Any

import pytest

from pqfl_transport.content.envelope import Prologue
from pqfl_transport.content.keysource import ExtraKey
from pqfl_transport.content.psk import PreSharedKey
from pqfl_transport.errors import (
    ConfigurationError,
    MessageError,
    PeerError,
    PolicyError,
    PqflError,
    TransportError,
)
from pqfl_transport.extrakeys.record import UsedKeys
from pqfl_transport.extrakeys.ring import HOLD_SECONDS, MAX_HELD, KeyRing, load_ring
from pqfl_transport.extrakeys.rules import Mode, Rule, Rules
from pqfl_transport.pki import keystore
from tests.support.envelopes import SENDER, make_keys, split

KEYS = make_keys()
HUB = "spiffe://fed/aggregator/main"
LINK, SPRING = "qkd:north-south", "psk:spring"
SECRET = PreSharedKey("spring", b"s" * 32)
DOWN = TransportError("it is down", reason="key_manager_down")


class Wire:
    """Both ends of a link: what one end is given the other can have once."""

    def __init__(self) -> None:
        self.keys: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.error: PqflError | None = None
        self.waiting = threading.Event()
        self.waiting.set()

    def new_key(self) -> ExtraKey:
        """Give a new key."""
        if self.error is not None:
            raise self.error
        key_id = str(uuid.uuid4())
        self.keys[key_id] = key_id[:32].encode()
        return ExtraKey(f"{LINK}:{key_id}", self.keys[key_id])

    def key(self, key_id: str) -> bytes:
        """Give a key by its id and forget it."""
        self.asked.append(key_id)
        self.waiting.wait()
        if self.error is not None:
            raise self.error
        if key_id not in self.keys:
            raise MessageError("no such key", reason="unknown_key_id")
        return self.keys.pop(key_id)


class Party:
    """A ring with its reports and its clock."""

    def __init__(self, folder: Path, wire: Wire, mode: Mode = Mode.REQUIRE, sources: tuple[str, ...] = (LINK,)) -> None:
        self.reports: list[tuple[str, Any]] = []
        self.now = 0.0
        rule = Rule(mode, sources)
        rules = Rules({(HUB, "update"): rule, (SENDER, "update"): rule, (SENDER, "model"): Rule()})
        folder.mkdir(exist_ok=True)
        self.ring = KeyRing(
            rules, {"spring": SECRET}, {"north-south": wire}, UsedKeys(folder / "used.db"),
            report=lambda event, facts: self.reports.append((event, facts)), clock=lambda: self.now,
        )  # fmt: skip

    def seal(self) -> bytes:
        """Seal an update for the hub with what the rule says."""
        return bytes(KEYS.seal(extra_keys=self.ring.keys_for([HUB], "update")))

    def refusal(self, envelope: bytes) -> str:
        """Open, which must fail, and return why."""
        with pytest.raises(PqflError) as caught:
            KEYS.open(envelope, key_source=self.ring)
        return caught.value.reason


@pytest.fixture
def wire() -> Wire:
    return Wire()


def parties(tmp_path: Path, wire: Wire, *arguments: Any) -> tuple[Party, Party]:
    return Party(tmp_path / "site", wire, *arguments), Party(tmp_path / "hub", wire, *arguments)


def prologue_of(envelope: bytes) -> Prologue:
    return split(envelope)[0]


def test_what_one_seals_the_other_opens(tmp_path: Path, wire: Wire) -> None:
    """With a key of the link and one of the pre-shared secret, both named in the header, in the rule's order."""
    site, hub = parties(tmp_path, wire, Mode.REQUIRE, (LINK, SPRING))
    envelope = site.seal()
    ids = prologue_of(envelope).header.extra_key_ids
    assert [key_id.rpartition(":")[0] for key_id in ids] == [LINK, SPRING]
    KEYS.open(envelope, key_source=hub.ring)
    assert site.reports == hub.reports == []


def test_other_material_opens_nothing(tmp_path: Path, wire: Wire) -> None:
    """An extra key is part of the body's key: one bit of it, and the body is closed."""
    site, hub = parties(tmp_path, wire)
    envelope = site.seal()
    for key_id, key in wire.keys.items():
        wire.keys[key_id] = bytes([key[0] ^ 1]) + key[1:]
    assert hub.refusal(envelope) == "bad_body"
    with pytest.raises(MessageError):
        KEYS.open(envelope)


def test_a_required_key_that_cannot_be_had(tmp_path: Path, wire: Wire) -> None:
    """Nothing is sealed, and the message says what is missing and why; nothing is opened that lacks one."""
    site, hub = parties(tmp_path, wire)
    wire.error = DOWN
    with pytest.raises(PolicyError, match=r"qkd:north-south.*it is down") as caught:
        site.seal()
    assert caught.value.reason == "no_extra_key"
    assert hub.refusal(bytes(KEYS.seal())) == "no_extra_key"


def test_a_preferred_key_that_cannot_be_had(tmp_path: Path, wire: Wire) -> None:
    """Both ends go on without it and say so; the header shows it to everybody."""
    site, hub = parties(tmp_path, wire, Mode.PREFER)
    wire.error = DOWN
    envelope = site.seal()
    assert prologue_of(envelope).header.extra_key_ids == ()
    ((event, facts),) = site.reports
    assert (event, facts["source"], facts["peer"], facts["reason"]) == (
        "extra_key_missing", LINK, HUB, "key_manager_down",
    )  # fmt: skip
    KEYS.open(envelope, key_source=hub.ring)
    ((event, facts),) = hub.reports
    assert (event, facts["source"], facts["peer"]) == ("extra_key_missing", LINK, SENDER)


def test_with_prefer_two_sources_are_as_many_as_there_are(tmp_path: Path, wire: Wire) -> None:
    """A link that is down leaves the pre-shared key in its place."""
    site, hub = parties(tmp_path, wire, Mode.PREFER, (LINK, SPRING))
    wire.error = DOWN
    envelope = site.seal()
    assert [key_id.startswith(SPRING) for key_id in prologue_of(envelope).header.extra_key_ids] == [True]
    KEYS.open(envelope, key_source=hub.ring)


@pytest.mark.parametrize("mode", [Mode.REQUIRE, Mode.PREFER])
def test_a_named_key_that_cannot_be_had_opens_nothing(tmp_path: Path, wire: Wire, mode: Mode) -> None:
    """Not even where keys are only preferred; once the manager is back, the same envelope opens."""
    site, hub = parties(tmp_path, wire, mode)
    envelope = site.seal()
    for number, error in enumerate(
        (DOWN, PeerError("nonsense", reason="bad_answer"), ConfigurationError("x", reason="y"))
    ):
        wire.error = error
        assert hub.refusal(envelope) == "key_manager_down"
        assert hub.reports[number][1]["detail"] == str(error)
    wire.error = None
    KEYS.open(envelope, key_source=hub.ring)


def test_a_key_nobody_knows(tmp_path: Path, wire: Wire) -> None:
    """Its id is the sender's fault; what the manager said is for its own operator and not for the sender."""
    site, hub = parties(tmp_path, wire)
    envelope = site.seal()
    wire.keys.clear()
    with pytest.raises(MessageError) as caught:
        KEYS.open(envelope, key_source=hub.ring)
    assert caught.value.reason == "extra_key"
    assert "no such key" not in str(caught.value)
    assert [(event, facts["detail"]) for event, facts in hub.reports] == [("extra_key_failed", "no such key")]


@pytest.mark.parametrize("source", [LINK, SPRING])
def test_an_id_serves_one_envelope(tmp_path: Path, wire: Wire, source: str) -> None:
    """A second envelope under the same id is refused, whoever signed it, and nothing is fetched for it."""
    site, hub = parties(tmp_path, wire, Mode.REQUIRE, (source,))
    keys = site.ring.keys_for([HUB], "update")
    first, second = (bytes(KEYS.seal(extra_keys=keys)) for _ in range(2))
    KEYS.open(first, key_source=hub.ring)
    asked = list(wire.asked)
    assert hub.refusal(second) == "extra_key"
    assert wire.asked == asked


def test_our_own_ids_do_not_come_back(tmp_path: Path, wire: Wire) -> None:
    """A peer that seals to us under an id that we sealed with is refused, although the material would fit."""
    site, _ = parties(tmp_path, wire, Mode.REQUIRE, (SPRING,))
    assert site.refusal(site.seal()) == "extra_key"


def test_a_manager_that_gives_a_key_twice_is_not_used(tmp_path: Path, wire: Wire, monkeypatch: Any) -> None:
    """The second envelope is not sealed with it."""
    site, _ = parties(tmp_path, wire)
    monkeypatch.setattr(uuid, "uuid4", lambda: uuid.UUID(int=7))
    site.seal()
    with pytest.raises(PolicyError, match="was used for another envelope"):
        site.seal()


def test_garbage_under_a_copied_prologue_does_not_use_the_key_up(tmp_path: Path, wire: Wire) -> None:
    """The manager gave the key to whoever came first; the owner's own upload opens all the same, with one fetch."""
    site, hub = parties(tmp_path, wire)
    envelope = site.seal()
    garbage = envelope[:-40] + bytes(40)
    assert hub.refusal(garbage) == "bad_body"
    KEYS.open(envelope, key_source=hub.ring)
    assert len(wire.asked) == 1


def test_material_is_forgotten_when_the_envelope_is_open(tmp_path: Path, wire: Wire) -> None:
    """Afterwards not even this process can open it again; and what never ends is forgotten after an hour."""
    site, hub = parties(tmp_path, wire)
    envelope = site.seal()
    KEYS.open(envelope, key_source=hub.ring)
    assert hub.ring._held == {}
    assert hub.refusal(envelope) == "extra_key"
    broken = site.seal()
    assert hub.refusal(broken[:-1] + b"\0") == "bad_body"
    hub.now += HOLD_SECONDS + 1
    assert hub.refusal(broken) == "extra_key"


def test_copies_that_come_at_once_wait_for_one_fetch(tmp_path: Path, wire: Wire) -> None:
    """The manager is asked once, and each gets the key."""
    site, hub = parties(tmp_path, wire)
    prologue = prologue_of(site.seal())
    wire.waiting.clear()
    found: list[tuple[bytes, ...]] = []
    threads = [threading.Thread(target=lambda: found.append(hub.ring.fetch(prologue))) for _ in range(3)]
    for thread in threads:
        thread.start()
    wire.waiting.set()
    for thread in threads:
        thread.join()
    assert len(found) == 3
    assert len(set(found)) == len(wire.asked) == 1


def test_what_is_held_is_bounded(tmp_path: Path, wire: Wire) -> None:
    """Senders that never finish cost no more memory than this."""
    site, hub = parties(tmp_path, wire)
    for _ in range(MAX_HELD + 3):
        hub.ring._hold(site.ring.keys_for([HUB], "update")[0].id, b"x")
    assert len(hub.ring._held) == MAX_HELD


def test_a_peer_without_a_rule(tmp_path: Path, wire: Wire) -> None:
    """Nothing is mixed in, and what names a key is refused."""
    site, hub = parties(tmp_path, wire)
    assert site.ring.keys_for(["spiffe://fed/site/other"], "update") == ()
    assert hub.refusal(bytes(KEYS.seal(direction="model", extra_keys=(SECRET.new_key(),)))) == "extra_key"


def test_reports_go_to_the_log_unless_told_otherwise(tmp_path: Path, wire: Wire, caplog: Any) -> None:
    """As a warning that names source and peer."""
    rules = Rules({(HUB, "update"): Rule(Mode.PREFER, (LINK,))})
    wire.error = DOWN
    KeyRing(rules, {}, {"north-south": wire}, UsedKeys(tmp_path / "used.db")).keys_for([HUB], "update")
    assert "extra_key_missing" in caplog.text
    assert LINK in caplog.text


def test_a_ring_from_a_file(tmp_path: Path) -> None:
    """Secrets are read at once, under the name they were made with, and only from files of mode 0600."""
    keystore.write_secret(tmp_path / "spring.psk", SECRET.to_pem())
    (tmp_path / "keys.toml").write_text(
        '[used]\nfile = "used.db"\n[psk.spring]\nfile = "spring.psk"\n'
        '[[peer]]\nid = "*"\nmode = "require"\nkeys = ["psk:spring"]\n'
    )
    (key,) = load_ring(tmp_path / "keys.toml").keys_for([HUB, SENDER], "model")
    assert SECRET.key(key.id.rpartition(":")[2]) == key
    (tmp_path / "spring.psk").chmod(0o640)
    with pytest.raises(ConfigurationError, match="chmod 600"):
        load_ring(tmp_path / "keys.toml")
    (tmp_path / "spring.psk").unlink()
    keystore.write_secret(tmp_path / "spring.psk", PreSharedKey.generate("autumn").to_pem())
    with pytest.raises(ConfigurationError, match=r"spring\.psk: is the pre-shared key autumn"):
        load_ring(tmp_path / "keys.toml")
