"""A listener: what it needs to know of targets, and what it prepares before it changes anything."""

import asyncio
import io
import socket
from typing import Any

import pytest

from gateway.config import ListenerConfig
from gateway.journal import Journal
from gateway.listener import Listener
from gateway.metrics import Metrics
from gateway.tcp import Scratch
from pqfl_transport.errors import TransportError
from pqfl_transport.net.address import Address
from pqfl_transport.net.listening import listen
from pqfl_transport.net.logs import EventLog
from pqfl_transport.tls.config import Role
from tests.support.listeners import ANYWHERE, REMOTE, listener
from tests.support.pki import Federation, make_federation


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return make_federation(tmp_path_factory.mktemp("federation"), sites=("bank-a",))


def use(config: ListenerConfig, what: Any) -> None:
    """Make a listener inside a loop, use it, and close it."""

    async def scenario() -> None:
        journal = Journal(EventLog("json", stream=io.StringIO()), None)
        made = Listener(config, listen(ANYWHERE, "--listen"), Scratch(), Metrics(), journal)
        made.start()
        try:
            await what(made)
        finally:
            made.close()

    asyncio.run(scenario())


def test_a_local_target_is_dialled_at_once(federation: Federation) -> None:
    """Without waiting, and with the address that was reached."""
    with socket.create_server(("127.0.0.1", 0)) as backend:
        target = Address("127.0.0.1", backend.getsockname()[1])

        async def what(made: Listener) -> None:
            found = made.dial_at_once()
            assert found is not None
            connection, reached = found
            assert reached == target
            connection.close()
            assert (await made.backends())[str(target)]["up"] is True

        use(listener(federation, targets=(target,)), what)


def test_another_machine_is_dialled_patiently(federation: Federation) -> None:
    """An answer from a network takes time, so nothing waits for it on the spot."""

    async def what(made: Listener) -> None:
        assert made.dial_at_once() is None

    use(listener(federation, Role.CLIENT, targets=(REMOTE,)), what)


def test_targets_that_are_all_down_are_named(federation: Federation) -> None:
    """Each with its reason, in one sentence."""
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
        targets = tuple(Address("127.0.0.1", closed.getsockname()[1]) for closed in (one, two))

    async def what(made: Listener) -> None:
        with pytest.raises(TransportError) as caught:
            await made.dial()
        assert all(str(target) in str(caught.value) for target in targets)

    use(listener(federation, targets=targets), what)


def test_preparing_changes_nothing(federation: Federation) -> None:
    """Another configuration is in force when it is used and not before."""

    async def what(made: Listener) -> None:
        before = made.config
        prepared = made.prepare(listener(federation, connect_timeout_seconds=1.0))
        assert made.config is before
        made.reconfigure(prepared)
        assert made.config.connect_timeout_seconds == 1.0

    use(listener(federation), what)
