"""Key managers for tests: those of examples/qkd as processes, and one in this process that says what a test wants.

network = make_network(tmp_path)                          # an authority of its own, identities, ports
with Crew(logs) as crew: network.start_both(crew)
"""

import asyncio
import json
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web

from certs.authority import Authority
from pqfl.demo.processes import Crew, Event, Process
from pqfl_transport.qkd import Link, LinkConfig
from pqfl_transport.tls import server_context
from tests.support.pki import HOSTS

ENDS = ("north", "south")
LINK = "north-south"
STATUS = {
    "source_KME_ID": "AAAABBBBCCCCDDDD", "target_KME_ID": "EEEEFFFFGGGGHHHH", "master_SAE_ID": "IIIIJJJJKKKKLLLL",
    "slave_SAE_ID": "MMMMNNNNOOOOPPPP", "key_size": 352, "stored_key_count": 25000, "max_key_count": 100000,
    "max_key_per_request": 128, "max_key_size": 1024, "min_key_size": 64, "max_SAE_ID_count": 0,
}  # fmt: skip
"""The example of the standard, clause 6.1."""
_MANAGER = Path(__file__).resolve().parents[2] / "examples" / "qkd" / "manager.py"
_START_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Network:
    """Two key managers, ``north`` and ``south``, each with one SAE of the same name, under their own authority."""

    folder: Path
    ports: dict[str, int]
    held: list[socket.socket] = field(repr=False)
    """Keep the ports ours from before the managers start until after they have ended."""

    def start(self, crew: Crew, end: str, **manager: Any) -> Process:
        """Start the manager of one end and wait until it listens; ``manager`` are further keys of its section."""
        process = crew.start(f"km-{end}", str(_MANAGER), str(self._config(end, manager)))
        process.wait_for(lambda event: event.get("event") == "listening", _START_SECONDS)
        return process

    def start_both(self, crew: Crew) -> dict[str, Process]:
        """Start both managers."""
        return {end: self.start(crew, end) for end in ENDS}

    def link(self, end: str, **changes: Any) -> LinkConfig:
        """What the SAE of one end is configured with."""
        facts = {
            "name": LINK, "url": f"https://127.0.0.1:{self.ports[end]}", "peer_sae": other(end),
            "cert": self.folder / end / "tls.pem", "key": self.folder / end / "tls.key",
            "cacert": self.folder / end / "ca.pem", "verify_uri": f"spiffe://qkd/gateway/{end}",
        }  # fmt: skip
        return LinkConfig(**(facts | changes))

    def section(self, end: str, **changes: Any) -> str:
        """The same as a section of a file of key sources."""
        link = self.link(end, **changes)
        names = ("url", "peer_sae", "cert", "key", "cacert", "verify_uri", "timeout_seconds")
        values = [(name, getattr(link, name)) for name in names]
        # A path is written as a string, a number as itself: both are TOML as they are JSON.
        lines = [f"{name} = {json.dumps(value, default=str)}" for name, value in values]
        return "\n".join([f"[qkd.{link.name}]", *lines, ""])

    def _config(self, end: str, manager: dict[str, Any]) -> Path:
        server, client, far = f"{end}-km", f"{end}-dial", other(end)
        lines = [f"{name} = {json.dumps(value)}" for name, value in manager.items()]
        path = self.folder / f"{end}.toml"
        path.write_text(f"""
[manager]
name = "km-{end}"
listen = "127.0.0.1:{self.ports[end]}"
cert = "{server}/tls.pem"
key = "{server}/tls.key"
cacert = "{server}/ca.pem"
{chr(10).join(lines)}
[link]
name = "km-{far}"
url = "https://127.0.0.1:{self.ports[far]}"
uri = "spiffe://qkd/site/{far}-dial"
verify_uri = "spiffe://qkd/gateway/{far}"
cert = "{client}/tls.pem"
key = "{client}/tls.key"
cacert = "{client}/ca.pem"
[[sae]]
id = "{end}"
uri = "spiffe://qkd/site/{end}"
[[sae]]
id = "{far}"
local = false
""")
        return path


def other(end: str) -> str:
    """Return the other end."""
    return ENDS[1 - ENDS.index(end)]


def make_network(folder: Path) -> Network:
    """Make authority, identities and ports of two linked managers and their SAEs."""
    authority = Authority.create(folder / "ca", federation="qkd")
    ports, held = {}, []
    for end in ENDS:
        authority.issue(profile="gateway", name=end, out=folder / f"{end}-km", hosts=HOSTS)
        authority.issue(profile="site", name=f"{end}-dial", out=folder / f"{end}-dial")
        authority.issue(profile="site", name=end, out=folder / end)
        reserved = socket.socket()
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        reserved.bind(("127.0.0.1", 0))
        held.append(reserved)
        ports[end] = reserved.getsockname()[1]
    return Network(folder, ports, held)


def events(process: Process, kind: str) -> list[Event]:
    """All lines of one kind that a manager has written so far."""
    lines = [line for line in process.log.read_text().splitlines() if line.startswith("{")]
    return [line for line in map(json.loads, lines) if line["event"] == kind]


Answer = Callable[[web.Request], tuple[int, Any]]


@dataclass(slots=True)
class Scripted:
    """A manager in this process that answers what it is told to; ``asked`` are paths and bodies of all requests."""

    url: str = ""
    status: int = 200
    body: Any = None
    """Bytes as they are, anything else as JSON."""
    asked: list[tuple[str, Any]] = field(default_factory=list)


@asynccontextmanager
async def scripted(network: Network, **options: Any) -> AsyncIterator[Scripted]:
    """Listen in place of the north manager, with its certificate."""
    script = Scripted()

    async def answer(request: web.Request) -> web.Response:
        body = await request.read()
        script.asked.append((request.raw_path, json.loads(body) if body else None))
        data = script.body if isinstance(script.body, bytes) else json.dumps(script.body).encode()
        return web.Response(status=script.status, body=data, content_type="application/json", **options)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    server = network.folder / "north-km"
    context = server_context(
        server / "tls.pem", server / "tls.key", server / "ca.pem", allow_uris="spiffe://qkd/site/north"
    )  # fmt: skip
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    script.url = f"https://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield script
    finally:
        await runner.cleanup()


def classical_link(network: Network, files: Path, url: str, **changes: Any) -> Link:
    """An SAE of a classical manager, with the folder of `write_classical`."""
    facts = {"cert": files / "tls.pem", "key": files / "tls.key", "cacert": files / "ca.pem", "verify_uri": None}
    return Link(network.link("north", url=url, classical=True, **(facts | changes)))


async def serve_classical(files: Path, ask: Callable[[str], Any]) -> Any:
    """Let ``ask`` do something with the URL of a classical manager, in a thread; it has a status for everybody."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(files / "ca.pem"))
    context.load_cert_chain(files / "tls.pem", files / "tls.key")
    context.verify_mode = ssl.CERT_REQUIRED

    async def status(request: web.Request) -> web.Response:
        del request
        return web.json_response(STATUS)

    app = web.Application()
    app.router.add_get("/api/v1/keys/south/status", status)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    try:
        return await asyncio.to_thread(ask, f"https://localhost:{runner.addresses[0][1]}")
    finally:
        await runner.cleanup()
