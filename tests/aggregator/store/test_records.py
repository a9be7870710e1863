"""Which run is which."""

import pytest

from aggregator.store.records import KeptRun
from pqfl_transport.errors import ConfigurationError

RUN = KeptRun("fed", b"d" * 32)


def test_the_same_run_is_gone_on_with() -> None:
    """Federation and initial model say what a run is of."""
    RUN.require_same(KeptRun("fed", b"d" * 32), "state")


@pytest.mark.parametrize(
    ("other", "named"),
    [(KeptRun("other", b"d" * 32), "federation 'fed', and this is 'other'"), (KeptRun("fed", b"e" * 32), "65" * 32)],
)
def test_another_run_is_refused_by_what_differs(other: KeptRun, named: str) -> None:
    """One sentence with the folder and both sides."""
    with pytest.raises(ConfigurationError, match=named) as caught:
        RUN.require_same(other, "the/state")
    assert caught.value.reason == "other_run"
    assert str(caught.value).startswith("the/state keeps a run")
