"""Joining and renewing, killed at every step at either end: nothing is half-issued, the same command again succeeds.

The steps are not listed here: they are those that an undisturbed run is seen to take (`tests.support.killing`). Each
trial begins with the same federation, kills one process before its Nth step, starts what has died again, gives the same
commands again, and then looks at all that is left.
"""

import shutil
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from cryptography import x509

from certs.authority import Authority
from certs.enrolments import Enrolments
from certs.entry import State as Ledger
from certs.entry import sha256_of
from certs.service import AUDIT_FILE, OwnIdentity
from pqfl_transport.audit import verify_audit_log
from pqfl_transport.pki import chain, keystore
from pqfl_transport.pki.enrolment import State
from pqfl_transport.pki.profiles import Usage
from pqfl_transport.pki.tokens import JoinToken
from pqfl_transport.tls.config import AllowedPeers, Role, TlsConfig, TlsIdentity
from tests.support.enrolment import make_token
from tests.support.killing import Command, Plan, run
from tests.support.pki import Federation, make_federation

KILLED = -9
DEATH_SECONDS = 10.0
JOINED = frozenset(
    {"ca.pem", "sidecar.toml", "tls.pem", "tls.key", "signing.pem", "signing.key", "receiving.pub", "receiving.key"}
)


@dataclass(frozen=True)
class Story:
    """Commands at one hub, and whose steps are counted: the hub's, or those of one of the commands."""

    victim: str
    commands: tuple[str, ...]
    hub_words: tuple[str, ...] = ()
    begins_with: str = ""
    hub_is_new: bool = False
    """Whether the service has no certificate yet."""
    rotated: bool = False
    """Whether another issuing authority is in use since the service was certified."""
    milestones: tuple[str, ...] = ()
    """What has to be among the steps, in this order: the word, and how the file's name ends."""


LEDGER, TOKENS = "commit ca/ledger.db", "commit ca/enrolment.sqlite"
APPROVING = ("ask", "approve", "join")
STORIES = {
    "hub, starting": Story("hub", ("join",), hub_is_new=True, milestones=(LEDGER, "rename ca/enrolment", LEDGER)),
    "hub, certified anew": Story("hub", ("join",), rotated=True,
                                 milestones=(LEDGER, "rename ca/enrolment/.renewed/current")),
    "hub, joining": Story("hub", ("join",), begins_with="accept",
                          milestones=(TOKENS, LEDGER, "write ca/enrolment.audit.jsonl", TOKENS, "send")),
    "hub, joining by hand": Story("hub", APPROVING, ("--approve",), begins_with="accept",
                                  milestones=(TOKENS, "send", LEDGER, TOKENS, "send")),
    "approve": Story("approve", APPROVING, ("--approve",), milestones=(TOKENS,)),
    "hub, renewing": Story("hub", ("renew",), begins_with="accept",
                           milestones=(LEDGER, "write ca/enrolment.audit.jsonl", "send")),
    "join": Story("join", ("join",), milestones=("connect", "rename request.json", "send", "rename west",
                                                 "remove west/request.json")),
    "renew": Story("renew", ("renew",), milestones=("rename sites/north/.renewed/waiting.key", "send",
                                                    "rename sites/north/.renewed/current",
                                                    "remove sites/north/.renewed/waiting.key")),
}  # fmt: skip


@dataclass(frozen=True)
class Beginnings:
    """The federations that trials begin with, as folders to be copied."""

    new: Path
    served: Path
    rotated: Path
    token: JoinToken


@pytest.fixture(scope="module")
def beginnings(tmp_path_factory: pytest.TempPathFactory) -> Beginnings:
    folder = tmp_path_factory.mktemp("beginnings")
    federation = make_federation(folder / "new", sites=("north",), level="standard")
    token = make_token(federation, "west")
    shutil.copytree(folder / "new", folder / "served")
    OwnIdentity(Authority.open(folder / "served" / "ca")).load()
    shutil.copytree(folder / "served", folder / "rotated", symlinks=True)
    Authority.open(folder / "rotated" / "ca").rotate_issuing()
    return Beginnings(folder / "new", folder / "served", folder / "rotated", token)


@dataclass
class Trial:
    """One telling of a story, in a folder of its own."""

    story: Story
    folder: Path
    token: JoinToken
    plan: Plan
    had: set[str] = field(default_factory=set)
    """Every certificate that the site or the service was seen to have, by its digest."""
    died: bool = False
    _hub: Command | None = None
    _address: str = ""
    _open: list[Command] = field(default_factory=list)

    @property
    def ca(self) -> Path:
        return self.folder / "ca"

    @property
    def site(self) -> Path:
        return self.folder / ("sites/north" if "renew" in self.story.commands else "west")

    def tell(self) -> list[str]:
        """Give all commands; whoever dies is started again. Return the victim's steps."""
        try:
            self._start_hub(self.plan if self.story.victim == "hub" else None)
            for name in self.story.commands:
                self._insist(name)
            steps = self.plan.record.read_text().splitlines()
            planned = [command for command in self._open if command.plan is not None]
            self.died = any(command.has_ended(0.5) and command.wait() == KILLED for command in planned)
        finally:
            for command in self._open:
                command.close()
        return [step.replace(f"{self.folder.resolve()}/", "") for step in steps]

    def _insist(self, name: str) -> None:
        """Give a command; where something was killed meanwhile, the same command again."""
        self._need_hub()
        command = self._give(name, self.plan if self.story.victim == name else None)
        if self._is_done(name, command):
            return
        assert command.status == KILLED or self._hub_has_died(DEATH_SECONDS), command.said
        self._need_hub()
        again = self._give(name, None)
        assert self._is_done(name, again) or self._was_done(name, again), again.said

    def _is_done(self, name: str, command: Command) -> bool:
        if name == "ask":
            return command.status == 1 and "waits for approval" in command.said
        return command.status == 0

    def _was_done(self, name: str, command: Command) -> bool:
        """Whether the command says that there is nothing to do: it was killed when it had done everything."""
        if name == "approve":
            return "does not wait for approval" in command.said
        return name == "join" == self.story.victim and "exists already" in command.said

    def _give(self, name: str, plan: Plan | None) -> Command:
        words = {
            "ask": ("join", "--token", self.token.to_text(), "--out", self.site, "--hub", self._address),
            "join": ("join", "--token", self.token.to_text(), "--out", self.site, "--hub", self._address),
            "approve": ("ca", "approve", "--dir", self.ca, "--site", "west"),
            "renew": ("renew", "--identity", self.site, "--hub", self._address),
        }[name]
        command = Command(words, plan)
        self._open.append(command)
        command.wait()
        self._look()
        return command

    def _start_hub(self, plan: Plan | None) -> None:
        self._hub = Command(
            ("ca", "serve", "--dir", self.ca, "--listen", "127.0.0.1:0", "--log-format", "json", *self.story.hub_words),
            plan,
        )
        self._open.append(self._hub)
        self._address = self._hub.wait_until_listening() or ""
        self._look()

    def _hub_has_died(self, timeout_seconds: float = 0.0) -> bool:
        return self._hub is not None and self._hub.has_ended(timeout_seconds)

    def _need_hub(self) -> None:
        if self._hub is not None and (not self._address or self._hub_has_died()):
            assert self._hub.wait() == KILLED, self._hub.said
            self._start_hub(None)
            assert self._address, self._open[-1].said

    def _look(self) -> None:
        for path in (self.site / "tls.pem", self.site / "signing.pem", self.ca / "enrolment" / "tls.pem"):
            if path.exists():
                self.had.add(sha256_of(x509.load_pem_x509_certificate(path.read_bytes())))


def new_trial(beginnings: Beginnings, story: Story, folder: Path, die_before: int) -> Trial:
    before = beginnings.new if story.hub_is_new else beginnings.rotated if story.rotated else beginnings.served
    shutil.copytree(before, folder, symlinks=True)
    plan = Plan((folder,), folder.with_name(f"{folder.name}.steps"), die_before, story.begins_with)
    plan.record.touch()
    return Trial(story, folder, beginnings.token, plan, had=known(folder))


def known(folder: Path) -> set[str]:
    """What was issued before the story begins."""
    return {entry.sha256 for entry in Authority.open(folder / "ca").ledger.entries()}


def check(trial: Trial) -> None:
    """Look at everything that is left when the story has ended."""
    federation = Federation(Authority.open(trial.ca), trial.folder, ("north",))
    check_books(trial, federation)
    check_identity(trial.site, federation)
    check_nothing_lies_about(trial)
    # And it goes on from here: what was made can be renewed.
    last = Trial(Story("nobody", ("renew",)), trial.folder, trial.token, trial.plan, had=trial.had)
    if "renew" in trial.story.commands:
        last.tell()
        check_books(last, federation)


def check_books(trial: Trial, federation: Federation) -> None:
    ledger = federation.authority.ledger
    lost = [one for one in ledger.entries() if one.state != Ledger.WITHDRAWN and one.sha256 not in trial.had]
    assert lost == [], "somebody was given a certificate that nobody has"
    assert ledger.preparations() == ()
    assert run("ca", "log", "verify", "--dir", trial.ca).status == 0
    verify_audit_log(trial.ca / AUDIT_FILE, None)
    (token,) = Enrolments(trial.ca).all()
    if "join" in trial.story.commands:
        assert token.state is State.ISSUED
        west = [one for one in ledger.entries(party=federation.site_uri("west")) if one.state != Ledger.WITHDRAWN]
        assert sorted(one.usage for one in west) == sorted([Usage.CLIENT, Usage.SIGNING])


def check_identity(folder: Path, federation: Federation) -> None:
    """Its certificates hold, are of the keys beside them, and are the newest that the ledger has."""
    identity = TlsIdentity.load(folder / "tls.pem", folder / "tls.key", folder / "ca.pem")
    allowed = AllowedPeers(uris=(federation.gateway_uri,))
    config = TlsConfig(Role.CLIENT, identity, federation.authority.policy, allowed)
    signer = keystore.load_signing_identity(folder)
    assert str(config.own.id) == str(signer.id)
    entries = federation.authority.ledger.entries(party=str(signer.id))
    newest = {entry.usage: entry for entry in entries if entry.state != Ledger.WITHDRAWN}
    assert newest[Usage.CLIENT].sha256 == sha256_of(identity.leaf)
    assert newest[Usage.SIGNING].key_sha256 == signer.key.verifying_key.fingerprint.hex()
    assert chain.verifying_key(identity.leaf) == keystore.load_signing_key(folder / "tls.key").verifying_key
    own = federation.ca / "enrolment"
    TlsIdentity.load(own / "tls.pem", own / "tls.key", federation.ca_pem)


def check_nothing_lies_about(trial: Trial) -> None:
    everything = list(trial.folder.rglob("*"))
    hidden = {path.relative_to(trial.folder).as_posix() for path in everything if path.name.startswith(".")}
    stores = {"ca/enrolment/.renewed", "sites/north/.renewed"}
    assert hidden - stores == set()
    for store in (trial.folder / name for name in hidden):
        numbers = [path.name for path in store.iterdir()]
        assert sorted(numbers) == sorted({"current", (store / "current").readlink().name}), store
    if "join" in trial.story.commands:
        # Roster and lists are fetched after the certificates, from a service that may just have been killed.
        assert {path.name for path in trial.site.iterdir()} - {"roster.json", "crl.pem"} == JOINED
    secrets = [path for path in everything if path.is_file() and b"PRIVATE KEY" in path.read_bytes()]
    assert [path for path in secrets if path.suffix != ".key"] == []
    assert {stat.S_IMODE(path.stat().st_mode) for path in secrets} == {0o600}


def trials(
    beginnings: Beginnings, story: Story, folder: Path, chosen: Callable[[Sequence[str]], Iterator[int]]
) -> None:
    """Tell a story undisturbed, and then with a death before each of the chosen steps."""
    first = new_trial(beginnings, story, folder / "undisturbed", 0)
    steps = first.tell()
    check(first)
    assert not first.died
    remaining = iter(steps)
    for milestone in story.milestones:
        assert any(is_at(step, milestone) for step in remaining), (milestone, steps)
    numbers = list(chosen(steps))
    lasting = max(number for number, step in enumerate(steps, start=1) if " " in step)
    for number in numbers:
        trial = new_trial(beginnings, story, folder / f"{number}", number)
        try:
            trial.tell()
            check(trial)
            # How many pieces a handshake is sent in may differ a little from run to run.
            assert trial.died or number > lasting - 4
        except AssertionError as error:
            error.add_note(f"killed before step {number} of {len(steps)}, {steps[number - 1]}")
            raise
        shutil.rmtree(trial.folder)


def is_at(step: str, milestone: str) -> bool:
    word, _, end = milestone.partition(" ")
    return step.startswith(word) and step.endswith(end)


@pytest.mark.slow
@pytest.mark.parametrize("name", STORIES)
def test_killed_before_every_step(beginnings: Beginnings, name: str, tmp_path: Path) -> None:
    """Wherever it dies, the same commands end with one identity that works and books that hold."""
    trials(beginnings, STORIES[name], tmp_path, lambda steps: iter(range(1, len(steps) + 1)))


@pytest.mark.parametrize("name", ["hub, joining", "join", "hub, renewing", "renew"])
def test_killed_before_some_steps(beginnings: Beginnings, name: str, tmp_path: Path) -> None:
    """The same for the steps that matter most: a transaction that is committed, a name that changes, an answer."""

    def chosen(steps: Sequence[str]) -> Iterator[int]:
        lasting = [one for one in STORIES[name].milestones if one.startswith(("commit", "rename", "remove"))]
        found = [number for number, step in enumerate(steps, start=1) if any(is_at(step, one) for one in lasting)]
        # Before the last of them, and after it.
        yield from {found[0], found[-1], found[-1] + 1} & set(range(1, len(steps) + 1))

    trials(beginnings, STORIES[name], tmp_path, chosen)
