"""The model that an aggregator goes on from: opened by its own key alone, and only as the model it was."""

import stat
from pathlib import Path

import numpy as np
import pytest

from aggregator.store.own_model import OwnModels
from pqfl_transport.aggregation.fedavg import Weights
from pqfl_transport.content.receiving_keys import ReceivingKeys
from pqfl_transport.content.recipients import ReceivingKey
from pqfl_transport.content.tensors import model_digest
from pqfl_transport.errors import ConfigurationError, PlatformError
from tests.support.rounds import MODEL

KEYS = ReceivingKeys.of(ReceivingKey.generate("ML-KEM-768+X25519"))
DIGEST = model_digest(MODEL)


def own(folder: Path, keys: ReceivingKeys = KEYS, federation: str = "fed") -> OwnModels:
    return OwnModels(folder, keys, federation)


@pytest.mark.parametrize(
    "weights", [MODEL, list(MODEL.values()), {"big": np.arange(300_000, dtype=np.float64)}], ids=["map", "list", "big"]
)
def test_a_model_comes_back_in_form_and_value(tmp_path: Path, weights: Weights) -> None:
    """From a private file in which none of it can be read."""
    own(tmp_path).save(3, model_digest(weights), weights)
    path = tmp_path / "own" / "00000003.own"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert b"data_offsets" not in path.read_bytes()
    found = own(tmp_path).load(3, model_digest(weights))
    assert type(found) is type(weights)
    assert model_digest(found) == model_digest(weights)


def test_after_a_rotation_the_former_key_still_opens(tmp_path: Path) -> None:
    """And what is saved from then on is for the new one."""
    own(tmp_path).save(1, DIGEST, MODEL)
    new = ReceivingKey.generate("ML-KEM-768+X25519")
    rotated = KEYS.rotated(new, now=100, not_after=10**10)
    later = own(tmp_path, rotated)
    later.load(1, DIGEST)
    later.save(2, DIGEST, MODEL)
    own(tmp_path, ReceivingKeys.of(new)).load(2, DIGEST)


def test_what_is_not_the_model_of_the_database_is_refused(tmp_path: Path) -> None:
    """Another version, digest, federation or key; changed, cut or missing bytes: by the name of the file."""
    own(tmp_path).save(1, DIGEST, MODEL)
    path = tmp_path / "own" / "00000001.own"
    whole = path.read_bytes()
    strangers = ReceivingKeys.of(ReceivingKey.generate("ML-KEM-768+X25519"))
    for models, version, digest in (
        (own(tmp_path), 2, DIGEST),
        (own(tmp_path), 1, b"x" * 32),
        (own(tmp_path, federation="other"), 1, DIGEST),
        (own(tmp_path, strangers), 1, DIGEST),
    ):
        with pytest.raises(ConfigurationError, match=r"0000000[12]\.own") as caught:
            models.load(version, digest)
        assert caught.value.reason == "own_model"
    for at in range(0, len(whole), 7):
        for damaged in (whole[:at], whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]):
            path.write_bytes(damaged)
            with pytest.raises(ConfigurationError, match=r"00000001\.own"):
                own(tmp_path).load(1, DIGEST)


def test_only_the_one_that_is_gone_on_from_is_kept(tmp_path: Path) -> None:
    """The ones before are of no use."""
    models = own(tmp_path)
    for version in (1, 2, 3):
        models.save(version, DIGEST, MODEL)
    models.keep_only(2)
    assert [path.name for path in (tmp_path / "own").iterdir()] == ["00000002.own"]


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """At the start as a matter of configuration, later as one of the disk."""
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ConfigurationError, match="file"):
        own(tmp_path / "file")
    models = own(tmp_path)
    (tmp_path / "own").rmdir()
    with pytest.raises(PlatformError) as caught:
        models.save(1, DIGEST, MODEL)
    assert caught.value.reason == "disk"
