"""The file of key sources (`--keys`), parsed once into frozen dataclasses; docs/key-sources.md describes it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pqfl_transport.content.header import DIRECTIONS
from pqfl_transport.content.keysource import MIN_KEY_BYTES, PSK, QKD, is_key_name
from pqfl_transport.errors import CertificateError, ConfigurationError
from pqfl_transport.extrakeys.record import DEFAULT_RETAIN_DAYS
from pqfl_transport.extrakeys.rules import ANYBODY, Mode, Rule
from pqfl_transport.pki.spiffe import SpiffeId
from pqfl_transport.policy import DEFAULT_LEVEL, SecurityLevel
from pqfl_transport.qkd.client import DEFAULT_KEY_BITS, DEFAULT_TIMEOUT_SECONDS, LinkConfig
from pqfl_transport.qkd.messages import MAX_SIZE_BITS
from pqfl_transport.sections import Section, read_toml

_SECTIONS = {"used", PSK, QKD, "peer"}


@dataclass(frozen=True, slots=True)
class KeysConfig:
    """Everything a file of key sources says."""

    used: Path
    """Where used ids are recorded."""
    retain_days: float
    psk: Mapping[str, Path]
    """Files of pre-shared keys by name."""
    links: Mapping[str, LinkConfig]
    rules: Mapping[tuple[str, str], Rule]
    """By peer and direction, as `Rules` takes them."""


def load_keys_config(path: Path) -> KeysConfig:
    """Parse the file. Raises ``ConfigurationError`` naming the file, the key and what was expected."""
    document = read_toml(path)
    if unknown := document.keys() - _SECTIONS:
        raise ConfigurationError(f"{path}: unknown section [{min(unknown)}]; known are {', '.join(sorted(_SECTIONS))}")
    used = Section(path, document, "used")
    psk = {name: _psk(each) for name, each in _named(path, document, PSK).items()}
    links = {name: _link(name, each) for name, each in _named(path, document, QKD).items()}
    sources = [*(f"{PSK}:{name}" for name in psk), *(f"{QKD}:{name}" for name in links)]
    config = KeysConfig(
        used=used.path("file"),
        retain_days=used.number("retain_days", DEFAULT_RETAIN_DAYS),
        psk=psk,
        links=links,
        rules=_rules(Section.tables(path, document, "peer"), sources),
    )
    used.finish()
    return config


def _named(path: Path, document: Mapping[str, object], kind: str) -> dict[str, Section]:
    sections = {section.name.partition(".")[2]: section for section in Section.tables(path, document, kind)}
    for name in sections:
        if not is_key_name(name):
            raise ConfigurationError(
                f"{path}: [{kind}.{name}]: expected a name of 1 to 63 of a-z, 0-9 and '-', beginning with a letter or a"
                " digit"
            )
    return sections


def _psk(section: Section) -> Path:
    path = section.path("file")
    section.finish()
    return path


def _link(name: str, section: Section) -> LinkConfig:
    link = LinkConfig(
        name=name,
        url=section.text("url"),
        peer_sae=section.text("peer_sae"),
        cert=section.path("cert"),
        key=section.path("key"),
        cacert=section.path("cacert"),
        verify_uri=section.optional_text("verify_uri"),
        server_name=section.optional_text("override_server_name"),
        level=section.choice("level", [level.value for level in SecurityLevel], DEFAULT_LEVEL.value),
        key_bits=int(section.number("key_bits", DEFAULT_KEY_BITS, least=MIN_KEY_BYTES * 8, whole=True)),
        timeout_seconds=section.number("timeout_seconds", DEFAULT_TIMEOUT_SECONDS),
        classical=section.flag("classical"),
        unsafe_classical=section.flag("unsafe_classical"),
    )
    section.finish()
    if link.key_bits % 8 or link.key_bits > MAX_SIZE_BITS:
        raise section.error("key_bits", f"is {link.key_bits}; expected a multiple of 8, at most {MAX_SIZE_BITS}")
    if link.classical and link.verify_uri is not None:
        raise section.error("verify_uri", "is for post-quantum key managers; a classical one is known by its host name")
    if link.unsafe_classical and not link.classical:
        raise section.error("unsafe_classical", "means nothing without classical = true")
    return link


def _rules(sections: Sequence[Section], sources: Sequence[str]) -> dict[tuple[str, str], Rule]:
    rules: dict[tuple[str, str], Rule] = {}
    for section in sections:
        peer = section.text("id")
        mode = Mode(section.choice("mode", [mode.value for mode in Mode]))
        keys = () if mode is Mode.OFF else section.texts("keys", among=sources)
        directions = section.texts("envelopes", DIRECTIONS, among=DIRECTIONS)
        section.finish()
        _require_peer(section, peer, keys)
        for direction in directions:
            if (peer, direction) in rules:
                raise section.error("id", f"is {peer!r}, which has a rule for envelopes of kind {direction!r} already")
            rules[peer, direction] = Rule(mode, keys)
    return rules


def _require_peer(section: Section, peer: str, keys: Sequence[str]) -> None:
    if peer == ANYBODY:
        if links := [source for source in keys if source.startswith(f"{QKD}:")]:
            raise section.error("keys", f"names {links[0]} for anybody; a link has two ends")
        return
    try:
        SpiffeId.parse(peer)
    except CertificateError as error:
        raise section.error("id", f"is no peer: {error}; or {ANYBODY!r} for anybody without a rule") from None
