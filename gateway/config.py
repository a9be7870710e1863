"""What a sidecar is told, parsed once and checked: addresses, who is allowed, how long to wait."""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from gateway.admission import Limits
from gateway.proxies import Proxy
from pqfl_transport.errors import ConfigurationError
from pqfl_transport.net.address import Address
from pqfl_transport.net.crl_fetch import DEFAULT_POLL_SECONDS
from pqfl_transport.pki.revocation import Stale
from pqfl_transport.pki.roster import Roster
from pqfl_transport.policy import Advised
from pqfl_transport.renewal import RenewalFiles
from pqfl_transport.tls.config import Role, TlsConfig
from pqfl_transport.twin_renewal import TwinFiles

MAX_WORKERS = 64
DEFAULT_NAME = "main"


class Mode(StrEnum):
    """What a listener understands of the bytes it relays."""

    TCP = "tcp"
    HTTP = "http"


class Profile(StrEnum):
    """What stands behind a listener in HTTP mode."""

    PLAIN = "plain"
    AGGREGATOR = "aggregator"
    FLOWER = "flower"


@dataclass(frozen=True, slots=True)
class HttpRules:
    """What HTTP mode lets through."""

    profile: Profile = Profile.PLAIN
    allow: tuple[tuple[str, str], ...] = ()
    """Pairs of method and path pattern; none means that the profile decides alone."""
    roster: Roster | None = None


@dataclass(frozen=True, slots=True)
class CrlConfig:
    """Where revocation lists come from."""

    path: Path
    """The file that counts; where lists are fetched, the last good ones are kept there."""
    urls: tuple[str, ...] = ()
    """Where they are fetched, in order of preference."""
    stale: Stale = Stale.REFUSE
    state: Path | None = None
    """Where the highest numbers seen are kept; beside the file unless given."""
    poll_seconds: float = DEFAULT_POLL_SECONDS


@dataclass(frozen=True, slots=True)
class RenewalConfig:
    """Where a listener's certificate is renewed, and which files that changes."""

    address: Address
    files: RenewalFiles
    anchors: Path
    """Whom the enrolment service is verified by."""
    twin: TwinFiles | None = None
    """The second, classical certificate where there is one: renewed too if it is a twin of ours."""


@dataclass(frozen=True, slots=True)
class ListenerConfig:
    """One listener, complete. The role decides which side speaks TLS: a server's ``listen``, a client's targets."""

    listen: Address
    targets: tuple[Address, ...]
    """In order of preference."""
    tls: TlsConfig
    name: str = DEFAULT_NAME
    mode: Mode = Mode.TCP
    http: HttpRules = HttpRules()
    limits: Limits = field(default_factory=Limits)
    connect_timeout_seconds: float = 10.0
    close_timeout_seconds: float = 1.0
    """How long a connection that half ended may take to end."""
    proxy: Proxy | None = None
    """The way out to the targets."""
    proxy_protocol: bool = False
    """Begin every connection to the target with a PROXY header, version 2."""
    unsafe_listen: bool = False
    unsafe_target: bool = False
    advised: Advised | None = None
    """The advisory that counts, and what it left of the policy of ``tls``."""
    crl: CrlConfig | None = None
    """Where the ``revocations`` of ``tls`` come from."""
    preferences: tuple[str, ...] = ()
    """What this place lacks, and how that changed the order of the policy's names, in words."""

    renewal: RenewalConfig | None = None
    """How its certificate renews itself; it does not where there is none."""

    def __post_init__(self) -> None:
        if not self.targets:
            raise ConfigurationError("--target: where do connections go?", reason="no_target")
        # The plain side carries what TLS protects on the other one, so it must not leave the machine by accident.
        if self.role is Role.SERVER:
            for target in self.targets:
                _require_local(target, "--target", unsafe=self.unsafe_target)
        else:
            _require_local(self.listen, "--listen", unsafe=self.unsafe_listen)
        if self.mode is Mode.HTTP and self.role is Role.CLIENT:
            raise ConfigurationError("--mode http is for `pqfl server`: a client carries bytes", reason="wrong_mode")
        if self.mode is Mode.TCP and self.http != HttpRules():
            raise ConfigurationError("--profile and --allow-path need --mode http", reason="wrong_mode")
        if self.http.profile is Profile.AGGREGATOR and self.http.roster is None:
            raise ConfigurationError("--profile aggregator needs --roster", reason="no_roster")

    @property
    def role(self) -> Role:
        """Which end of the channel this listener is."""
        return self.tls.role


@dataclass(frozen=True, slots=True)
class ServiceConfig:
    """One process, or one group of workers."""

    listeners: tuple[ListenerConfig, ...]
    status: Address | None = None
    audit: Path | None = None
    audit_key: Path | None = None
    """An ML-DSA key that signs the heads of the audit log."""
    passphrase_file: Path | None = None
    """Where the passphrase of encrypted keys is read, again at each reload; the environment's where there is none."""
    shutdown_timeout_seconds: float = 30.0
    timed_reload_seconds: float = 0.0
    workers: int = 1
    quiet: bool = False
    log_format: str = "logfmt"

    def __post_init__(self) -> None:
        if not self.listeners:
            raise ConfigurationError("no listener is configured", reason="no_listener")
        if self.status is not None:
            _require_local(self.status, "--status", unsafe=False)
        if not 1 <= self.workers <= MAX_WORKERS:
            raise ConfigurationError(f"--workers {self.workers}: has to be 1 to {MAX_WORKERS}", reason="bad_workers")
        if self.workers > 1 and any(one.http.profile is Profile.FLOWER for one in self.listeners):
            # Which node belongs to which site is known to the process that saw it.
            raise ConfigurationError("--profile flower runs in one process: leave --workers away", reason="bad_workers")
        names = [listener.name for listener in self.listeners]
        if len(set(names)) != len(names):
            raise ConfigurationError("two listeners have one name", reason="same_name")
        if self.audit_key is not None and self.audit is None:
            raise ConfigurationError("--audit-key needs --audit", reason="no_audit")


@dataclass(frozen=True, slots=True)
class Source:
    """Where a configuration came from, so that it can be read again while the service runs."""

    config: ServiceConfig
    read_again: Callable[[], ServiceConfig] = field(compare=False)
    """Raises ``PqflError`` where it is broken now."""
    read_crls: Callable[[ServiceConfig], ServiceConfig] = field(default=lambda config: config, compare=False)
    """Return the configuration that is given with the revocation lists of now. Raises ``PqflError``."""


def _require_local(address: Address, flag: str, *, unsafe: bool) -> None:
    if not unsafe and not address.is_local:
        escape = "" if flag == "--status" else f"; --unsafe-{flag.removeprefix('--')} allows it all the same"
        raise ConfigurationError(
            f"{flag} {address}: this side is not encrypted and has to be a loopback address or a unix socket{escape}",
            reason="not_local",
        )
