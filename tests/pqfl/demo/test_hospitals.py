"""The patients of the demonstration: dealt once, to one hospital each, none lost."""

from pathlib import Path

import numpy as np
import pytest

from pqfl.demo import hospitals
from pqfl.demo.hospitals import Patients
from pqfl_transport.errors import ConfigurationError


@pytest.mark.parametrize("sites", [1, 3, 8, 12])
def test_every_patient_is_dealt_exactly_once(sites: int) -> None:
    """Held-out and hospitals' patients together are the data set, without overlap."""
    shares, held_out = hospitals.deal(sites, seed=5)
    rows = np.concatenate([*(share.measurements for share in shares), held_out.measurements])
    assert rows.shape == (569, 30)
    assert len(np.unique(rows, axis=0)) == len(np.unique(hospitals._load().measurements, axis=0))


def test_every_hospital_sees_both_diagnoses() -> None:
    """A hospital with one diagnosis only could not train at all."""
    shares, _ = hospitals.deal(8, seed=5)
    assert all(set(share.diagnoses) == {0.0, 1.0} for share in shares)


def test_the_same_seed_deals_the_same_patients() -> None:
    """A run can be repeated."""
    (first, *_), _ = hospitals.deal(3, seed=5)
    (again, *_), _ = hospitals.deal(3, seed=5)
    assert np.array_equal(first.measurements, again.measurements)


def test_too_many_hospitals_are_refused_by_the_flag_that_asked() -> None:
    """Two hundred hospitals would get less than three patients of each diagnosis."""
    with pytest.raises(ConfigurationError, match="--sites 200"):
        hospitals.deal(200, seed=5)


def test_names_are_distinct_and_fit_a_spiffe_id() -> None:
    """Any number of hospitals get names of their own."""
    names = hospitals.names(30)
    assert len(set(names)) == 30
    assert all(name.replace("-", "").isalnum() and name.islower() for name in names)


def test_patients_come_back_from_their_file(tmp_path: Path) -> None:
    """What a hospital's process reads is what was dealt to it."""
    (share, *_), _ = hospitals.deal(3, seed=5)
    share.save(tmp_path / "patients.npz")
    again = Patients.load(tmp_path / "patients.npz")
    assert np.array_equal(again.measurements, share.measurements)
    assert np.array_equal(again.diagnoses, share.diagnoses)
