"""An NVFlare deployment on loopback: a server and two clients from signed kits; in an environment of its own."""

import os
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.flower import free_port

ROOT = Path(__file__).parents[2]
BIN = ROOT / ".venv-nvflare" / "bin"
EXAMPLE = ROOT / "examples" / "nvflare"
START_SECONDS = 120
RUN_SECONDS = 400

_PROJECT = """
api_version: 3
name: tumours
description: behind sidecars
connection_security: clear
participants:
  - name: server1
    type: server
    org: hub
    fed_learn_port: {server}
    default_host: 127.0.0.1
{clients}
  - name: admin@example.org
    type: admin
    org: hub
    role: project_admin
builders:
  - path: nvflare.lighter.impl.workspace.WorkspaceBuilder
    args: {{template_file: [master_template.yml, aws_template.yml, azure_template.yml]}}
  - path: nvflare.lighter.impl.static_file.StaticFileBuilder
    args: {{config_folder: config, scheme: grpc}}
  - path: nvflare.lighter.impl.cert.CertBuilder
  - path: nvflare.lighter.impl.signature.SignatureBuilder
"""
_CLIENT = """  - name: site-{number}
    type: client
    org: org{number}
    connect_to: {{host: 127.0.0.1, port: {port}}}
"""


def require_nvflare() -> None:
    """Skip, with the reason, where NVFlare is not installed: its packages are kept apart from ours."""
    if not (BIN / "nvflare").exists():
        pytest.skip("NVFlare is not installed; `make e2e` makes .venv-nvflare for it")


class NVFlare:
    """Starts the parts; everything they write lies in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self._processes: list[subprocess.Popen[bytes]] = []
        (folder / "home").mkdir(parents=True)

    def provision(self, sidecars: Sequence[int]) -> None:
        """Make the kits; each client is told the port of its sidecar and nothing else."""
        clients = "".join(_CLIENT.format(number=number, port=port) for number, port in enumerate(sidecars, 1))
        (self.folder / "project.yml").write_text(_PROJECT.format(server=self.port, clients=clients.rstrip("\n")))
        subprocess.run(
            [BIN / "nvflare", "provision", "-p", self.folder / "project.yml", "-w", self.folder / "workspace"],
            env=self._environment(), cwd=self.folder, check=True, capture_output=True, timeout=START_SECONDS,
        )  # fmt: skip

    def start_server(self) -> None:
        """Start the hub's part and wait until it listens."""
        self._start("server", "server.server_train", "server1", "fed_server.json", "org=hub")
        until = time.monotonic() + START_SECONDS
        while time.monotonic() < until:
            with socket.socket() as attempt:
                if attempt.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            assert self._processes[-1].poll() is None, self.logs()
            time.sleep(0.2)
        raise AssertionError(f"the server never listened\n{self.logs()}")

    def start_client(self, number: int) -> None:
        """Start a site's part."""
        name = f"site-{number}"
        self._start(name, "client.client_train", name, "fed_client.json", f"uid={name}", f"org=org{number}")

    def run(self) -> str:
        """Submit the job and wait for its end; return what was printed of it."""
        kit = self._kits / "admin@example.org"
        done = subprocess.run(
            [BIN / "python", EXAMPLE / "submit.py", kit], env=self._environment(), cwd=self.folder,
            capture_output=True, text=True, timeout=RUN_SECONDS, check=False,
        )  # fmt: skip
        lines = [line for line in done.stdout.splitlines() if line.startswith("TUMOURS")]
        assert lines, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}\n{self.logs()}"
        return lines[-1]

    def logs(self) -> str:
        """The end of every part's log."""
        return "\n".join(
            f"--- {path.name}\n{path.read_text(errors='replace')[-3000:]}" for path in self.folder.glob("*.log")
        )

    def end(self) -> None:
        """End all parts, and what they started."""
        for process in self._processes:
            with_group = os.getpgid(process.pid) if process.poll() is None else None
            if with_group is not None:
                os.killpg(with_group, 9)
            process.wait()

    @property
    def _kits(self) -> Path:
        return self.folder / "workspace" / "tumours" / "prod_00"

    def _start(self, name: str, module: str, kit: str, config: str, *facts: str) -> None:
        with (self.folder / f"{name}.log").open("wb") as log:
            self._processes.append(
                subprocess.Popen(
                    [
                        BIN / "python", "-u", "-m", f"nvflare.private.fed.app.{module}", "-m", self._kits / kit, "-s",
                        config, "--set", "secure_train=true", "config_folder=config", *facts,
                    ],
                    env=self._environment(), cwd=self.folder, stdout=log, stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            )  # fmt: skip

    def _environment(self) -> Mapping[str, str]:
        return os.environ | {
            "PATH": f"{BIN}:{os.environ['PATH']}", "HOME": str(self.folder / "home"), "NO_PROXY": "127.0.0.1",
            "PYTHONPATH": "",
        }  # fmt: skip


@contextmanager
def nvflare(folder: Path) -> Iterator[NVFlare]:
    """Give a deployment whose parts end with the block."""
    deployment = NVFlare(folder)
    try:
        yield deployment
    finally:
        deployment.end()
