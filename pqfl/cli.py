"""The command `pqfl`: one line for every error, and an exit status that scripts can rely on.

Exit status: 0 done, 1 failed, 2 wrong usage or configuration, 3 refused by policy.
"""

import importlib
import os
import sys
from pathlib import Path
from types import MappingProxyType
from typing import NoReturn

import click

from pqfl_transport.errors import ConfigurationError, PqflError
from pqfl_transport.hardening import forbid_core_dumps
from pqfl_transport.tls.environment import clean_environment

# Each command is imported when it is asked for: `pqfl --help` must not wait for NumPy, aiohttp and OpenSSL.
_COMMANDS = MappingProxyType(
    {
        "demo": ("pqfl.commands.demo", "demo"),
        "doctor": ("pqfl.commands.doctor", "doctor"),
        "algorithms": ("pqfl.commands.algorithms", "algorithms"),
        "policy": ("pqfl.commands.policy", "policy_group"),
        "ca": ("pqfl.commands.ca", "ca_group"),
        "join": ("pqfl.commands.joining", "join"),
        "renew": ("pqfl.commands.joining", "renew"),
        "server": ("pqfl.commands.sidecar", "server"),
        "client": ("pqfl.commands.sidecar", "client"),
        "probe": ("pqfl.commands.probe", "probe"),
        "audit": ("pqfl.commands.audit", "audit_group"),
        "aggregator": ("pqfl.commands.aggregator", "aggregator"),
        "key": ("pqfl.commands.keys", "key_group"),
        "seal": ("pqfl.commands.content", "seal"),
        "open": ("pqfl.commands.content", "open_command"),
        "verify": ("pqfl.commands.content", "verify"),
        "share-open": ("pqfl.commands.shares", "share_open"),
        "combine": ("pqfl.commands.shares", "combine_command"),
    }
)

_OPENSSL_CONF = "PQFL_OPENSSL_CONF"


class _LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        if cmd_name not in _COMMANDS:
            return None
        module, attribute = _COMMANDS[cmd_name]
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command


@click.command(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="pqfl", prog_name="pqfl")
def cli() -> None:
    """Post-quantum transport for federated learning.

    Hybrid TLS 1.3 sidecars for any federated-learning server, model updates sealed end to end to the aggregator, and
    the keys and certificates for both.
    """


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line and end the process."""
    forbid_core_dumps()
    try:
        # Variables that make OpenSSL load code or another configuration count only if the operator names a file.
        named = os.environ.pop(_OPENSSL_CONF, None)
        clean_environment(Path(named) if named else None)
        cli.main(arguments, prog_name="pqfl", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(ConfigurationError.exit_status)
    except (click.Abort, KeyboardInterrupt):
        click.echo("pqfl: interrupted", err=True)
        sys.exit(130)
    except PqflError as error:
        click.echo(f"pqfl: {error}", err=True)
        sys.exit(error.exit_status)
    except BrokenPipeError:
        # The reader of our output went away (`pqfl … | head`); Python would complain again while flushing at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        click.echo(f"pqfl: {where}{error.strerror or error}", err=True)
        sys.exit(1)
    sys.exit(0)
