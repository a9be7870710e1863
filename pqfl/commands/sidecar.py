"""`pqfl server` and `pqfl client`: the two ends of the channel, with the flags that operators know from ghostunnel."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from gateway.config import SidecarConfig
from gateway.service import serve
from pqfl_transport.net.address import Address
from pqfl_transport.net.logs import EventLog
from pqfl_transport.policy import DEFAULT_LEVEL, SecurityLevel, for_level
from pqfl_transport.tls.config import AllowedPeers, Role, TlsConfig, TlsIdentity

_FILE = click.Path(path_type=Path)

_COMMON = (
    click.option("--listen", required=True, metavar="ADDR", help="HOST:PORT, [IPV6]:PORT or unix:PATH."),
    click.option("--target", required=True, metavar="ADDR", help="Where connections go."),
    click.option("--cert", required=True, type=_FILE, help="Own certificate, PEM."),
    click.option("--key", required=True, type=_FILE, help="Its private key, PEM, mode 0600."),
    click.option("--cacert", required=True, type=_FILE, help="Trusted root and issuing certificates, PEM."),
    click.option(
        "--level", type=click.Choice([level.value for level in SecurityLevel]), default=DEFAULT_LEVEL.value,
        show_default=True, help="Security level: which groups, keys and signatures are accepted.",
    ),
    click.option("--alpn", multiple=True, metavar="NAME", help="Application protocol, the preferred one first."),
    click.option("--status", metavar="ADDR", help="Serve /_status, /_metrics and /healthz here (loopback only)."),
    click.option("--audit", type=_FILE, help="Append connections and refusals to this hash-chained log."),
    click.option("--connect-timeout", default=10.0, show_default=True, metavar="SECONDS"),
    click.option("--shutdown-timeout", default=30.0, show_default=True, metavar="SECONDS", help="How long TERM waits."),
    click.option("--quiet", is_flag=True, help="Log only trouble."),
    click.option("--log-format", type=click.Choice(["logfmt", "json"]), default="logfmt", show_default=True),
)  # fmt: skip


def _common(command: Callable[..., None]) -> Callable[..., None]:
    for option in reversed(_COMMON):
        command = option(command)
    return command


@click.command(short_help="Stand in front of a plain server: the gateway.")
@_common
@click.option("--allow-uri", multiple=True, metavar="URI", help="Let this SPIFFE ID in; repeat for more.")
@click.option("--allow-dns", multiple=True, metavar="NAME", help="Let certificates with this DNS name in.")
@click.option("--allow-all", is_flag=True, help="Let every site of the federation in.")
@click.option("--unsafe-target", is_flag=True, help="Let the plain side leave this machine.")
def server(
    allow_uri: tuple[str, ...], allow_dns: tuple[str, ...], allow_all: bool, unsafe_target: bool, **common: Any
) -> None:
    """Terminate post-quantum TLS in front of a plain server.

    Accepts TLS 1.3 with a hybrid group and a certificate of the federation, and relays to --target.
    """
    allowed = AllowedPeers(uris=allow_uri, dns=allow_dns, any_of_federation=allow_all)
    _serve(Role.SERVER, allowed, None, common, unsafe_target=unsafe_target)


@click.command(short_help="Carry plain connections to a gateway.")
@_common
@click.option("--verify-uri", multiple=True, metavar="URI", help="SPIFFE ID of the gateway to expect.")
@click.option("--verify-dns", multiple=True, metavar="NAME", help="DNS name to expect in its certificate.")
@click.option("--override-server-name", metavar="NAME", help="Send and check this name instead of the target's.")
@click.option("--unsafe-listen", is_flag=True, help="Accept plain connections from other machines.")
def client(
    verify_uri: tuple[str, ...],
    verify_dns: tuple[str, ...],
    override_server_name: str | None,
    unsafe_listen: bool,
    **common: Any,
) -> None:
    """Carry plain connections to a gateway over post-quantum TLS.

    Without --verify-uri or --verify-dns the gateway's certificate has to name the host of --target.
    """
    allowed = AllowedPeers(uris=verify_uri, dns=verify_dns)
    _serve(Role.CLIENT, allowed, override_server_name, common, unsafe_listen=unsafe_listen)


def _serve(role: Role, allowed: AllowedPeers, server_name: str | None, common: dict[str, Any], **unsafe: bool) -> None:
    tls = TlsConfig(
        role=role,
        identity=TlsIdentity.load(common["cert"], common["key"], common["cacert"]),
        policy=for_level(common["level"]),
        allowed=allowed,
        alpn=common["alpn"],
        server_name=server_name,
    )
    config = SidecarConfig(
        listen=Address.parse(common["listen"], "--listen"),
        target=Address.parse(common["target"], "--target"),
        tls=tls,
        status=None if common["status"] is None else Address.parse(common["status"], "--status"),
        audit=common["audit"],
        connect_timeout_seconds=common["connect_timeout"],
        shutdown_timeout_seconds=common["shutdown_timeout"],
        **unsafe,
    )
    serve(config, EventLog(common["log_format"], quiet=common["quiet"]))


COMMANDS = (server, client)
