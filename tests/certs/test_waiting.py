"""Requests that wait for another file: told when it changes, and not beyond their time or their number."""

import asyncio
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from certs.waiting import MOST_SECONDS, Waiting, preferred_wait_seconds, tag_of


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("wait=50", 50),
        ("respond-async, wait=10", 10),
        ('Wait="7"', 7),
        ("wait = 5 ; x", 5),
        ("wait=9999", MOST_SECONDS),
        ("", 0),
        ("wait", 0),
        ("wait=-1", 0),
        ("wait=1e9", 0),
        ("wait=99999", 0),
        ("await=5", 0),
        ("x" * 300 + ",wait=5", 0),
    ],
)
def test_a_preference_is_read_as_its_standard_writes_it(header: str, seconds: int) -> None:
    """RFC 7240 §2 and §4.3; what is none waits for nothing."""
    assert preferred_wait_seconds(header) == seconds


@given(st.text())
def test_no_header_makes_anybody_wait_for_long(header: str) -> None:
    """Whatever it says."""
    assert 0 <= preferred_wait_seconds(header) <= MOST_SECONDS


def replace(path: Path, text: str) -> None:
    new = path.with_suffix(".new")
    new.write_text(text)
    new.replace(path)


def test_all_who_wait_are_told_of_a_change(tmp_path: Path) -> None:
    """Those who wait for another file are not; afterwards nobody looks at anything."""
    path, other = tmp_path / "crl.pem", tmp_path / "roster.json"
    path.write_text("one")
    other.write_text("one")

    async def scenario() -> None:
        waiting = Waiting()
        tag = tag_of(path)
        told = [asyncio.create_task(waiting.until_changed(path, tag, str(n), 20)) for n in range(3)]
        untold = asyncio.create_task(waiting.until_changed(other, tag_of(other), "x", 20))
        await asyncio.sleep(0)
        replace(path, "another")
        async with asyncio.timeout(10):
            await asyncio.gather(*told)
        assert tag_of(path) != tag
        assert not untold.done()
        untold.cancel()
        await asyncio.gather(untold, return_exceptions=True)
        assert not waiting._watched
        assert not waiting._by_origin
        # Whoever has seen another file than the one that is there is told at once.
        async with asyncio.timeout(10):
            await waiting.until_changed(path, tag, "late", 20)

    asyncio.run(scenario())


def test_a_file_that_comes_or_goes_is_a_change(tmp_path: Path) -> None:
    """Before there is a list nobody has seen one; and without one nothing is the same."""
    path = tmp_path / "crl.pem"
    assert tag_of(path) == ""

    async def scenario() -> None:
        waiting = Waiting()
        task = asyncio.create_task(waiting.until_changed(path, "", "a", 20))
        await asyncio.sleep(0)
        path.write_text("first")
        async with asyncio.timeout(10):
            await task
            tag = tag_of(path)
            path.unlink()
            await waiting.until_changed(path, tag, "a", 20)

    asyncio.run(scenario())


def test_nobody_waits_beyond_his_time_and_there_is_room_for_so_many(tmp_path: Path) -> None:
    """One origin leaves room for others."""
    path = tmp_path / "crl.pem"
    path.write_text("one")

    async def scenario() -> None:
        waiting = Waiting(most=3, most_of_origin=2)
        tag = tag_of(path)
        tasks = []
        for origin in ("a", "a", "b"):
            assert waiting.has_room(origin)
            tasks.append(asyncio.create_task(waiting.until_changed(path, tag, origin, 0.2)))
            await asyncio.sleep(0)
        assert [waiting.has_room(origin) for origin in "abc"] == [False, False, False]
        async with asyncio.timeout(10):
            await asyncio.gather(*tasks)
        assert waiting.has_room("a")

    asyncio.run(scenario())
