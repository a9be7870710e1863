"""`pqfl server` and `pqfl client`: the two ends of the channel, with the flags that operators know from ghostunnel."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from gateway.building import source_of
from gateway.options import Option, Takes, options_of, parse
from gateway.revoking import is_to_be_fetched
from gateway.running import serve
from pqfl_transport.errors import ConfigurationError
from pqfl_transport.tls.config import Role
from pqfl_transport.tls.engine import TlsContext


def _with_options(role: Role) -> Callable[[Callable[..., None]], Callable[..., None]]:
    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        for option in reversed(options_of(role)):
            command = _click_option(option)(command)
        return command

    return decorate


def _click_option(option: Option) -> Callable[[Callable[..., None]], Callable[..., None]]:
    if option.takes is Takes.SWITCH:
        return click.option(f"--{option.name}", is_flag=True, default=None, help=option.help)
    kind: Any = click.Choice(option.choices) if option.choices else str
    return click.option(
        f"--{option.name}", multiple=option.several, type=kind, help=option.help,
        metavar=None if option.choices else option.metavar or option.takes.value,
    )  # fmt: skip


def _file_options(command: Callable[..., None]) -> Callable[..., None]:
    check = click.option("--config-check", is_flag=True, help="Read and check everything, start nothing.")
    file = click.option("--config", type=click.Path(path_type=Path), help="TOML file with these options.")
    return file(check(command))


@click.command(short_help="Stand in front of a plain server: the gateway.")
@_file_options
@_with_options(Role.SERVER)
def server(config: Path | None, config_check: bool, **flags: Any) -> None:
    """Terminate post-quantum TLS in front of a plain server.

    Accepts TLS 1.3 with a hybrid group and a certificate of the federation, and relays to --target.
    """
    _serve(Role.SERVER, flags, config, config_check=config_check)


@click.command(short_help="Carry plain connections to a gateway.")
@_file_options
@_with_options(Role.CLIENT)
def client(config: Path | None, config_check: bool, **flags: Any) -> None:
    """Carry plain connections to a gateway over post-quantum TLS.

    Without any --verify option the gateway's certificate has to name the host of --target.
    """
    _serve(Role.CLIENT, flags, config, config_check=config_check)


def _serve(role: Role, flags: dict[str, Any], file: Path | None, *, config_check: bool) -> None:
    said: dict[str, Any] = {}
    for option in options_of(role):
        value = flags[option.name.replace("-", "_")]
        if value is None or value == ():
            continue
        where = f"--{option.name}"
        said[option.name] = (
            tuple(parse(option, one, where) for one in value) if option.several else parse(option, value, where)
        )
    if file is None and "listen" not in said:
        raise ConfigurationError("--listen is missing, or --config with a file that has it", reason="missing")
    # A check asks nobody: it may run where the network is not, and its answer must not depend on others.
    source = source_of(role, said, file, fetches=not config_check)
    if config_check:
        for listener in source.config.listeners:
            # Only OpenSSL knows whether the key fits and whether it has every algorithm of the policy.
            TlsContext(listener.tls)
            targets = ", ".join(map(str, listener.targets))
            click.echo(
                f"{listener.name}: {role.value} {listener.listen} to {targets}, policy {listener.tls.policy.name}"
            )
            if listener.crl is not None and is_to_be_fetched(listener.crl):
                click.echo(
                    f"{listener.name}: no revocation list at {listener.crl.path} yet; one is fetched at the start"
                )
        click.echo("the configuration is good")
        return
    serve(source)


COMMANDS = (server, client)
