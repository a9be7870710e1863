"""The relays that are compared: ours, and the peers found on this machine, each started with the same identity."""

import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

_NGINX = """
{modules}
daemon off; master_process off; worker_processes 1; error_log stderr error; pid {folder}/nginx.pid;
events {{ worker_connections 4096; }}
stream {{ server {{
  listen 127.0.0.1:{port} ssl; proxy_pass 127.0.0.1:{target}; proxy_buffer_size 64k;
  ssl_certificate {folder}/tls.pem; ssl_certificate_key {folder}/tls.key; ssl_protocols TLSv1.3;
  ssl_verify_client on; ssl_client_certificate {folder}/ca.pem; ssl_verify_depth 3;
  ssl_session_cache off; ssl_session_tickets off; ssl_ecdh_curve X25519MLKEM768;
}} }}
"""
_HAPROXY = """
global
  nbthread 1
  maxconn 4096
defaults
  mode tcp
  timeout connect 5s
  timeout client 300s
  timeout server 300s
listen tls_in
  bind 127.0.0.1:{port} ssl crt {folder}/both.pem ca-file {folder}/ca.pem verify required {tls}
  server plain_out 127.0.0.1:{target}
"""
_STUNNEL = """
foreground = yes
pid =
debug = 3
[tls_in]
accept = 127.0.0.1:{port}
connect = 127.0.0.1:{target}
cert = {folder}/tls.pem
key = {folder}/tls.key
CAfile = {folder}/ca.pem
verifyChain = yes
sslVersionMin = TLSv1.3
curves = X25519MLKEM768
"""
_START_SECONDS = 15


@dataclass(slots=True)
class Relay:
    """One running relay."""

    name: str
    port: int
    process: subprocess.Popen[bytes]

    def cpu_seconds(self) -> float:
        """User and system seconds of the process and its children so far, threads that ended included."""
        main = psutil.Process(self.process.pid)
        times = [process.cpu_times() for process in (main, *main.children(recursive=True))]
        return sum(each.user + each.system for each in times)

    def memory_bytes(self) -> int:
        """Resident memory of the process and its children now."""
        main = psutil.Process(self.process.pid)
        return sum(process.memory_info().rss for process in (main, *main.children(recursive=True)))

    def end(self) -> None:
        """Stop it."""
        self.process.kill()
        self.process.wait()


def start_ours(identity: Path, port: int, target: int, *words: str, name: str = "pqfl server") -> Relay:
    """Start `pqfl server`, with more words if there are any."""
    command = [
        sys.executable, "-m", "pqfl", "server", "--listen", f"127.0.0.1:{port}", "--target", f"127.0.0.1:{target}",
        "--cert", f"{identity}/tls.pem", "--key", f"{identity}/tls.key", "--cacert", f"{identity}/ca.pem",
        "--allow-all", "--quiet", *words,
    ]  # fmt: skip
    return _started(name, port, command, identity)


def start_peers(root: Path | None, identity: Path, ports: dict[str, int], target: int) -> tuple[list[Relay], list[str]]:
    """Start nginx, HAProxy and stunnel from PATH, or from inside ``root``; return them, and who is missing and why."""
    folder = _shared_folder(root, identity)
    inside = Path("/") / folder.relative_to(root) if root else folder
    found, missing = [], []
    for name, program, template, arguments in (
        ("nginx", "nginx", _NGINX, ["-c", "{file}"]),
        ("HAProxy", "haproxy", _HAPROXY, ["-f", "{file}", "-db"]),
        ("stunnel", "stunnel", _STUNNEL, ["{file}"]),
    ):
        path = _find(root, program)
        if path is None:
            missing.append(f"{name}: no `{program}` found")
            continue
        modules = (root or Path("/")) / "usr/lib/nginx/modules/ngx_stream_module.so"
        load = f"load_module /{modules.relative_to(root or '/')};" if modules.exists() else ""
        port = ports[name]
        tls = "ssl-min-ver TLSv1.3 curves X25519MLKEM768"
        text = template.format(port=port, target=target, folder=inside, modules=load, tls=tls)
        (folder / f"{program}.conf").write_text(text)
        command = [path, *(word.format(file=inside / f"{program}.conf") for word in arguments)]
        try:
            found.append(_started(name, port, (["chroot", str(root)] if root else []) + command, folder))
        except RuntimeError as error:
            missing.append(f"{name}: {error}")
    return found, missing


def _shared_folder(root: Path | None, identity: Path) -> Path:
    """Return a folder with the gateway's identity that a peer can read, inside its root if it has one."""
    folder = (root / "tmp" / f"pqfl-bench-{os.getpid()}") if root else identity.parent / "peers"
    folder.mkdir()
    for name in ("tls.pem", "tls.key", "ca.pem"):
        shutil.copy(identity / name, folder)
    (folder / "both.pem").write_bytes((identity / "tls.pem").read_bytes() + (identity / "tls.key").read_bytes())
    return folder


def _find(root: Path | None, program: str) -> str | None:
    if root is None:
        return shutil.which(program)
    return next((f"/{place}/{program}" for place in ("usr/sbin", "usr/bin") if (root / place / program).exists()), None)


def _started(name: str, port: int, command: list[str], folder: Path) -> Relay:
    log = folder / f"{name.replace(' ', '-')}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    give_up = time.monotonic() + _START_SECONDS
    while not _listens(process, port):
        if process.poll() is not None or time.monotonic() > give_up:
            process.kill()
            raise RuntimeError(f"does not start: {log.read_text(errors='replace').strip()[-400:]}")
        time.sleep(0.05)
    return Relay(name, port, process)


def _listens(process: subprocess.Popen[bytes], port: int) -> bool:
    if process.poll() is not None:
        return False
    try:
        connections = psutil.Process(process.pid).net_connections("tcp4")
    except psutil.NoSuchProcess:
        return False
    return any(entry.status == psutil.CONN_LISTEN and entry.laddr.port == port for entry in connections)
