"""What is inside an update, opened again from its file: the same delta, or an error that names the sender."""

from pathlib import Path
from typing import cast

import numpy as np
import pytest

from aggregator.contents import StoredUpdate, read_update
from pqfl_transport.content.envelope import decode_prologue
from pqfl_transport.content.opening import content_key
from pqfl_transport.content.recipients import ReceivingKey
from pqfl_transport.content.sealing import EnvelopeParameters, seal_weights
from pqfl_transport.content.tensors import TensorLayout
from pqfl_transport.crypto.pyca import SigningKey
from pqfl_transport.errors import RoundError
from pqfl_transport.pki.roster import Party
from pqfl_transport.pki.spiffe import Role, SpiffeId

BASE = {"w": np.zeros(300_000, np.float32), "n": np.zeros(2, np.int64)}
DELTA = {"w": np.arange(300_000, dtype=np.float32), "n": np.array([-1, 5])}
RECEIVING, SIGNING = ReceivingKey.generate("ML-KEM-768+X25519"), SigningKey.generate("ML-DSA-65")


class _Party:
    id = SpiffeId("fed", Role.SITE, "bank-a")
    weight_cap = 1000


SENDER = cast("Party", _Party())


@pytest.fixture(params=[False, True], ids=["plain", "trailer"])
def stored(request: pytest.FixtureRequest, tmp_path: Path) -> StoredUpdate:
    parameters = EnvelopeParameters(
        suite="pqfl/v1/mlkem768x25519-mldsa65", federation="fed", sender=str(SENDER.id), direction="update", round=1,
        trailer=request.param,
    )  # fmt: skip
    data = bytes(seal_weights(DELTA, parameters, [RECEIVING.public], SIGNING, {"samples": "9"}))
    (tmp_path / "update").write_bytes(data)
    prologue, _ = decode_prologue(data)
    key = content_key(prologue, RECEIVING)
    return StoredUpdate(tmp_path / "update", prologue.digest, SENDER, 9, BASE, SIGNING.verifying_key, key, ())


def test_the_delta_is_opened_anew_each_time(stored: StoredUpdate) -> None:
    """Nobody's changes to the one before are in it."""
    for _ in range(2):
        delta = stored.delta
        assert isinstance(delta, dict)
        assert all(np.array_equal(delta[name], DELTA[name]) for name in DELTA)
        delta["w"][:] = 0


@pytest.mark.parametrize("damage", ["gone", "empty", "prologue", "other", "cut", "longer", "body"])
def test_a_file_that_was_damaged_is_not_averaged(stored: StoredUpdate, damage: str) -> None:
    """The sentence names the sender, who is not at fault."""
    whole = stored.path.read_bytes()
    changed = {
        "gone": None, "empty": b"", "prologue": whole[:500], "other": whole[:40] + b"\xff" + whole[41:],
        "cut": whole[:-1], "longer": whole + b"x", "body": whole[:-9000] + b"\x00" + whole[-8999:],
    }[damage]  # fmt: skip
    if changed is None:
        stored.path.unlink()
    else:
        stored.path.write_bytes(changed)
    with pytest.raises(RoundError, match="bank-a was damaged on the disk") as caught:
        _ = stored.delta
    assert caught.value.reason == "damaged_update"


@pytest.mark.parametrize(
    ("samples", "allowed"), [("1", True), ("1000", True), ("1001", False), ("0", False), ("", False)]
)
def test_samples_are_held_to_the_rosters_cap(samples: str, allowed: bool) -> None:
    """One and more, and no more than the roster allows."""
    layout = TensorLayout.of(DELTA, {"samples": samples})
    plaintext = memoryview(bytearray(b"".join(layout.buffers())))
    if allowed:
        assert read_update(plaintext, "safetensors", SENDER, BASE).samples == int(samples)
        return
    with pytest.raises(RoundError) as caught:
        read_update(plaintext, "safetensors", SENDER, BASE)
    assert caught.value.reason == "bad_samples"
