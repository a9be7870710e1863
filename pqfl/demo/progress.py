"""Live progress of the demonstration: a bar on a terminal, plain lines elsewhere."""

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar


class Progress:
    """Says what happens; lines stay, the bar below them moves and goes away at the end."""

    def __init__(self, console: Console, rounds: int) -> None:
        self._console = console
        self._bar = Bar(
            TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"),
            TimeElapsedColumn(), console=console, transient=True, disable=not console.is_terminal,
        )  # fmt: skip
        self._task = self._bar.add_task("rounds", total=rounds)

    def step(self, what: str) -> None:
        """A new part of the work begins."""
        self._say(f"[bold]·[/] {what}")

    def model(self, version: int, rounds: int, accuracy: float) -> None:
        """A model of this version arrived at the sites; version 0 is the untrained one."""
        self._bar.update(self._task, completed=version, description="rounds")
        self._say(f"  round {version:2d}/{rounds}: the model gets {accuracy:.1%} right")

    def trained(self, site: str, round_number: int) -> None:
        """One site is done with its part of a round."""
        self._bar.update(self._task, description=f"round {round_number}: {site} trained")

    def _say(self, line: str) -> None:
        self._console.print(line, highlight=False)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()
