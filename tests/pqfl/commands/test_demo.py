"""`pqfl demo`: its options, and what it says when it cannot begin."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from pqfl.commands.demo import demo
from pqfl_transport.errors import ConfigurationError


def test_help_names_every_option() -> None:
    """Sites, rounds, folder, level and seed can be chosen."""
    text = CliRunner().invoke(demo, ["--help"]).output
    assert all(option in text for option in ("--sites", "--rounds", "--out", "--level", "--seed"))


@pytest.mark.parametrize("arguments", [["--sites", "1"], ["--rounds", "0"], ["--level", "low"], ["--sites", "many"]])
def test_wrong_numbers_are_wrong_usage(arguments: list[str]) -> None:
    """One hospital is no federation, and no round is no training."""
    result = CliRunner().invoke(demo, arguments)
    assert result.exit_code == 2
    assert arguments[0] in result.output


def test_a_folder_with_something_else_is_refused(tmp_path: Path) -> None:
    """The folder's owner is asked for another name before anything is started."""
    (tmp_path / "file").touch()
    result = CliRunner().invoke(demo, ["--out", str(tmp_path)])
    assert isinstance(result.exception, ConfigurationError)
    assert str(tmp_path) in str(result.exception)
