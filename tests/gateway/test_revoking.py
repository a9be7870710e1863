"""What an operator says of revocation lists, and what keeps their file current."""

import asyncio
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gateway.building import source_of
from gateway.config import CrlConfig, ServiceConfig
from gateway.journal import Journal
from gateway.revoking import Polling, crl_config, crl_facts, with_lists_of_now
from pqfl_transport.errors import ConfigurationError, PqflError, TransportError
from pqfl_transport.net.logs import EventLog
from pqfl_transport.pki.revocation import Stale
from pqfl_transport.tls.config import Role
from tests.gateway.test_building import words
from tests.support.pki import Federation, make_federation
from tests.support.revoking import crl, crl_source, publish_crl


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return make_federation(tmp_path_factory.mktemp("federation"), sites=("bank-a",))


def config(federation: Federation, **changes: Any) -> ServiceConfig:
    return source_of(Role.SERVER, words(federation, **changes), None).config


def test_everything_said_arrives() -> None:
    """Nothing said is nothing configured; what is said has its defaults."""
    assert crl_config({}) is None
    assert crl_config({"crl": Path("a")}) == CrlConfig(Path("a"))
    said = {
        "crl": Path("a"),
        "crl-url": ("https://h/x",),
        "crl-stale": "allow",
        "crl-state": Path("b"),
        "crl-poll": 5.0,
    }
    assert crl_config(said) == CrlConfig(Path("a"), ("https://h/x",), Stale.ALLOW, Path("b"), 5.0)


@pytest.mark.parametrize(
    ("said", "named"),
    [
        ({"crl-url": ("https://h/x",)}, "--crl-url needs --crl"),
        ({"crl-stale": "allow"}, "--crl-stale needs --crl"),
        ({"crl": Path("a"), "crl-url": ("gopher://h",)}, "--crl-url 'gopher://h'"),
    ],
)
def test_mistakes_name_the_flag(said: dict[str, Any], named: str) -> None:
    """Before anything is fetched."""
    with pytest.raises(ConfigurationError, match=named):
        crl_config(said)


def test_the_first_start_fetches(federation: Federation, tmp_path: Path) -> None:
    """Nobody is let in before it is known who was revoked; a later start does not need the source."""
    path = tmp_path / "crl.pem"
    with crl_source(b"garbage") as source:
        with pytest.raises(TransportError, match=r"no revocation list at .*crl\.pem yet, and none could be fetched"):
            config(federation, crl=path, crl_url=(source.url,))
        source.body = crl(federation, [federation.site("bank-a")], number=4)
        (facts,) = crl_facts(config(federation, crl=path, crl_url=(source.url,)))
    assert (facts["number"], facts["revoked"]) == (4, 2)
    assert crl_facts(config(federation, crl=path, crl_url=(source.url,))) == [facts]


def test_a_service_that_speaks_our_own_tls_is_a_source(federation: Federation, tmp_path: Path) -> None:
    """Https is this software's: a server of the federation is believed to be one, and nothing else is."""
    with pytest.raises(TransportError, match="none could be fetched"):
        config(federation, crl=tmp_path / "crl.pem", crl_url=("https://127.0.0.1:1/v1/crl",))


def test_the_memory_can_be_somewhere_else(federation: Federation, tmp_path: Path) -> None:
    """And the flag is named where that place cannot be written."""
    path = publish_crl(federation, tmp_path / "crl.pem")
    config(federation, crl=path, crl_state=tmp_path / "seen")
    assert (tmp_path / "seen").exists()
    with pytest.raises(ConfigurationError, match="--crl-state"):
        config(federation, crl=path, crl_state=tmp_path / "nowhere" / "seen")


def test_lists_alone_can_be_read_again(federation: Federation, tmp_path: Path) -> None:
    """Nothing else of the configuration changes, and what says the same is no change."""
    path = publish_crl(federation, tmp_path / "crl.pem")
    before = config(federation, crl=path)
    assert with_lists_of_now(before) == before
    publish_crl(federation, path, number=2)
    after = with_lists_of_now(before)
    assert crl_facts(after)[0]["number"] == 2
    revocations = before.listeners[0].tls.revocations
    tls = replace(after.listeners[0].tls, revocations=revocations)
    assert replace(after, listeners=(replace(after.listeners[0], tls=tls),)) == before
    publish_crl(federation, path, number=1)
    with pytest.raises(PqflError):
        with_lists_of_now(after)


def test_listeners_that_share_a_file_share_the_fetching(federation: Federation, tmp_path: Path) -> None:
    """One task for both, which tells of news and counts."""
    path, log = publish_crl(federation, tmp_path / "crl.pem"), io.StringIO()

    async def go(two: ServiceConfig) -> None:
        news = asyncio.Event()
        polling = Polling(lambda: two, Journal(EventLog("json", stream=log), None), news.set)
        (task,) = polling.start()
        async with asyncio.timeout(20):
            await news.wait()
            source.body = b"garbage"
            while not polling.counts["failed"]:  # noqa: ASYNC110 -- what ends it is a task of the loop
                await asyncio.sleep(0.01)
        task.cancel()
        assert polling.snapshot()["crl_fetches"]["ok"] >= 1

    with crl_source(crl(federation, number=2)) as source:
        one = config(federation, crl=path, crl_url=(source.url,), crl_poll=1.0).listeners[0]
        asyncio.run(go(ServiceConfig((one, replace(one, name="other")))))
    assert '"crl_fetched"' in log.getvalue()
    assert '"malformed"' in log.getvalue()
