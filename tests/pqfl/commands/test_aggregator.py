"""`pqfl aggregator`: its options. What the process does is in `tests/aggregator/test_service.py`."""

from pathlib import Path

from click.testing import CliRunner

from pqfl.commands.aggregator import aggregator
from pqfl_transport.errors import ConfigurationError


def test_it_needs_a_configuration() -> None:
    """Without one the usage says which option is missing."""
    result = CliRunner().invoke(aggregator, [])
    assert result.exit_code == 2
    assert "--config" in result.output


def test_a_missing_configuration_is_named(tmp_path: Path) -> None:
    """The file's name is in the error."""
    result = CliRunner().invoke(aggregator, ["--config", str(tmp_path / "nowhere.toml")])
    assert isinstance(result.exception, ConfigurationError)
    assert "nowhere.toml" in str(result.exception)
