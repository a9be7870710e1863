"""From what an operator said to a configuration: files are read here, and all is checked before anything starts."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from gateway.admission import Limits
from gateway.advising import advised_tls
from gateway.config import HttpRules, ListenerConfig, Mode, Profile, ServiceConfig, Source
from gateway.options import Told, Values, collect
from gateway.proxies import Proxy
from gateway.renewing import renewal_config
from gateway.revoking import crl_config, fetch_first, is_to_be_fetched, read_revocations, with_lists_of_now
from pqfl_transport.crypto.measuring import measure
from pqfl_transport.errors import ConfigurationError
from pqfl_transport.net.address import Address
from pqfl_transport.pki.advisory import Seen, digest_of
from pqfl_transport.pki.keystore import read_secret, root_keys
from pqfl_transport.pki.memory import beside
from pqfl_transport.pki.passphrases import PassphraseSource, chosen
from pqfl_transport.pki.roster import Roster
from pqfl_transport.pki.roster_files import RosterReader
from pqfl_transport.pki.ruling import load_advisory, load_policy
from pqfl_transport.policy import Advised, Constraints, Costs, Policy, advise, choose, prefer
from pqfl_transport.tls.config import AllowedPeers, ClassicalSide, Role, TlsConfig, TlsIdentity
from pqfl_transport.tls.peers import read_certificate


@dataclass(slots=True)
class _Memory:
    """What never goes back while the process lives, by the name of the listener."""

    crl_numbers: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    rosters: dict[str, RosterReader] = field(default_factory=dict)
    is_first: bool = True
    """Whether nothing was read yet."""
    fetches: bool = True
    """Whether a revocation list is fetched where none was kept yet; without it, none is in force then."""
    advisories: dict[str, Seen] = field(default_factory=dict)
    """Remembered as soon as an advisory was verified, whether the rest of the configuration can be used or not."""


def source_of(role: Role, flags: Values, file: Path | None, *, fetches: bool = True) -> Source:
    """Return the configuration that flags and file say, and how to read it again.

    Without ``fetches`` nothing is asked over the network, and the configuration is one to look at and not to serve
    with: a revocation list that has still to be fetched is not in it. Raises ``PqflError`` naming the flag, the file or
    the key that is wrong.
    """
    memory = _Memory(fetches=fetches)
    config = _service(collect(role, flags, file), memory)
    memory.is_first = False

    def read_again() -> ServiceConfig:
        memory.crl_numbers = {
            listener.name: listener.tls.revocations.numbers
            for listener in source.config.listeners
            if listener.tls.revocations is not None
        }
        return _service(collect(role, flags, file), memory)

    source = Source(config, read_again, with_lists_of_now)
    return source


def _service(told: Told, memory: _Memory) -> ServiceConfig:
    values = told.service
    optional: dict[str, Any] = {
        field: values[name]
        for field, name in (
            ("audit", "audit"), ("audit_key", "audit-key"), ("shutdown_timeout_seconds", "shutdown-timeout"),
            ("timed_reload_seconds", "timed-reload"), ("workers", "workers"), ("quiet", "quiet"),
            ("log_format", "log-format"), ("passphrase_file", "passphrase-file"),
        )
        if name in values
    }  # fmt: skip
    if "status" in values:
        optional["status"] = Address.parse(values["status"], "--status")
    passphrases = chosen(values.get("passphrase-file"))
    listeners = tuple(
        _listener(name, role, values, memory, passphrases, several=len(told.listeners) > 1)
        for name, role, values in told.listeners
    )
    return ServiceConfig(listeners=listeners, **optional)


def _listener(
    name: str, role: Role, values: Values, memory: _Memory, passphrases: PassphraseSource, *, several: bool
) -> ListenerConfig:
    for needed in ("listen", "target", "cacert"):
        if needed not in values:
            raise ConfigurationError(
                f"{f'listener {name}: ' if several else ''}--{needed} is missing", reason="missing"
            )
    tls, advised, remarks = _tls(name, role, values, memory, passphrases)
    optional: dict[str, Any] = {
        field: values[option]
        for field, option in (
            ("connect_timeout_seconds", "connect-timeout"), ("proxy_protocol", "proxy-protocol"),
            ("unsafe_listen", "unsafe-listen"), ("unsafe_target", "unsafe-target"),
        )
        if option in values
    }  # fmt: skip
    if "proxy" in values:
        optional["proxy"] = Proxy.parse(values["proxy"], "--proxy")
    return ListenerConfig(
        listen=Address.parse(values["listen"], "--listen"),
        targets=tuple(Address.parse_target(target, "--target") for target in values["target"]),
        tls=tls,
        name=name,
        mode=Mode(values.get("mode", Mode.TCP)),
        http=_http(tls, values, memory.rosters.setdefault(name, RosterReader())),
        limits=_limits(values),
        advised=advised,
        renewal=renewal_config(values, tls.own.id),
        crl=crl_config(values),
        preferences=remarks,
        **optional,
    )


def _limits(values: Values) -> Limits:
    return Limits(
        **{
            field: values[option]
            for field, option in (
                ("handshake_timeout_seconds", "handshake-timeout"), ("max_handshakes", "max-handshakes"),
                ("max_connections", "max-concurrent-conns"), ("max_connections_per_peer", "max-conns-per-peer"),
                ("connections_per_minute_per_peer", "conns-per-minute-per-peer"),
                ("bytes_per_second_per_peer", "bytes-per-second-per-peer"), ("idle_timeout_seconds", "idle-timeout"),
                ("max_lifetime_seconds", "max-conn-lifetime"),
            )
            if option in values
        }
    )  # fmt: skip


def _tls(
    name: str, role: Role, values: Values, memory: _Memory, passphrases: PassphraseSource
) -> tuple[TlsConfig, Advised | None, tuple[str, ...]]:
    base, remarks = _chosen(values)
    identity, classical = _identities(values, passphrases)
    crl = crl_config(values)
    if crl is not None and memory.is_first and memory.fetches:
        fetch_first(crl, identity, classical, base)
    has_lists = crl is not None and (memory.fetches or not is_to_be_fetched(crl))
    prefix = "allow" if role is Role.SERVER else "verify"
    allowed = AllowedPeers(
        uris=values.get(f"{prefix}-uri", ()), dns=values.get(f"{prefix}-dns", ()), ips=values.get(f"{prefix}-ip", ()),
        cns=values.get(f"{prefix}-cn", ()), ous=values.get(f"{prefix}-ou", ()),
        spki_pins=values.get(f"{prefix}-spki", ()), any_of_federation=values.get("allow-all", False),
    )  # fmt: skip

    def make(policy: Policy, classical: ClassicalSide | None) -> TlsConfig:
        return TlsConfig(
            role=role,
            identity=identity,
            policy=policy,
            allowed=allowed,
            alpn=values.get("alpn", ()),
            server_name=values.get("override-server-name"),
            classical=classical,
            revocations=(
                read_revocations(crl, identity, classical, policy, memory.crl_numbers.get(name, {}))
                if crl is not None and has_lists
                else None
            ),
            resume_seconds=int(values.get("resume", 0)),
        )

    advised = _advised(name, values, identity, base, memory)
    tls = make(base, classical) if advised is None else advised_tls(make, advised, classical)
    return tls, advised, remarks


def _chosen(values: Values) -> tuple[Policy, tuple[str, ...]]:
    word = values.get("policy")
    if word is not None and not {"level", "pq"} & values.keys():
        policy = load_policy(word)
    else:
        policy = choose(name=word, level=values.get("level"), pq=values.get("pq"))
    return prefer(policy, _constraints(values, policy))


def _constraints(values: Values, policy: Policy) -> Constraints:
    budget = values.get("cpu-budget")
    return Constraints(
        aes_hardware=not values.get("no-aes", False),
        link_kilobits_per_second=values.get("link-kbps"),
        cpu_milliseconds=budget,
        measured=None if budget is None else _measured(policy),
    )


@cache
def _measured(policy: Policy) -> Costs:
    """Measure once: a reload that finds nothing new must not change the order by a measurement's noise."""
    return measure([policy])


def _advised(name: str, values: Values, identity: TlsIdentity, base: Policy, memory: _Memory) -> Advised | None:
    if "advisory" not in values:
        if "advisory-state" in values:
            raise ConfigurationError("--advisory-state needs --advisory", reason="missing")
        return None
    path, now, own = values["advisory"], time.time(), read_certificate(identity.leaf).id
    try:
        advisory = load_advisory(
            path, root_keys(identity.anchors), federation=None if own is None else own.federation, now=now,
            seen=memory.advisories.get(name), seen_path=values.get("advisory-state", beside(path)),
        )  # fmt: skip
    except ConfigurationError as error:
        flag = "--advisory-state" if error.reason == "not_writable" else "--advisory"
        raise ConfigurationError(f"{flag}: {error}", reason=error.reason) from error
    memory.advisories[name] = Seen(advisory.number, digest_of(advisory))
    return advise(base, advisory, now)


def _identities(values: Values, passphrases: PassphraseSource) -> tuple[TlsIdentity, ClassicalSide | None]:
    certs, keys = values.get("cert", ()), values.get("key", ())
    if "keystore" in values:
        if certs or keys:
            raise ConfigurationError("--keystore holds certificate and key: leave --cert and --key away", reason="two")
        password = read_secret(values["storepass-file"]).rstrip(b"\r\n") if "storepass-file" in values else None
        identity = TlsIdentity.load_keystore(values["keystore"], values["cacert"], password)
    elif not certs or len(certs) != len(keys):
        raise ConfigurationError("every --cert needs its --key, or there is a --keystore", reason="missing")
    else:
        identity = TlsIdentity.load(certs[0], keys[0], values["cacert"], passphrases)
    if "classical-cacert" not in values:
        if len(certs) > 1:
            raise ConfigurationError("a second --cert needs --classical-cacert and --pq prefer", reason="classical")
        return identity, None
    return identity, ClassicalSide.load(values["classical-cacert"], certs[1:], keys[1:], passphrases)


def _http(tls: TlsConfig, values: Values, reader: RosterReader) -> HttpRules:
    rules = []
    for text in values.get("allow-path", ()):
        method, _, path = text.partition(" ")
        if not method.isalpha() or not path.startswith("/"):
            raise ConfigurationError(f"--allow-path {text!r}: expected as 'GET /v1/*'", reason="bad_config")
        rules.append((method.upper(), path))
    return HttpRules(Profile(values.get("profile", Profile.PLAIN)), tuple(rules), _roster(tls, values, reader))


def _roster(tls: TlsConfig, values: Values, reader: RosterReader) -> Roster | None:
    if "roster" not in values:
        if "roster-state" in values:
            raise ConfigurationError("--roster-state needs --roster", reason="missing")
        return None
    federation = None if tls.own.id is None else tls.own.id.federation
    roots, state = root_keys(tls.identity.anchors), values.get("roster-state")
    try:
        return reader.read(values["roster"], roots, federation=federation, seen_path=state)
    except ConfigurationError as error:
        flag = "--roster-state" if error.reason == "not_writable" else "--roster"
        raise ConfigurationError(f"{flag}: {error}", reason=error.reason) from error
