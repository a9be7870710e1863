"""Errors: whose fault, which reason, which exit status."""

import pytest

from pqfl_transport import errors
from pqfl_transport.errors import ConfigurationError, PolicyError, PqflError


def _classes() -> list[type[PqflError]]:
    return [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, PqflError)]


def test_the_tree_stays_small() -> None:
    """About eight classes, by culprit: a new kind of trouble is a reason, not a class."""
    assert 6 <= len(_classes()) <= 10


@pytest.mark.parametrize("kind", _classes())
def test_every_error_carries_a_reason_and_its_sentence(kind: type[PqflError]) -> None:
    """Logs and metrics read the reason, people read the message."""
    error = kind("the sentence", reason="the_reason")
    assert (str(error), error.reason) == ("the sentence", "the_reason")


@pytest.mark.parametrize("kind", _classes())
def test_exit_statuses_are_those_that_scripts_rely_on(kind: type[PqflError]) -> None:
    """2 for usage and configuration, 3 for a refusal by policy, 1 for everything else."""
    expected = {ConfigurationError: 2, PolicyError: 3}.get(kind, 1)
    assert kind.exit_status == expected
