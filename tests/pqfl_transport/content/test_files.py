"""Sealing and opening files: constant memory, mode 0600, whole or not at all, and never pickle."""

import errno
import os
import stat
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from pqfl_transport.content import staging
from pqfl_transport.content.envelope import Prologue
from pqfl_transport.content.files import Sender, open_file, seal_file
from pqfl_transport.content.header import CODECS
from pqfl_transport.content.keysource import ExtraKey
from pqfl_transport.content.weight_files import load_weights
from pqfl_transport.errors import ConfigurationError, MessageError, PlatformError, PqflError
from tests.support.envelopes import SENDER, make_keys

KEYS = make_keys()
WEIGHTS: dict[str, Any] = {
    "layer.weight": np.arange(12, dtype=np.float32).reshape(3, 4),
    "layer.bias": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "big-endian": np.arange(3, dtype=">i4"),
    "empty": np.zeros((0, 7), np.float16),
    "scalar": np.array(True),
}


def seal(source: Path, target: Path, **options: Any) -> None:
    facts = {
        "parameters": KEYS.parameters, "recipients": [KEYS.receiving.public], "signing_key": KEYS.signing
    } | options  # fmt: skip
    seal_file(source, target, **facts)


def unseal(source: Path, target: Path, **options: Any) -> Any:
    facts = {"sender": SENDER, "sender_key": KEYS.signing.verifying_key, "receiving_key": KEYS.receiving} | options
    sender = Sender(facts["sender"], facts["sender_key"], KEYS.policy)
    key_source = facts.get("key_source")
    return open_file(
        source, target, sender=sender, unlock=lambda _prologue: facts["receiving_key"], key_source=key_source
    )


def same(found: Any, expected: Any) -> bool:
    return found.shape == expected.shape and bool((found == expected).all())


@pytest.mark.parametrize("source", ["w.npz", "w.safetensors"])
@pytest.mark.parametrize("target", ["o.npz", "o.safetensors"])
def test_weights_pass_between_both_kinds_of_file(tmp_path: Path, source: str, target: str) -> None:
    """Whatever went in comes out as the kind that is asked for, value by value."""
    weights = {name: np.asarray(a, a.dtype.newbyteorder("<"), order="C") for name, a in WEIGHTS.items()}
    if source == "w.npz":
        np.savez(tmp_path / source, **WEIGHTS)
    else:
        safetensors.numpy.save_file(weights, tmp_path / source)
    seal(tmp_path / source, tmp_path / "w.pqfl")
    header = unseal(tmp_path / "w.pqfl", tmp_path / target)
    assert header.sender == SENDER
    if target == "o.npz":
        with np.load(tmp_path / target, allow_pickle=False) as found:
            opened = dict(found.items())
    else:
        opened = safetensors.numpy.load_file(tmp_path / target)
    assert set(opened) == set(WEIGHTS)
    assert all(same(opened[name], WEIGHTS[name]) for name in WEIGHTS)
    assert all(same(array, WEIGHTS[name]) for name, array in load_weights(tmp_path / source).items())
    for path in (tmp_path / "w.pqfl", tmp_path / target):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_compressed_files_are_read_too(tmp_path: Path) -> None:
    """`savez_compressed` makes an .npz like any other."""
    np.savez_compressed(tmp_path / "w.npz", a=np.zeros(100_000))
    seal(tmp_path / "w.npz", tmp_path / "w.pqfl")
    unseal(tmp_path / "w.pqfl", tmp_path / "o.npz")
    assert load_weights(tmp_path / "o.npz")["a"].shape == (100_000,)


def test_memory_stays_constant(tmp_path: Path) -> None:
    """64 MiB are sealed and opened within 12 MiB."""
    np.savez(tmp_path / "w.npz", a=np.ones((16, 1 << 20), np.float32))
    for action in (
        lambda: seal(tmp_path / "w.npz", tmp_path / "w.pqfl"),
        lambda: unseal(tmp_path / "w.pqfl", tmp_path / "o.npz"),
        lambda: unseal(tmp_path / "w.pqfl", tmp_path / "o.safetensors"),
    ):
        tracemalloc.start()
        action()
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 12 << 20
    assert same(load_weights(tmp_path / "o.safetensors")["a"], np.ones((16, 1 << 20), np.float32))


def test_endings_decide_and_others_are_refused(tmp_path: Path) -> None:
    """Neither a model of another framework nor an unnamed target is guessed at."""
    np.savez(tmp_path / "w.npz", a=np.zeros(1))
    seal(tmp_path / "w.npz", tmp_path / "w.pqfl")
    for use in (
        lambda: seal(tmp_path / "model.pt", tmp_path / "x.pqfl"),
        lambda: unseal(tmp_path / "w.pqfl", tmp_path / "model.pt"),
        lambda: load_weights(tmp_path / "model.pkl"),
    ):
        with pytest.raises(ConfigurationError) as caught:
            use()
        assert caught.value.reason == "unknown_ending"


def test_what_is_wrong_leaves_the_target_as_it_was(tmp_path: Path) -> None:
    """A damaged envelope, one from somebody else, one that is missing: the old file stays, no part is left."""
    np.savez(tmp_path / "w.npz", **WEIGHTS)
    seal(tmp_path / "w.npz", tmp_path / "w.pqfl")
    (tmp_path / "o.npz").write_text("old")
    damaged = bytearray((tmp_path / "w.pqfl").read_bytes())
    damaged[-1] ^= 1
    (tmp_path / "damaged.pqfl").write_bytes(damaged)
    (tmp_path / "short.pqfl").write_bytes(damaged[:-40])
    (tmp_path / "empty.pqfl").touch()
    before = {path.name for path in tmp_path.iterdir()}
    for name, options, reason in (
        ("damaged", {}, "bad_body"),
        ("short", {}, "truncated"),
        ("empty", {}, "truncated"),
        ("nowhere", {}, "unreadable"),
        ("w", {"sender": "spiffe://fed/site/bank-b"}, "wrong_sender"),
        ("w", {"receiving_key": KEYS.other}, "not_for_us"),
    ):
        with pytest.raises(PqflError) as caught:
            unseal(tmp_path / f"{name}.pqfl", tmp_path / "o.npz", **options)
        assert caught.value.reason == reason
    assert {path.name for path in tmp_path.iterdir()} == before
    assert (tmp_path / "o.npz").read_text() == "old"


def test_an_authentic_body_that_is_no_layout_is_not_published(tmp_path: Path) -> None:
    """Even from the right sender, what is no set of tensors does not become a file."""
    from pqfl_transport.content.sealing import Sealer  # noqa: PLC0415 -- only here

    sealer = Sealer(KEYS.parameters, 40, [KEYS.receiving.public], KEYS.signing)
    (tmp_path / "w.pqfl").write_bytes(sealer.prologue.raw + sealer.update(bytes(40)) + sealer.finalize())
    for name in ("o.npz", "o.safetensors"):
        with pytest.raises(MessageError):
            unseal(tmp_path / "w.pqfl", tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["w.pqfl"]


def test_a_full_disk_is_named_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Running out of space in the middle is one error with the target's name."""
    np.savez(tmp_path / "w.npz", **WEIGHTS)

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(staging.os, "fsync", full)  # type: ignore[attr-defined]
    with pytest.raises(PlatformError, match=r"w\.pqfl: cannot be written: No space left") as caught:
        seal(tmp_path / "w.npz", tmp_path / "w.pqfl")
    assert caught.value.reason == "disk"
    assert [path.name for path in tmp_path.iterdir()] == ["w.npz"]


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    """The target's folder is not made by itself."""
    np.savez(tmp_path / "w.npz", a=np.zeros(1))
    with pytest.raises(ConfigurationError, match="nowhere") as caught:
        seal(tmp_path / "w.npz", tmp_path / "nowhere" / "w.pqfl")
    assert caught.value.reason == "not_writable"


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("target", ["o.npz", "o.safetensors"])
def test_a_codec_is_undone_in_both_kinds_of_file(tmp_path: Path, codec: str, target: str) -> None:
    """What a codec made smaller comes out with its names, types and shapes."""
    weights = {"w": np.linspace(-1, 1, 20_000, dtype=np.float32).reshape(100, 200), "n": np.arange(5)}
    np.savez(tmp_path / "w.npz", **weights)
    seal(tmp_path / "w.npz", tmp_path / "w.pqfl", parameters=replace(KEYS.parameters, codec=codec))
    assert unseal(tmp_path / "w.pqfl", tmp_path / target).codec == codec
    found = load_weights(tmp_path / target)
    assert same(found["n"], weights["n"])
    assert (found["w"].dtype, found["w"].shape) == (np.float32, (100, 200))


class Source:
    """A source of extra keys that counts."""

    def __init__(self) -> None:
        self.fetched = self.settled = 0

    def fetch(self, prologue: Prologue) -> tuple[bytes, ...]:
        """Give the key."""
        self.fetched += 1
        return (b"m" * 32,) * len(prologue.header.extra_key_ids)

    def settle(self, prologue: Prologue) -> None:
        """Note that the file was opened."""
        del prologue
        self.settled += 1


def test_an_extra_key_is_used_up_by_a_whole_file_for_us_alone(tmp_path: Path) -> None:
    """A file that is cut, or sealed to somebody else, leaves it where it is; one that opens settles it."""
    extra = (ExtraKey("psk:spring:" + "0" * 32, b"m" * 32),)
    np.savez(tmp_path / "w.npz", a=np.arange(5.0))
    seal(tmp_path / "w.npz", tmp_path / "w.pqfl", parameters=replace(KEYS.parameters, extra_keys=extra))
    (tmp_path / "cut.pqfl").write_bytes((tmp_path / "w.pqfl").read_bytes()[:-1])
    source = Source()
    with pytest.raises(MessageError, match="1 bytes short"):
        unseal(tmp_path / "cut.pqfl", tmp_path / "o.npz", key_source=source)
    with pytest.raises(MessageError):
        unseal(tmp_path / "w.pqfl", tmp_path / "o.npz", key_source=source, receiving_key=KEYS.other)
    assert (source.fetched, source.settled) == (0, 0)
    unseal(tmp_path / "w.pqfl", tmp_path / "o.npz", key_source=source)
    assert (source.fetched, source.settled) == (1, 1)
