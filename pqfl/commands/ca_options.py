"""What the commands of `pqfl ca` share: options, and errors that name the flag to look at."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import click

from pqfl_transport.errors import ConfigurationError
from pqfl_transport.policy import SecurityLevel

PATH = click.Path(path_type=Path)
DIR = click.option("--dir", "folder", required=True, type=PATH, help="Folder that `pqfl ca init` made.")
LEVEL = click.Choice([level.value for level in SecurityLevel])
JSON = click.option("--json", "as_json", is_flag=True, help="Print the facts as JSON.")


@contextmanager
def blaming(flags: Mapping[str, str]) -> Iterator[None]:
    """Put the flag in front of an error whose reason points at one."""
    try:
        yield
    except ConfigurationError as error:
        if error.reason not in flags:
            raise
        raise ConfigurationError(f"{flags[error.reason]}: {error}", reason=error.reason) from error
