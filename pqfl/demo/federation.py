"""The folder of one demonstration: a federation's keys, each hospital's patients, the aggregator's configuration."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from certs.authority import Authority
from pqfl.demo import hospitals, model
from pqfl.demo.hospitals import Patients
from pqfl_transport.errors import ConfigurationError

FEDERATION = "demo"
_MARKER = ".pqfl-demo"
_PARTS = ("ca", "gateway", "aggregator", "sites", "logs", "state")
_RESULTS = ("learning-curves.png", "report.json")


@dataclass(frozen=True, slots=True)
class Hospital:
    """One hospital: its name, where its keys lie, its patients.

    ``sidecar`` and ``client`` under its folder are what its two processes are given: the TLS key for one, the signing
    and the receiving key with the patients for the other, and to none what it does not need.
    """

    name: str
    folder: Path
    patients: Patients

    @property
    def sidecar(self) -> Path:
        """``tls.pem``, ``tls.key``, ``ca.pem``."""
        return self.folder / "sidecar"

    @property
    def client(self) -> Path:
        """``signing.pem``, ``signing.key``, ``receiving.pub``, ``receiving.key``, ``ca.pem``, ``patients.npz``."""
        return self.folder / "client"

    @property
    def uri(self) -> str:
        """The SPIFFE ID in its certificates."""
        return f"spiffe://{FEDERATION}/site/{self.name}"


@dataclass(frozen=True, slots=True)
class Folder:
    """Everything that the processes of the demonstration are started with."""

    path: Path
    hospitals: tuple[Hospital, ...]
    held_out: Patients
    start: model.Weights

    @property
    def gateway(self) -> Path:
        """The gateway's identity folder."""
        return self.path / "gateway"

    @property
    def roster(self) -> Path:
        """The signed roster, as distributed to everybody."""
        return self.path / "ca" / "roster.json"

    @property
    def aggregator_config(self) -> Path:
        """The aggregator's configuration file."""
        return self.path / "aggregator.toml"


def set_up(path: Path, *, sites: int, rounds: int, level: str, seed: int) -> Folder:
    """Make the folder. Raises ``ConfigurationError`` when it holds something that is not an earlier demonstration."""
    shares, held_out = hospitals.deal(sites, seed)
    _clear(path)
    for part in ("sites", "logs"):
        (path / part).mkdir()
    authority = Authority.create(path / "ca", federation=FEDERATION, level=level)
    authority.issue(profile="gateway", name="hub", out=path / "gateway")
    authority.issue(profile="aggregator", name="main", out=path / "aggregator")
    members = []
    for name, patients in zip(hospitals.names(sites), shares, strict=True):
        hospital = Hospital(name, path / "sites" / name, patients)
        authority.issue(profile="site", name=name, out=hospital.client)
        _hand_to_sidecar(hospital)
        patients.save(hospital.client / "patients.npz")
        members.append(hospital)
    held_out.save(path / "held-out.npz")
    start = model.initial(held_out.measurements.shape[1], seed)
    np.savez(path / "initial-model.npz", allow_pickle=False, **start)
    made = Folder(path, tuple(members), held_out, start)
    made.aggregator_config.write_text(_aggregator_config(made, rounds, level))
    return made


def _hand_to_sidecar(hospital: Hospital) -> None:
    hospital.sidecar.mkdir(mode=0o700)
    shutil.copy(hospital.client / "ca.pem", hospital.sidecar)
    for name in ("tls.pem", "tls.key"):
        (hospital.client / name).rename(hospital.sidecar / name)


def _clear(path: Path) -> None:
    if path.exists() and any(path.iterdir()) and not (path / _MARKER).exists():
        raise ConfigurationError(f"--out {path}: the folder holds something else; name an empty or a new one")
    for part in _PARTS:
        shutil.rmtree(path / part, ignore_errors=True)
    for name in _RESULTS:
        (path / name).unlink(missing_ok=True)
    path.mkdir(parents=True, exist_ok=True)
    (path / _MARKER).touch()


def _aggregator_config(folder: Folder, rounds: int, level: str) -> str:
    return f"""\
[aggregator]
listen = "127.0.0.1:0"
identity = "aggregator"
cacert = "aggregator/ca.pem"
roster = "ca/roster.json"
state = "state"
audit = "logs/aggregator-audit.jsonl"

[model]
initial = "initial-model.npz"

[rounds]
count = {rounds}
quorum = {len(folder.hospitals)}
deadline_seconds = 60
level = "{level}"
"""
