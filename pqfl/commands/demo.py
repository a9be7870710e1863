"""`pqfl demo`: watch hospitals train one model over post-quantum transport."""

from pathlib import Path

import click
from rich.console import Console
from rich.markup import escape

from pqfl.demo.progress import Progress
from pqfl.demo.run import PICTURE, REPORT, DemoOptions, run
from pqfl_transport.policy import DEFAULT_LEVEL, SecurityLevel


@click.command(short_help="Watch hospitals train one model together.")
@click.option("--sites", type=click.IntRange(2), default=3, show_default=True, help="Number of hospitals.")
@click.option("--rounds", type=click.IntRange(1), default=8, show_default=True, help="Number of rounds.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("demo-out"),
    show_default=True,
    help="Folder for keys, logs, picture and report; new, empty, or of an earlier demonstration.",
)
@click.option(
    "--level",
    type=click.Choice([level.value for level in SecurityLevel]),
    default=DEFAULT_LEVEL.value,
    show_default=True,
    help="Security level of channel and content.",
)
@click.option("--seed", type=int, default=11, show_default=True, help="Decides who treats which patients.")
def demo(sites: int, rounds: int, out: Path, level: str, seed: int) -> None:
    """Let hospitals train one model together, with post-quantum channel and sealed content.

    Makes a federation in a work folder and starts an aggregator, a gateway, and for each hospital a sidecar and an FL
    client, all of them processes of their own. Ends with accuracies, what each channel negotiated, and what
    cryptography cost.
    """
    console = Console()
    with Progress(console, rounds) as progress:
        report = run(DemoOptions(sites, rounds, out, level, seed), progress)
    console.print()
    report.print(console)
    console.print(f"Picture: {escape(str(out / PICTURE))}   Report: {escape(str(out / REPORT))}", highlight=False)
