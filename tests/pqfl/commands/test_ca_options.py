"""Shared options of `pqfl ca`: an error is put down to the flag that it is about."""

import pytest

from pqfl.commands.ca_options import blaming
from pqfl_transport.errors import ConfigurationError


def test_the_flag_is_in_front_of_its_errors_and_of_no_others() -> None:
    """The reason decides, and stays."""
    with pytest.raises(ConfigurationError, match=r"^--name: taken") as caught, blaming({"taken": "--name"}):
        raise ConfigurationError("taken", reason="taken")
    assert caught.value.reason == "taken"
    with pytest.raises(ConfigurationError, match=r"^other"), blaming({"taken": "--name"}):
        raise ConfigurationError("other", reason="other")
