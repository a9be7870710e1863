import click
import pytest

from pqfl.commands.durations import Duration


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("15m", 900), ("24h", 86400), ("30d", 2_592_000)])
def test_spans_of_time(text: str, seconds: int) -> None:
    """Each unit gives seconds."""
    assert Duration().convert(text, None, None) == seconds


@pytest.mark.parametrize("text", ["", "0h", "24", "h", "-1h", "1.5h", "1w", "1 h", "9999999999s", "1h\n"])
def test_anything_else_is_refused(text: str) -> None:
    """Numbers without a unit could mean anything."""
    with pytest.raises(click.BadParameter):
        Duration().convert(text, None, None)
