"""The key of the open round as a file: nothing without the restart key, and nothing once it is destroyed."""

import stat
from pathlib import Path

import pytest

from aggregator.store.round_key import RoundKeyFile
from pqfl_transport.content.psk import PreSharedKey
from pqfl_transport.content.recipients import ReceivingKey
from pqfl_transport.errors import ConfigurationError, PlatformError

KEY = ReceivingKey.generate("ML-KEM-768+X25519")
RESTART = PreSharedKey.generate("restart")
CHALLENGE = bytes(range(32))


def reason_of(folder: Path, restart: PreSharedKey | None = RESTART, **changes: bytes) -> str:
    words = {"fingerprint": KEY.fingerprint, "challenge": CHALLENGE} | changes
    with pytest.raises(ConfigurationError) as caught:
        RoundKeyFile(folder, restart).load(**words)
    return caught.value.reason


@pytest.mark.parametrize("kem", ["ML-KEM-768+X25519", "ML-KEM-1024+P-384", "ML-KEM-1024"])
def test_a_key_comes_back(tmp_path: Path, kem: str) -> None:
    """From a private file in which it cannot be read."""
    key = ReceivingKey.generate(kem)
    RoundKeyFile(tmp_path, RESTART).save(key, CHALLENGE)
    assert RoundKeyFile(tmp_path, RESTART).load(key.fingerprint, CHALLENGE).stored == key.stored
    path = tmp_path / "round.key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert key.stored not in path.read_bytes()


def test_without_a_restart_key_nothing_is_written(tmp_path: Path) -> None:
    """And what was there before is gone."""
    RoundKeyFile(tmp_path, RESTART).save(KEY, CHALLENGE)
    RoundKeyFile(tmp_path, None).save(KEY, CHALLENGE)
    assert list(tmp_path.iterdir()) == []
    assert reason_of(tmp_path, None) == "no_restart_key"
    assert reason_of(tmp_path) == "missing"


def test_another_round_or_restart_key_opens_nothing(tmp_path: Path) -> None:
    """Nor does a file that was changed."""
    RoundKeyFile(tmp_path, RESTART).save(KEY, CHALLENGE)
    assert reason_of(tmp_path, fingerprint=b"f" * 32) == "key_mismatch"
    assert reason_of(tmp_path, challenge=b"c" * 32) == "wrong_restart_key"
    assert reason_of(tmp_path, PreSharedKey.generate("restart")) == "wrong_restart_key"
    path = tmp_path / "round.key"
    path.write_bytes(path.read_bytes()[:100])
    assert reason_of(tmp_path) == "bad_key"


def test_what_is_destroyed_is_overwritten_first(tmp_path: Path) -> None:
    """Whoever still has the file open reads nothing of the key; destroying it again is harmless."""
    file = RoundKeyFile(tmp_path, RESTART)
    file.save(KEY, CHALLENGE)
    with (tmp_path / "round.key").open("rb") as held:
        file.destroy()
        assert set(held.read()) == {0}
    file.destroy()
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_cannot_be_written_or_removed_is_an_error(tmp_path: Path) -> None:
    """A key that would stay is not passed over."""
    with pytest.raises(PlatformError):
        RoundKeyFile(tmp_path / "nowhere", RESTART).save(KEY, CHALLENGE)
    (tmp_path / "round.key").symlink_to("elsewhere")
    with pytest.raises(PlatformError, match="cannot be removed"):
        RoundKeyFile(tmp_path, RESTART).destroy()
