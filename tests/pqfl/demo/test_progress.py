"""Live progress: plain lines without a terminal, a bar that goes away with one."""

import io

from rich.console import Console

from pqfl.demo.progress import Progress


def show(console: Console) -> None:
    with Progress(console, 2) as progress:
        progress.step("certificates")
        progress.model(0, 2, 0.5)
        progress.trained("hospital-north", 1)
        progress.model(1, 2, 0.75)


def test_without_a_terminal_only_lines_are_written() -> None:
    """A log file gets one line for each step and each model, and no escape sequences."""
    text = io.StringIO()
    show(Console(file=text, width=80))
    assert text.getvalue().splitlines() == [
        "· certificates",
        "  round  0/2: the model gets 50.0% right",
        "  round  1/2: the model gets 75.0% right",
    ]


def test_with_a_terminal_the_bar_is_drawn_and_taken_away() -> None:
    """On a terminal the bar moves below the lines that stay."""
    text = io.StringIO()
    show(Console(file=text, width=80, force_terminal=True))
    assert " 1/2 " in text.getvalue()
    assert "75.0%" in text.getvalue()
    assert "\x1b[2K" in text.getvalue().rstrip("\n")
