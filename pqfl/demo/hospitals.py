"""The data of the demonstration: scikit-learn's breast-cancer set, split among hospitals that see different patients.

The set (Wisconsin Diagnostic Breast Cancer, 569 biopsies, 30 measurements each, malignant or benign) comes inside
scikit-learn. A third is held out for judging every model alike; the rest is dealt out unevenly, by size and by
diagnosis, because that is what makes training together worth while.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pqfl_transport.errors import ConfigurationError

Floats = npt.NDArray[np.float64]

NAMES = ("north", "south", "east", "west", "lake", "river", "hill", "coast")
_HELD_OUT_SHARE = 1 / 3
_LEAST_OF_EACH_CLASS = 3


@dataclass(frozen=True, slots=True)
class Patients:
    """Measurements, shape (patients, 30), scaled to 0 … 1, and diagnoses, shape (patients,): 1 is benign."""

    measurements: Floats
    diagnoses: Floats

    def __len__(self) -> int:
        return len(self.diagnoses)

    def save(self, path: Path) -> None:
        """Write as ``.npz``; a hospital's process reads only its own file."""
        np.savez(path, measurements=self.measurements, diagnoses=self.diagnoses)

    @classmethod
    def load(cls, path: Path) -> "Patients":
        """Read what ``save`` wrote."""
        with np.load(path, allow_pickle=False) as arrays:
            return cls(arrays["measurements"], arrays["diagnoses"])


def names(sites: int) -> tuple[str, ...]:
    """Return names for the hospitals, distinct for any number of them."""
    return tuple(
        f"hospital-{NAMES[index]}" if index < len(NAMES) else f"hospital-{index + 1}" for index in range(sites)
    )


def deal(sites: int, seed: int) -> tuple[list[Patients], Patients]:
    """Return each hospital's patients and the held-out ones.

    Raises ``ConfigurationError`` when scikit-learn is missing or the patients do not suffice for so many hospitals.
    """
    everyone = _load()
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(everyone))
    held_out, rest = np.split(order, [int(len(order) * _HELD_OUT_SHARE)])
    shares: list[list[int]] = [[] for _ in range(sites)]
    for diagnosis in (0.0, 1.0):
        patients = rest[everyone.diagnoses[rest] == diagnosis]
        for share, some in zip(shares, np.split(patients, _cuts(len(patients), sites, rng)), strict=True):
            share.extend(int(index) for index in some)
    return [_subset(everyone, share) for share in shares], _subset(everyone, held_out.tolist())


def _cuts(patients: int, sites: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    spare = patients - sites * _LEAST_OF_EACH_CLASS
    if spare < 0:
        raise ConfigurationError(
            f"--sites {sites}: the data set has too few patients for so many hospitals", reason="too_many_sites"
        )
    sizes = rng.multinomial(spare, rng.dirichlet(np.full(sites, 0.8))) + _LEAST_OF_EACH_CLASS
    return np.cumsum(sizes)[:-1]


def _subset(patients: Patients, indices: list[int]) -> Patients:
    return Patients(patients.measurements[indices], patients.diagnoses[indices])


def pooled(shares: list[Patients]) -> Patients:
    """Return all hospitals' patients in one place: what no hospital may do, as the yardstick."""
    return Patients(
        np.concatenate([share.measurements for share in shares]),
        np.concatenate([share.diagnoses for share in shares]),
    )


def _load() -> Patients:
    try:
        from sklearn.datasets import load_breast_cancer  # noqa: PLC0415 -- an optional extra, wanted only here
    except ImportError as error:
        raise ConfigurationError(
            "the demonstration needs scikit-learn and matplotlib: pip install 'pqfl[demo]'", reason="missing_extra"
        ) from error
    data = load_breast_cancer()
    measurements = np.asarray(data.data, dtype=np.float64)
    # The range of every measurement is printed in the data set's public description, so scaling by it tells no
    # hospital anything about another's patients.
    low, high = measurements.min(axis=0), measurements.max(axis=0)
    return Patients((measurements - low) / (high - low), np.asarray(data.target, dtype=np.float64))
