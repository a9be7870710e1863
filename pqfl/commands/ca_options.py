"""What the commands of `pqfl ca` share: options, and errors that name the flag to look at."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import click

from pqfl_transport.errors import ConfigurationError
from pqfl_transport.pki.profiles import parse_hosts
from pqfl_transport.policy import SecurityLevel

PATH = click.Path(path_type=Path)
DIR = click.option("--dir", "folder", required=True, type=PATH, help="Folder that `pqfl ca init` made.")
LEVEL = click.Choice([level.value for level in SecurityLevel])
HOSTS = click.option(
    "--hosts",
    multiple=True,
    metavar="HOSTS",
    callback=lambda _context, _parameter, values: _parsed_hosts(values),
    help="Permit only hosts in this domain or network in its certificates; repeatable. Or any, none.",
)
JSON = click.option("--json", "as_json", is_flag=True, help="Print the facts as JSON.")


def _parsed_hosts(values: tuple[str, ...]) -> tuple[tuple[str, ...] | None] | None:
    """Return what was said, as the only item of a tuple because it may be ``None``, or ``None`` for nothing said."""
    if not values:
        return None
    try:
        return (parse_hosts(values[0] if len(values) == 1 and values[0] in {"any", "none"} else list(values)),)
    except ConfigurationError as error:
        raise click.BadParameter(str(error)) from error


@contextmanager
def blaming(flags: Mapping[str, str]) -> Iterator[None]:
    """Put the flag in front of an error whose reason points at one."""
    try:
        yield
    except ConfigurationError as error:
        if error.reason not in flags:
            raise
        raise ConfigurationError(f"{flags[error.reason]}: {error}", reason=error.reason) from error
