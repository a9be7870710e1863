"""An enrolment service for tests: the real application over real TLS, in a thread of the test's own process.

with serving(federation) as service:                    # on a port from the kernel
token = service.token("hospital-west")
service.joiner(token, tmp_path / "west").join()
"""

import asyncio
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from aiohttp import web
from cryptography.hazmat.primitives.hashes import SHA256

from certs.accepting import AcceptLimits, Acceptor
from certs.app import make_app
from certs.enrolling import Desk
from certs.enrolments import Enrolments
from certs.service import OwnIdentity
from pqfl_transport.joining import Joiner
from pqfl_transport.net.address import Address
from pqfl_transport.net.listening import listen
from pqfl_transport.pki import keystore
from pqfl_transport.pki.spiffe import Role, SpiffeId
from pqfl_transport.pki.tokens import JoinToken
from pqfl_transport.renewal import Renewer
from pqfl_transport.tls.config import TlsConfig
from pqfl_transport.tls.context import PostQuantumContext
from tests.support.pki import Federation

LOCALHOST = Address("127.0.0.1", 0)


def root_sha256(federation: Federation) -> bytes:
    """The fingerprint of a federation's root."""
    return keystore.load_certificate(federation.ca / "root.pem").fingerprint(SHA256())


def make_token(
    federation: Federation, name: str, *, seconds: int = 3600, by_hand: bool = False, reissue: bool = False,
    now: int | None = None,
) -> JoinToken:  # fmt: skip
    """Make a token and let the authority remember it."""
    now = int(datetime.now(UTC).timestamp()) if now is None else now
    party = SpiffeId(federation.name, Role.SITE, name)
    token = JoinToken.make(
        level=federation.authority.level, root_sha256=root_sha256(federation), party=party, expires_at=now + seconds
    )
    Enrolments(federation.ca).add(
        token.keys, party, now=now, expires_at=token.expires_at, by_hand=by_hand, reissue=reissue
    )
    return token


@dataclass(slots=True)
class Reports:
    """What a desk reported."""

    events: list[tuple[str, dict[str, object]]] = field(default_factory=list)

    def __call__(self, event: str, facts: Mapping[str, object]) -> None:
        self.events.append((event, dict(facts)))

    def names(self) -> list[str]:
        """The events without their facts."""
        return [name for name, _ in self.events]


@dataclass(frozen=True, slots=True)
class Service:
    """A service that listens."""

    federation: Federation
    address: Address
    desk: Desk
    reports: Reports
    requests: list[str]
    """Method and path of everything that was asked."""

    def token(self, name: str, *, seconds: int = 3600, by_hand: bool = False) -> JoinToken:
        """Make a token."""
        return make_token(self.federation, name, seconds=seconds, by_hand=by_hand)

    def joiner(self, token: JoinToken, out: Path) -> Joiner:
        """Somebody with a token."""
        return Joiner(token, self.address, out)

    def renewer(self, **options: Any) -> Renewer:
        """Somebody who renews here."""
        return Renewer(self.address, self.federation.authority.policy, **options)


@contextmanager
def serving(
    federation: Federation, *, tls: TlsConfig | None = None, requests_per_minute: int = 10_000,
    limits: AcceptLimits = AcceptLimits(),  # noqa: B008 -- frozen
    **options: Any,
) -> Iterator[Service]:  # fmt: skip
    """Serve until the block ends. ``tls`` makes it somebody else's service; ``options`` are the desk's."""
    reports, requests = Reports(), []  # type: ignore[var-annotated]
    desk = Desk(federation.authority, Enrolments(federation.ca), reports, **options)
    config = tls or OwnIdentity(federation.authority).load()
    listener = listen(LOCALHOST, "test", reuse_port=False)
    loop, ready = asyncio.new_event_loop(), threading.Event()

    @web.middleware
    async def recording(request: web.Request, handler: Any) -> web.StreamResponse:
        requests.append(f"{request.method} {request.path}")
        answer: web.StreamResponse = await handler(request)
        return answer

    async def start() -> tuple[web.AppRunner, Acceptor]:
        app = make_app(desk, requests_per_minute=requests_per_minute)
        app.middlewares.insert(0, recording)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        assert runner.server is not None
        acceptor = Acceptor(listener, PostQuantumContext(config), runner.server, reports, limits)
        acceptor.start()
        return runner, acceptor

    def run() -> None:
        asyncio.set_event_loop(loop)
        runner, acceptor = loop.run_until_complete(start())
        loop.call_soon(ready.set)
        loop.run_forever()
        loop.run_until_complete(acceptor.close())
        loop.run_until_complete(runner.cleanup())
        loop.close()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert ready.wait(20)
    host, port = listener.getsockname()[:2]
    try:
        yield Service(federation, Address(host, port), desk, reports, requests)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(20)
