import click
import pytest

from pqfl.commands.durations import Duration, DurationOrNow


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("15m", 900), ("24h", 86400), ("30d", 2_592_000)])
def test_spans_of_time(text: str, seconds: int) -> None:
    """Each unit gives seconds."""
    assert Duration().convert(text, None, None) == seconds


@pytest.mark.parametrize("text", ["", "0h", "24", "h", "-1h", "1.5h", "1w", "1 h", "9999999999s", "1h\n"])
def test_anything_else_is_refused(text: str) -> None:
    """Numbers without a unit could mean anything."""
    with pytest.raises(click.BadParameter):
        Duration().convert(text, None, None)


@pytest.mark.parametrize(("text", "seconds"), [("now", 0), ("0", 0), ("2h", 7200)])
def test_a_span_may_be_none_where_that_makes_sense(text: str, seconds: int) -> None:
    """Said by a word, or by the number alone."""
    assert DurationOrNow().convert(text, None, None) == seconds


@pytest.mark.parametrize("text", ["", "0d", "soon", "1"])
def test_what_is_neither_is_refused(text: str) -> None:
    """As where only a span is taken."""
    with pytest.raises(click.BadParameter):
        DurationOrNow().convert(text, None, None)
