"""A Flower deployment on loopback: one SuperLink, two SuperNodes, `flwr run`; in an environment of its own."""

import os
import re
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BIN = ROOT / ".venv-flower" / "bin"
APP = ROOT / "examples" / "flower"
START_SECONDS = 120
RUN_SECONDS = 300
_RESULT = re.compile(r"TUMOUR accuracy=(\{.*\}) seconds=([0-9.]+)")


def require_flower() -> None:
    """Skip, with the reason, where Flower is not installed: its packages are kept apart from ours."""
    if not (BIN / "flower-superlink").exists():
        pytest.skip("Flower is not installed; `make test` makes .venv-flower for it")


def free_port() -> int:
    """Return a port that was free a moment ago: Flower's programs take no port of 0."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port


@dataclass(frozen=True, slots=True)
class Result:
    """What the app printed at its end."""

    accuracy: str
    seconds: float


class Flower:
    """Starts the parts; everything they write lies in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self._processes: list[subprocess.Popen[bytes]] = []
        (folder / "home").mkdir(parents=True)
        (folder / "home" / "config.toml").write_text(
            f'[superlink]\ndefault = "hub"\n\n[superlink.hub]\naddress = "127.0.0.1:{self.port}"\ninsecure = true\n'
        )

    @property
    def target(self) -> str:
        """Where the SuperLink listens."""
        return f"127.0.0.1:{self.port}"

    def start_superlink(self) -> None:
        """Start the hub's part and wait until it listens."""
        self._start(
            "superlink", "flower-superlink", "--insecure", "--host", "127.0.0.1", "--port", str(self.port),
            "--disable-runtime-dependency-installation",
        )  # fmt: skip
        self._await_port(self.port)

    def start_supernode(self, number: int, superlink: str) -> None:
        """Start a site's part; ``superlink`` is all it knows of the hub."""
        self._start(
            f"supernode-{number}", "flower-supernode", "--insecure", "--superlink", superlink,
            "--port", str(free_port()), "--node-config", f"hospital={number} hospitals=2",
        )  # fmt: skip

    def run(self, **config: int) -> Result:
        """Run the app to its end. Raises ``AssertionError`` with what everybody wrote."""
        words = ["run", str(APP), "hub", "--stream"]
        if config:
            words += ["--run-config", " ".join(f"{name.replace('_', '-')}={value}" for name, value in config.items())]
        done = subprocess.run(
            [BIN / "flwr", *words], env=self._environment(), cwd=self.folder, capture_output=True, text=True,
            timeout=RUN_SECONDS, check=False,
        )  # fmt: skip
        match = _RESULT.search(done.stdout)
        assert match is not None, f"{done.stdout}\n{done.stderr}\n{self.logs()}"
        return Result(match[1], float(match[2]))

    def logs(self) -> str:
        """The end of every part's log."""
        return "\n".join(
            f"--- {path.name}\n{path.read_text(errors='replace')[-3000:]}" for path in self.folder.glob("*.log")
        )

    def end(self) -> None:
        """End all parts."""
        for process in reversed(self._processes):
            process.terminate()
        for process in self._processes:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _start(self, name: str, program: str, *words: str) -> None:
        with (self.folder / f"{name}.log").open("wb") as log:
            self._processes.append(
                subprocess.Popen(
                    [BIN / program, *words], env=self._environment(), cwd=self.folder, stdout=log,
                    stderr=subprocess.STDOUT,
                )
            )  # fmt: skip

    def _environment(self) -> Mapping[str, str]:
        return os.environ | {
            "PATH": f"{BIN}:{os.environ['PATH']}", "HOME": str(self.folder / "home"),
            "FLWR_HOME": str(self.folder / "home"), "FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1",
            # Otherwise the SuperLink asks a package index on every run.
            "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
            "NO_PROXY": "127.0.0.1",
        }  # fmt: skip

    def _await_port(self, port: int) -> None:
        until = time.monotonic() + START_SECONDS
        while time.monotonic() < until:
            with socket.socket() as attempt:
                if attempt.connect_ex(("127.0.0.1", port)) == 0:
                    return
            assert self._processes[-1].poll() is None, self.logs()
            time.sleep(0.1)
        raise AssertionError(f"port {port} never opened\n{self.logs()}")


@contextmanager
def flower(folder: Path) -> Iterator[Flower]:
    """Give a deployment whose parts end with the block."""
    deployment = Flower(folder)
    try:
        yield deployment
    finally:
        deployment.end()
