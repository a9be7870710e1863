"""The aggregator's configuration: one TOML file, parsed once into frozen dataclasses.

Paths are relative to the folder of the configuration file. Every error names the file, the key and what was expected.
"""

from dataclasses import dataclass
from pathlib import Path

from pqfl_transport.errors import ConfigurationError, PqflError
from pqfl_transport.net.address import Address
from pqfl_transport.net.crl_fetch import DEFAULT_POLL_SECONDS, require_url
from pqfl_transport.pki.revocation import Stale
from pqfl_transport.pki.roster import Roster
from pqfl_transport.pki.ruling import load_policy
from pqfl_transport.pki.spiffe import Role
from pqfl_transport.policy import Policy, SecurityLevel, for_level
from pqfl_transport.sections import Section, read_toml

DEFAULT_DEADLINE_SECONDS = 3600
DEFAULT_ATTEMPTS = 3
DEFAULT_UPLOAD_IDLE_SECONDS = 30
DEFAULT_RELOAD_SECONDS = 30


@dataclass(frozen=True, slots=True)
class RoundsConfig:
    """How rounds are run."""

    count: int
    """Rounds to run; after the last one the state is finished and its model stays available."""
    quorum: int
    """Updates that a round needs at its deadline."""
    deadline_seconds: float = DEFAULT_DEADLINE_SECONDS
    """Seconds from the opening of a round to its deadline."""
    attempts: int = DEFAULT_ATTEMPTS
    """How often a round that misses its quorum is opened, with a new key and challenge each time."""
    upload_idle_seconds: float = DEFAULT_UPLOAD_IDLE_SECONDS
    """Seconds after which an upload that sends nothing is cut off."""
    level: SecurityLevel | None = None
    """When given, the roster has to be of this level."""
    policy: Policy | None = None
    """Worked under instead of the policy of the roster's level."""
    no_aes: bool = False
    """Whether this machine has no AES instructions: ChaCha20-Poly1305 is then preferred for the key wrap."""

    def require_usable(self, roster: Roster) -> None:
        """Raise ``ConfigurationError`` (``wrong_level``, ``quorum``) for a roster that no round can be run with."""
        if self.level not in {None, roster.level}:
            raise ConfigurationError(
                f"rounds.level is {self.level}, the roster's level is {roster.level}", reason="wrong_level"
            )
        sites = sum(party.id.role is Role.SITE for party in roster.parties.values())
        if sites < self.quorum:
            raise ConfigurationError(
                f"rounds.quorum is {self.quorum}, roster {roster.number} lists {sites} sites", reason="quorum"
            )


@dataclass(frozen=True, slots=True)
class AggregatorConfig:
    """Everything `pqfl aggregator` is told."""

    listen: Address
    identity: Path
    """Identity folder: ``signing.pem``, ``signing.key``."""
    cacert: Path
    """Trust anchors of the federation; its root signs the roster."""
    roster: Path
    state: Path
    """Folder for sealed models, empty at the start of a run."""
    audit: Path
    initial_model: Path
    """``.npz`` or ``.safetensors``: model version 0."""
    rounds: RoundsConfig
    roster_state: Path | None = None
    """Where the highest number of the roster is remembered; beside the roster unless given."""
    passphrase_file: Path | None = None
    """Where the passphrase of an encrypted ``signing.key`` is read; the environment's where there is none."""
    keys: Path | None = None
    """File of key sources (docs/key-sources.md)."""
    advisory: Path | None = None
    """The federation's current advisory; read again on HUP and by the clock."""
    reload_seconds: float = DEFAULT_RELOAD_SECONDS
    """How often advisory, roster and revocation lists are read again."""
    crl: Path | None = None
    """Revocation lists; where they are fetched, the last good ones are kept there."""
    crl_urls: tuple[str, ...] = ()
    """Where they are fetched, tried in this order."""
    crl_stale: Stale = Stale.REFUSE
    crl_poll_seconds: float = DEFAULT_POLL_SECONDS
    """How often they are fetched."""


def load_config(path: Path) -> AggregatorConfig:
    """Parse the file. Raises ``ConfigurationError`` naming the file, the key and what was expected."""
    document = read_toml(path)
    unknown = document.keys() - {"aggregator", "model", "rounds", "keys"}
    if unknown:
        raise ConfigurationError(f"{path}: unknown section [{min(unknown)}]")
    aggregator, model = Section(path, document, "aggregator"), Section(path, document, "model")
    identity, state = aggregator.path("identity"), aggregator.path("state")
    crl_urls = aggregator.text_or_texts("crl_url")
    for url in crl_urls:
        require_url(url, f"{path}: aggregator.crl_url")
    crl = aggregator.path("crl", state / "crl.pem") if crl_urls else aggregator.optional_path("crl")
    config = AggregatorConfig(
        listen=_listen(aggregator.text("listen"), f"{path}: aggregator.listen"),
        identity=identity,
        cacert=aggregator.path("cacert", identity / "ca.pem"),
        roster=aggregator.path("roster"),
        state=state,
        audit=aggregator.path("audit"),
        initial_model=model.path("initial"),
        passphrase_file=aggregator.optional_path("passphrase_file"),
        rounds=_rounds(Section(path, document, "rounds")),
        roster_state=aggregator.optional_path("roster_state"),
        advisory=aggregator.optional_path("advisory"),
        reload_seconds=aggregator.number("reload_seconds", DEFAULT_RELOAD_SECONDS, least=1),
        crl=crl,
        crl_urls=crl_urls,
        crl_stale=Stale(aggregator.choice("crl_stale", tuple(Stale), Stale.REFUSE)),
        crl_poll_seconds=aggregator.number("crl_poll_seconds", DEFAULT_POLL_SECONDS, least=1),
        keys=_keys(Section(path, document, "keys")) if "keys" in document else None,
    )
    aggregator.finish()
    model.finish()
    return config


def _keys(section: Section) -> Path:
    path = section.path("file")
    section.finish()
    return path


def _listen(text: str, where: str) -> Address:
    address = Address.parse(text, where)
    if not address.is_local:
        raise ConfigurationError(
            f"{where} {address}: the aggregator speaks plain HTTP and listens on a loopback address or a unix socket,"
            " with `pqfl server` in front of it",
            reason="not_local",
        )
    return address


def _rounds(section: Section) -> RoundsConfig:
    level = section.optional_text("level")
    try:
        parsed_level = for_level(level).level if level is not None else None
    except PqflError as error:
        raise ConfigurationError(f"{section.file}: rounds.level: {error}") from error
    word = section.optional_text("policy")
    try:
        policy = None if word is None else load_policy(word, folder=section.file.parent)
    except PqflError as error:
        raise type(error)(f"{section.file}: rounds.policy: {error}", reason=error.reason) from error
    rounds = RoundsConfig(
        count=int(section.number("count", least=1, whole=True)),
        quorum=int(section.number("quorum", least=1, whole=True)),
        deadline_seconds=section.number("deadline_seconds", DEFAULT_DEADLINE_SECONDS),
        attempts=int(section.number("attempts", DEFAULT_ATTEMPTS, least=1, whole=True)),
        upload_idle_seconds=section.number("upload_idle_seconds", DEFAULT_UPLOAD_IDLE_SECONDS),
        level=parsed_level,
        policy=policy,
        no_aes=section.flag("no_aes"),
    )
    section.finish()
    return rounds
