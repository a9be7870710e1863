"""`pqfl aggregator`: collects sealed updates, averages them, publishes sealed models."""

from pathlib import Path

import click

from aggregator.config import load_config
from aggregator.service import serve
from pqfl_transport.net.logs import EventLog


@click.command(short_help="Run rounds, average sealed updates.")
@click.option("--config", required=True, type=click.Path(path_type=Path), help="Configuration, TOML.")
@click.option("--log-format", type=click.Choice(["logfmt", "json"]), default="logfmt", show_default=True)
@click.option("--quiet", is_flag=True, help="Log only trouble.")
def aggregator(config: Path, log_format: str, quiet: bool) -> None:
    """Run federated rounds on a loopback address or a unix socket, with `pqfl server` in front of it.

    Opens each round with a key of its own, takes one sealed and signed update of every site, averages them weighted by
    samples, and seals the new model to all sites.
    """
    serve(load_config(config), EventLog(log_format, quiet=quiet))
