"""Fetching lists: what a source can do wrong costs nothing but time, and the next question comes when it should."""

import asyncio
import socket
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from pqfl_transport.errors import ConfigurationError, TransportError
from pqfl_transport.net.crl_fetch import CrlPoller, Fetch, Fetched, fetch_crl, require_url
from pqfl_transport.pki.crl_files import CrlFile
from pqfl_transport.pki.revocation import MAX_CRL_BYTES
from pqfl_transport.pki.trust import Trust
from pqfl_transport.policy import for_level
from tests.support.pki import Federation, make_federation
from tests.support.revoking import crl, crl_source

HIGH = for_level("high")


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return make_federation(tmp_path_factory.mktemp("federation"), sites=("one",))


class Reports(list[tuple[str, dict[str, object]]]):
    def __call__(self, event: str, facts: dict[str, object]) -> None:
        self.append((event, facts))

    @property
    def last(self) -> tuple[str, object]:
        event, facts = self[-1]
        return event, facts.get("reason")


async def over_http(url: str, tag: str, wait_seconds: float) -> Fetched:
    return await fetch_crl(url, None, tag=tag, wait_seconds=wait_seconds, timeout_seconds=5)


def poller(file: CrlFile, *urls: str, fetch: Fetch = over_http, **options: Any) -> tuple[CrlPoller, Reports]:
    reports = Reports()
    made = CrlPoller(
        urls, fetch, lambda data: file.store(data, HIGH), lambda: file.revocations, reports,
        random=lambda: 0.5, **options,
    )  # fmt: skip
    return made, reports


def crl_file(federation: Federation, folder: Path) -> CrlFile:
    return CrlFile(folder / "crl.pem", Trust.load(federation.ca_pem))


@pytest.mark.parametrize(
    "url", ["ftp://h/x", "https://", "h:1/v1/crl", "https://user@h/x", "https://h:99999/x", "https://h/x#y", ""]
)
def test_an_address_that_is_none_is_said_at_once(url: str) -> None:
    """The sentence shows what it should look like."""
    with pytest.raises(ConfigurationError, match=r"--crl-url .*expected as https://HOST:PORT/v1/crl"):
        require_url(url, "--crl-url")
    require_url("https://hub.example.org:8444/v1/crl", "--crl-url")


def test_a_list_is_fetched_kept_and_read(federation: Federation, tmp_path: Path) -> None:
    """The first is news, the same again is not, a higher number is."""
    file = crl_file(federation, tmp_path)
    with crl_source(crl(federation)) as source:
        polled, reports = poller(file, source.url)
        assert asyncio.run(polled.poll())
        assert not asyncio.run(polled.poll())
        source.body = crl(federation, number=2)
        assert asyncio.run(polled.poll())
    assert [event for event, _ in reports] == ["crl_fetched", "crl_checked", "crl_fetched"]
    assert set(file.read(HIGH).numbers.values()) == {2}


@pytest.mark.parametrize(
    ("body", "status", "endless", "reason"),
    [
        (b"<html>captive portal</html>", 200, False, "malformed"),
        (b"", 200, False, "malformed"),
        (b"gone", 404, False, "crl_unavailable"),
        (b"x" * (1 << 20), 200, True, "crl_too_large"),
        (b"x" * (MAX_CRL_BYTES + 1), 200, False, "crl_too_large"),
    ],
    ids=["garbage", "nothing", "missing", "a gigabyte", "one byte too many"],
)
def test_what_is_no_list_leaves_the_last_good_one(
    federation: Federation, tmp_path: Path, body: bytes, status: int, endless: bool, reason: str
) -> None:
    """The file is as it was, and the failure is reported with its reason."""
    file = crl_file(federation, tmp_path)
    file.store(crl(federation), HIGH)
    before = file.path.read_bytes()
    with crl_source(body) as source:
        source.status, source.endless = status, endless
        polled, reports = poller(file, source.url)
        assert not asyncio.run(polled.poll())
    assert reports.last == ("crl_fetch_failed", reason)
    assert file.path.read_bytes() == before


def test_a_stranger_s_list_and_an_older_one_are_not_kept(federation: Federation, tmp_path: Path) -> None:
    """Whoever stands in the way can hand over what was signed once, and nothing else."""
    file = crl_file(federation, tmp_path)
    file.store(crl(federation, number=5), HIGH)
    stranger = make_federation(tmp_path / "stranger", sites=())
    for body, reason in ((crl(federation, number=4), "stale_crl"), (crl(stranger, number=9), "untrusted")):
        with crl_source(body) as source:
            polled, reports = poller(file, source.url)
            assert not asyncio.run(polled.poll())
        assert reports.last == ("crl_fetch_failed", reason)
    assert set(file.read(HIGH).numbers.values()) == {5}


def test_a_source_that_is_down_or_silent_is_given_up(federation: Federation, tmp_path: Path) -> None:
    """Nobody listens, or somebody does and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(TransportError, match="within") as caught:
            asyncio.run(fetch_crl(f"http://127.0.0.1:{port}/", None, timeout_seconds=0.2))
    assert caught.value.reason == "crl_unavailable"
    polled, reports = poller(crl_file(federation, tmp_path), f"http://127.0.0.1:{port}/")
    for _ in range(2):
        assert not asyncio.run(polled.poll())
    assert [facts["is_news"] for _, facts in reports] == [True, False]
    assert polled.failures == 2


def test_another_source_helps_out(federation: Federation, tmp_path: Path) -> None:
    """They are asked in their order, and the first good answer counts."""
    file = crl_file(federation, tmp_path)
    with crl_source(b"garbage") as bad, crl_source(crl(federation)) as good:
        polled, reports = poller(file, bad.url, good.url)
        assert asyncio.run(polled.poll())
    assert reports[-1] == ("crl_fetched", {"url": good.url})


def test_the_next_question_comes_in_time(federation: Federation, tmp_path: Path) -> None:
    """At the interval, sooner where a list is due, soonest after a failure, and never all sites at once."""
    file = crl_file(federation, tmp_path)
    polled, _ = poller(file, "http://127.0.0.1:1/", poll_seconds=60)
    assert polled.seconds_to_next() == 60
    file.store(crl(federation, seconds_left=3600), HIGH)
    (found,) = file.read(HIGH).lists
    assert polled.seconds_to_next() == 60
    polled.clock = (found.next_update - timedelta(seconds=20)).timestamp
    assert polled.seconds_to_next() == pytest.approx(20)
    polled.clock = (found.next_update + timedelta(seconds=20)).timestamp
    assert polled.seconds_to_next() == 60
    waits = []
    for polled.failures in range(1, 9):
        waits.append(polled.seconds_to_next())
    assert waits == [2, 4, 8, 16, 32, 60, 60, 60]
    polled.failures = 0
    for polled.random, seconds in ((lambda: 0.0, 54), (lambda: 1.0, 66)):
        assert polled.seconds_to_next() == pytest.approx(seconds)


def test_what_was_seen_is_not_sent_again(federation: Federation, tmp_path: Path) -> None:
    """A source that names its lists is asked for others; the last ones are put back where somebody took them away."""
    file = crl_file(federation, tmp_path)
    with crl_source(crl(federation)) as source:
        source.tag = '"one"'
        polled, reports = poller(file, source.url, wait_seconds=7)
        assert asyncio.run(polled.poll())
        assert source.headers["If-None-Match"] is None
        assert source.headers["Prefer"] is None
        assert not asyncio.run(polled.poll())
        assert source.headers["If-None-Match"] == '"one"'
        assert source.headers["Prefer"] == "wait=7"
        file.path.unlink()
        assert asyncio.run(polled.poll())
        source.tag, source.body = '"two"', crl(federation, number=2)
        assert asyncio.run(polled.poll())
    assert source.bodies == 2
    assert [event for event, _ in reports] == ["crl_fetched", "crl_checked", "crl_fetched", "crl_fetched"]
    assert set(file.read(HIGH).numbers.values()) == {2}


def test_a_source_that_waits_is_asked_again_at_once(federation: Federation, tmp_path: Path) -> None:
    """Until it fails: then as any other. One that only says 304 is asked at the interval."""
    file = crl_file(federation, tmp_path)
    with crl_source(crl(federation)) as source:
        source.tag = '"one"'
        polled, _ = poller(file, source.url, wait_seconds=7)
        for source.waits, seconds in ((False, 60), (True, 1), (False, 60), (True, 1)):
            asyncio.run(polled.poll())
            assert polled.seconds_to_next() == seconds
        source.status = 503
        asyncio.run(polled.poll())
        assert polled.seconds_to_next() == 2


@pytest.mark.parametrize("tag", ["", "x" * 300, "\xfcber"])
def test_a_source_that_says_nothing_new_unasked_is_no_source(federation: Federation, tmp_path: Path, tag: str) -> None:
    """Nothing was ever given, or it named its lists by what is no entity tag of a sensible length."""
    file = crl_file(federation, tmp_path)
    with crl_source(crl(federation)) as source:
        source.status = 304
        polled, reports = poller(file, source.url)
        assert not asyncio.run(polled.poll())
        assert reports.last == ("crl_fetch_failed", "crl_unavailable")
        source.status, source.tag = 200, tag
        asyncio.run(polled.poll())
        asyncio.run(polled.poll())
        assert source.headers["If-None-Match"] is None


def test_news_are_told_until_it_is_cancelled(federation: Federation, tmp_path: Path) -> None:
    """`run` asks on its own."""
    file = crl_file(federation, tmp_path)

    async def go() -> None:
        news = asyncio.Event()
        polled, _ = poller(file, source.url, poll_seconds=1)
        task = asyncio.create_task(polled.run(news.set))
        async with asyncio.timeout(20):
            await news.wait()
        task.cancel()

    with crl_source(crl(federation)) as source:
        asyncio.run(go())
    assert file.path.exists()
