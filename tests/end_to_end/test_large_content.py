"""Four gigabytes, sealed and opened with hardly more memory than the arrays themselves."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.envelopes import make_keys
from tests.support.pki import Federation, make_federation

SIZE_BYTES = 4 << 30
EXTRA_BYTES = 64 << 20
# What a process has loaded before it works: the interpreter, NumPy, OpenSSL.
_BASE = "import resource; base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024"

_IN_MEMORY = f"""
import numpy as np, sys
from pqfl_transport.content.envelope import decode_prologue, verify_prologue
from pqfl_transport.content.opening import MemoryOpening, Opener, read_weights
from pqfl_transport.content.sealing import sealer_of
from pqfl_transport.content.streams import sealed
from tests.support.envelopes import make_keys
keys = make_keys()
{_BASE}
size = int(sys.argv[1])
weights = {{"w": np.arange(size // 4, dtype=np.uint32), "empty": np.zeros((0, 3), np.float32)}}
sealer, layout = sealer_of(weights, keys.parameters, [keys.receiving.public], keys.signing)
pieces = sealed(sealer, layout.buffers())
prologue, _ = decode_prologue(next(pieces))
verify_prologue(prologue, sender_key=keys.signing.verifying_key, policy=keys.policy)
opening = MemoryOpening(Opener(prologue, keys.receiving, sender_key=keys.signing.verifying_key))
for piece in pieces:
    opening.feed(piece)
opened = read_weights(prologue.header, opening.finalize()).weights
assert (opened["w"][:: 1 << 20] == weights["w"][:: 1 << 20]).all() and opened["w"][-1] == weights["w"][-1]
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - base - 2 * size)
"""

_FILES = f"""
import sys
import pqfl.cli
{_BASE}
try:
    pqfl.cli.main(sys.argv[1:])
except SystemExit as end:
    assert not end.code, end.code
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - base)
"""


def run(script: str, *arguments: str) -> int:
    """Run a script in a process of its own; return the last number that it prints."""
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], check=True, capture_output=True, text=True,
        cwd=Path(__file__).parents[2],
    )  # fmt: skip
    return int(done.stdout.split()[-1])


def require_room(folder: Path, disk_bytes: int, memory_bytes: int) -> None:
    """Skip on a machine that is too small for this."""
    free = os.statvfs(folder)
    available = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if free.f_bavail * free.f_frsize < disk_bytes or available < memory_bytes:
        pytest.skip(f"needs {disk_bytes >> 30} GiB of disk and {memory_bytes >> 30} GiB of free memory")


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return make_federation(tmp_path_factory.mktemp("federation"), sites=("bank-a",))


@pytest.mark.slow
def test_arrays_pass_with_little_above_them(tmp_path: Path) -> None:
    """Sealing from arrays and opening into arrays takes the arrays, and at most 64 MiB more."""
    require_room(tmp_path, 0, 9 << 30)
    assert run(_IN_MEMORY, str(SIZE_BYTES)) <= EXTRA_BYTES


@pytest.mark.slow
def test_files_pass_with_constant_memory(federation: Federation, tmp_path: Path) -> None:
    """`pqfl seal` and `pqfl open` of a file of that size hold no more than a few slices of it."""
    require_room(tmp_path, 3 * SIZE_BYTES, 1 << 30)
    source, sealed, opened = tmp_path / "w.safetensors", tmp_path / "w.pqfl", tmp_path / "o.safetensors"
    write_safetensors(source)
    key = tmp_path / "reader.key"
    key.write_bytes(make_keys().receiving.to_pem())
    key.chmod(0o600)
    (tmp_path / "reader.pub").write_bytes(make_keys().receiving.public.to_pem())
    site = federation.site("bank-a")
    to_seal = ("seal", "--to", str(tmp_path / "reader.pub"), "--identity", str(site), str(source), str(sealed))
    assert run(_FILES, *to_seal) <= EXTRA_BYTES
    to_open = ("open", "--key", str(key), "--from", str(site / "signing.pem"), str(sealed), str(opened))
    assert run(_FILES, *to_open) <= EXTRA_BYTES
    assert opened.stat().st_size == source.stat().st_size
    with source.open("rb") as one, opened.open("rb") as other:
        for at in range(0, SIZE_BYTES, SIZE_BYTES // 64):
            one.seek(at)
            other.seek(at)
            assert one.read(4096) == other.read(4096)


def write_safetensors(path: Path) -> None:
    """Write one tensor of that many bytes, most of them a hole in the file."""
    header = f'{{"w":{{"dtype":"F32","shape":[{SIZE_BYTES // 4}],"data_offsets":[0,{SIZE_BYTES}]}}}}'.encode()
    header += b" " * (-len(header) % 8)
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for at in range(0, SIZE_BYTES, SIZE_BYTES // 64):
            file.seek(8 + len(header) + at)
            file.write(os.urandom(4096))
        file.truncate(8 + len(header) + SIZE_BYTES)
