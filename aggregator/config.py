"""The aggregator's configuration: one TOML file, parsed once into frozen dataclasses.

Paths are relative to the folder of the configuration file. Every error names the file, the key and what was expected.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pqfl_transport.errors import ConfigurationError, PqflError
from pqfl_transport.net.address import Address
from pqfl_transport.pki.ruling import load_policy
from pqfl_transport.policy import Policy, SecurityLevel, for_level

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
    advisory: Path | None = None
    """The federation's current advisory; read again on HUP and by the clock."""
    reload_seconds: float = DEFAULT_RELOAD_SECONDS
    """How often the advisory is read again."""


def load_config(path: Path) -> AggregatorConfig:
    """Parse the file. Raises ``ConfigurationError`` naming the file, the key and what was expected."""
    try:
        document = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot read the configuration: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path}: not TOML: {error}") from error
    unknown = document.keys() - {"aggregator", "model", "rounds"}
    if unknown:
        raise ConfigurationError(f"{path}: unknown section [{min(unknown)}]")
    aggregator, model = _Section(path, document, "aggregator"), _Section(path, document, "model")
    identity = aggregator.path("identity")
    config = AggregatorConfig(
        listen=_listen(aggregator.text("listen"), f"{path}: aggregator.listen"),
        identity=identity,
        cacert=aggregator.path("cacert", identity / "ca.pem"),
        roster=aggregator.path("roster"),
        state=aggregator.path("state"),
        audit=aggregator.path("audit"),
        initial_model=model.path("initial"),
        rounds=_rounds(_Section(path, document, "rounds")),
        advisory=aggregator.optional_path("advisory"),
        reload_seconds=aggregator.number("reload_seconds", DEFAULT_RELOAD_SECONDS, least=1),
    )
    aggregator.finish()
    model.finish()
    return config


def _listen(text: str, where: str) -> Address:
    address = Address.parse(text, where)
    if not address.is_local:
        raise ConfigurationError(
            f"{where} {address}: the aggregator speaks plain HTTP and listens on a loopback address or a unix socket,"
            " with `pqfl server` in front of it",
            reason="not_local",
        )
    return address


def _rounds(section: "_Section") -> RoundsConfig:
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
        no_aes=section.switch("no_aes"),
    )
    section.finish()
    return rounds


class _Section:
    """One table of the file, read key by key; what nobody asked for is an error."""

    def __init__(self, file: Path, document: Mapping[str, Any], name: str) -> None:
        table = document.get(name)
        if not isinstance(table, dict):
            raise ConfigurationError(f"{file}: the section [{name}] is missing")
        self.file, self._name, self._table = file, name, table
        self._asked: set[str] = set()

    def text(self, key: str) -> str:
        value = self.optional_text(key)
        if value is None:
            raise self._error(key, "is missing; expected a string")
        return value

    def optional_text(self, key: str) -> str | None:
        value = self._take(key)
        if value is None:
            return None
        if not isinstance(value, str) or not value or "\0" in value:
            raise self._error(key, f"is {value!r}; expected a string that is not empty")
        return value

    def path(self, key: str, default: Path | None = None) -> Path:
        value = self.optional_text(key)
        if value is None and default is not None:
            return default
        return self.file.parent / self.text(key)

    def optional_path(self, key: str) -> Path | None:
        value = self.optional_text(key)
        return None if value is None else self.file.parent / value

    def switch(self, key: str) -> bool:
        value = self._take(key)
        if value is not None and not isinstance(value, bool):
            raise self._error(key, f"is {value!r}; expected true or false")
        return bool(value)

    def number(self, key: str, default: float | None = None, *, least: float = 0.001, whole: bool = False) -> float:
        value = self._take(key)
        value = default if value is None else value
        expected = f"expected {'a whole number' if whole else 'a number'} of at least {least:g}"
        if value is None:
            raise self._error(key, f"is missing; {expected}")
        allowed = int if whole else (int, float)
        if isinstance(value, bool) or not isinstance(value, allowed) or not least <= value < float("inf"):
            raise self._error(key, f"is {value!r}; {expected}")
        return value

    def finish(self) -> None:
        unknown = self._table.keys() - self._asked
        if unknown:
            raise self._error(min(unknown), f"is not a key of this section; known are {', '.join(sorted(self._asked))}")

    def _take(self, key: str) -> object:
        self._asked.add(key)
        return self._table.get(key)

    def _error(self, key: str, what: str) -> ConfigurationError:
        return ConfigurationError(f"{self.file}: {self._name}.{key} {what}")
