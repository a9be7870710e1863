"""A small key manager that speaks ETSI GS QKD 014 V1.1.1, for demonstrations and tests.

    python manager.py north.toml

There is no quantum device: its keys come from the operating system's random generator, and the link to the other
manager is an ordinary TLS connection. Whoever breaks that connection has the keys. It shows how programs talk to a real
manager, and is none.

An SAE is whoever its TLS certificate says: the file maps SPIFFE IDs to SAE IDs. A new key is sent to the other manager
before it is handed out, and each manager forgets a key once it has given it to its own side.
"""

import argparse
import asyncio
import base64
import json
import secrets
import signal
import sys
import tomllib
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import aiohttp
from aiohttp import web

from pqfl_transport.tls import client_context, server_context

MAX_KEYS_PER_REQUEST = 16
MAX_KEY_BITS = 1024
MIN_KEY_BITS = 64
MAX_STORED_KEYS = 1000
LINK_SECONDS = 5.0


class Refused(Exception):  # noqa: N818 -- an answer, not a fault
    """An answer that is no success (clause 6.5)."""

    def __init__(self, status, message):
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Sae:
    """A program that uses keys: what it is called, and whether its keys come from here."""

    id: str
    uri: str
    is_local: bool


class Manager:
    """The keys of one site. A key is kept for one pair of SAEs until the local one of them asks for it."""

    def __init__(self, config, folder):
        self.name = config["manager"]["name"]
        self.capacity = config["manager"].get("capacity", MAX_STORED_KEYS)
        """How many keys this manager can still make: a demonstration of a link that runs dry."""
        self.saes = [Sae(row["id"], row.get("uri", ""), row.get("local", True)) for row in config["sae"]]
        self.link_uri = config["link"]["uri"]
        self.link_url = config["link"].get("url", "")
        self.link_name = config["link"]["name"]
        link = [str(folder / config["link"][name]) for name in ("cert", "key", "cacert")]
        self.link_context = client_context(*link, verify_uri=config["link"]["verify_uri"])
        self.stored = {}

    def local_sae(self, uri):
        """Return the SAE of a certificate."""
        for sae in self.saes:
            if sae.is_local and sae.uri == uri:
                return sae
        raise Refused(401, "no SAE of this certificate belongs here")

    def remote_sae(self, sae_id):
        """Return the SAE at the other end."""
        for sae in self.saes:
            if not sae.is_local and sae.id == sae_id:
                return sae
        raise Refused(400, "no link to this SAE")

    async def new_keys(self, master, slave, number, size):
        """Make keys that both managers know."""
        if not 1 <= number <= MAX_KEYS_PER_REQUEST:
            raise Refused(400, f"number has to be 1 to {MAX_KEYS_PER_REQUEST}")
        if size % 8 or not MIN_KEY_BITS <= size <= MAX_KEY_BITS:
            raise Refused(400, f"size shall be a multiple of 8, {MIN_KEY_BITS} to {MAX_KEY_BITS}")
        if number > self.capacity:
            raise Refused(503, "the link has no keys left")
        keys = [
            {"key_ID": str(uuid.uuid4()), "key": base64.b64encode(secrets.token_bytes(size // 8)).decode()}
            for _ in range(number)
        ]
        await self.send_over_link({"master": master.id, "slave": slave.id, "keys": keys})
        self.capacity -= number
        return keys

    def take(self, master, slave, key_ids):
        """Hand out keys and forget them; all of them or none."""
        wanted = [(master.id, slave.id, key_id) for key_id in key_ids]
        if not wanted or len(set(wanted)) != len(wanted) or not all(name in self.stored for name in wanted):
            raise Refused(400, "one or more keys specified are not found on KME")
        return [{"key_ID": name[2], "key": self.stored.pop(name)} for name in wanted]

    def store(self, facts):
        """Keep what came over the link for an SAE of this site."""
        slave = next((sae for sae in self.saes if sae.is_local and sae.id == facts["slave"]), None)
        if slave is None or len(self.stored) + len(facts["keys"]) > MAX_STORED_KEYS:
            raise Refused(503, "nobody to keep these keys for, or no room")
        for key in facts["keys"]:
            self.stored[facts["master"], slave.id, key["key_ID"]] = key["key"]

    async def send_over_link(self, facts):
        """Give keys to the other manager. There they are before anybody here can name them."""
        timeout = aiohttp.ClientTimeout(total=LINK_SECONDS)
        connector = aiohttp.TCPConnector(ssl=self.link_context, force_close=True)
        try:
            async with (
                aiohttp.ClientSession(connector=connector, timeout=timeout) as session,
                session.post(f"{self.link_url}/link/keys", json=facts) as answer,
            ):
                if answer.status != 200:
                    raise Refused(503, "the other end of the link takes no keys")
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise Refused(503, f"the link is down: {error or type(error).__name__}") from error

    def status(self, master, slave):
        """Describe the keys between two SAEs (clause 6.1)."""
        stored = sum(1 for pair in self.stored if pair[:2] == (slave.id, master.id))
        return {
            "source_KME_ID": self.name, "target_KME_ID": self.link_name, "master_SAE_ID": master.id,
            "slave_SAE_ID": slave.id, "key_size": 256, "stored_key_count": self.capacity + stored,
            "max_key_count": MAX_STORED_KEYS, "max_key_per_request": MAX_KEYS_PER_REQUEST,
            "max_key_size": MAX_KEY_BITS, "min_key_size": MIN_KEY_BITS, "max_SAE_ID_count": 0,
        }  # fmt: skip


class Api:
    """The HTTP interface: who asks is known from the certificate, what is asked from path and body."""

    def __init__(self, manager):
        self.manager = manager

    async def status(self, request):
        """Get status."""
        master = self.manager.local_sae(peer_of(request))
        return web.json_response(self.manager.status(master, self.manager.remote_sae(request.match_info["sae"])))

    async def enc_keys(self, request):
        """Get key: for the one who will tell the other end its id."""
        master = self.manager.local_sae(peer_of(request))
        slave = self.manager.remote_sae(request.match_info["sae"])
        asked = await members(request)
        if asked.get("additional_slave_SAE_IDs") or asked.get("extension_mandatory"):
            raise Refused(400, "neither additional SAEs nor extensions are supported")
        number, size = asked.get("number", 1), asked.get("size", 256)
        if not isinstance(number, int) or not isinstance(size, int):
            raise Refused(400, "number and size are integers")
        keys = await self.manager.new_keys(master, slave, number, size)
        say("enc_keys", sae=master.id, peer=slave.id, key_ids=[key["key_ID"] for key in keys])
        return web.json_response({"keys": keys})

    async def dec_keys(self, request):
        """Get key with key IDs: for the one who was told."""
        slave = self.manager.local_sae(peer_of(request))
        master = self.manager.remote_sae(request.match_info["sae"])
        if request.method == "GET":
            key_ids = request.query.getall("key_ID", [])
        else:
            rows = (await members(request)).get("key_IDs")
            if not isinstance(rows, list) or not all(isinstance(row, Mapping) for row in rows):
                raise Refused(400, "key_IDs is a list of objects")
            key_ids = [str(row.get("key_ID")) for row in rows]
        say("dec_keys", sae=slave.id, peer=master.id, key_ids=key_ids)
        return web.json_response({"keys": self.manager.take(master, slave, key_ids)})

    async def link_keys(self, request):
        """Take keys from the other manager."""
        if peer_of(request) != self.manager.link_uri:
            raise Refused(401, "only the other manager may do this")
        self.manager.store(await members(request))
        return web.json_response({})


def peer_of(request):
    """Return the SPIFFE ID of the client's certificate, which its handshake proved."""
    return str(request.transport.get_extra_info("ssl_object").peer.id)


async def members(request):
    """Return the request's members: the body of a POST, the query of a GET."""
    if request.method == "GET":
        return {name: int(value) if value.isdigit() else value for name, value in request.query.items()}
    try:
        found = await request.json()
    except ValueError:
        raise Refused(400, "the body is no JSON") from None
    if not isinstance(found, dict):
        raise Refused(400, "the body is no JSON object")
    return found


@web.middleware
async def refusals(request, handler):
    """Answer as clause 6.5 says."""
    try:
        return await handler(request)
    except Refused as error:
        say("refused", path=request.path, status=error.status, message=str(error))
        return web.json_response({"message": str(error), "details": []}, status=error.status)


def say(event, **facts):
    """Write one line of JSON; key material is never in it."""
    print(json.dumps({"event": event} | facts), flush=True)


async def serve(config, folder):
    """Serve until INT or TERM."""
    manager = Manager(config, folder)
    api = Api(manager)
    app = web.Application(middlewares=[refusals], client_max_size=256 * 1024)
    app.add_routes(
        [
            web.get("/api/v1/keys/{sae}/status", api.status),
            web.get("/api/v1/keys/{sae}/enc_keys", api.enc_keys),
            web.post("/api/v1/keys/{sae}/enc_keys", api.enc_keys),
            web.get("/api/v1/keys/{sae}/dec_keys", api.dec_keys),
            web.post("/api/v1/keys/{sae}/dec_keys", api.dec_keys),
            web.post("/link/keys", api.link_keys),
        ]
    )
    allowed = [sae.uri for sae in manager.saes if sae.is_local] + [manager.link_uri]
    files = [str(folder / config["manager"][name]) for name in ("cert", "key", "cacert")]
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    host, _, port = config["manager"]["listen"].rpartition(":")
    context = server_context(*files, allow_uris=allowed)
    await web.TCPSite(runner, host, int(port), ssl_context=context, reuse_port=True).start()
    say("listening", name=manager.name, address="{}:{}".format(*runner.addresses[0][:2]))
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await stop.wait()
    await runner.cleanup()


def main():
    """Read the file and serve."""
    parser = argparse.ArgumentParser(description="A key manager without a quantum device, for demonstrations.")
    parser.add_argument("config", type=Path, help="TOML file; README.md shows one.")
    path = parser.parse_args().config
    print("pqfl example key manager: its keys are from the operating system, not from a QKD device", file=sys.stderr)
    asyncio.run(serve(tomllib.loads(path.read_text()), path.parent))


if __name__ == "__main__":
    main()
