"""A sidecar renews its own certificate: when, how often, and what it says of it."""

import asyncio
import io
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from gateway.building import source_of
from gateway.config import ServiceConfig
from gateway.journal import Journal
from gateway.renewing import Renewing, renewal_config
from pqfl_transport.errors import ConfigurationError
from pqfl_transport.net.logs import EventLog
from pqfl_transport.pki import chain, swapping
from pqfl_transport.pki.keystore import load_signing_key, read_certificate_file
from pqfl_transport.pki.spiffe import SpiffeId
from pqfl_transport.tls.config import Role
from tests.support.classical import make_leaf, make_root, write_classical
from tests.support.enrolment import serving
from tests.support.pki import Federation, make_federation


@pytest.fixture
def federation(tmp_path: Path) -> Federation:
    return make_federation(tmp_path / "fed", sites=("north",))


def config(federation: Federation, address: str, twin: Path | None = None) -> ServiceConfig:
    folder = federation.site("north")
    said: dict[str, Any] = {
        "listen": "127.0.0.1:0", "target": ("127.0.0.1:1",), "cert": (folder / "tls.pem",),
        "key": (folder / "tls.key",), "cacert": folder / "ca.pem", "verify-uri": (federation.gateway_uri,),
        "renew": address,
    }  # fmt: skip
    if twin is not None:
        said |= {
            "pq": "prefer", "cert": (folder / "tls.pem", twin / "classical.pem"),
            "key": (folder / "tls.key", twin / "classical.key"), "classical-cacert": twin / "classical-ca.pem",
        }  # fmt: skip
    return source_of(Role.CLIENT, said, None).config


def test_nothing_said_is_nothing_renewed() -> None:
    """Without the flag a certificate is the operator's business."""
    assert renewal_config({}, None) is None


@pytest.mark.parametrize(
    ("said", "named"),
    [
        ({"renew": "nowhere"}, "--renew"),
        ({"renew": "hub:1", "keystore": Path("k")}, "keystore"),
        ({"renew": "hub:1", "cert": (Path("a/c"),), "key": (Path("b/k"),), "cacert": Path("a/ca")}, "two folders"),
    ],
)
def test_mistakes_name_the_flag(said: dict[str, Any], named: str) -> None:
    """What could not be renewed is refused at the start."""
    with pytest.raises(ConfigurationError, match=named):
        renewal_config(said, None)


class Clock:
    """Time that passes only while every task sleeps; it ends the run at its end."""

    def __init__(self, days: float) -> None:
        self.tasks, self.sleeping, self.woken = 1, [], asyncio.Event()  # type: ignore[var-annotated]
        self.now = datetime.now(UTC)
        self.end = self.now + timedelta(days=days)

    def __call__(self) -> datetime:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.sleeping.append(seconds)
        woken = self.woken
        if len(self.sleeping) < self.tasks:
            await woken.wait()
        else:
            # A minute at a time is what it asks for at most; a day at a time is what a test has patience for.
            shortest = min(self.sleeping)
            self.now += timedelta(seconds=max(shortest, 1) * (1440 if shortest >= 60 else 1))
            self.sleeping, self.woken = [], asyncio.Event()
            woken.set()
        if self.now > self.end:
            raise asyncio.CancelledError


def run(
    federation: Federation, address: str, clock: Clock, twin: Path | None = None
) -> tuple[Renewing, list[datetime], str]:
    """Let the clock's days pass; return what was counted, when the configuration was read again, and the log."""
    lines, reloads = io.StringIO(), []  # type: ignore[var-annotated]
    settings = config(federation, address, twin)
    renewing = Renewing(
        lambda: settings, Journal(EventLog("json", stream=lines), None), lambda: reloads.append(clock.now),
        clock=clock, jitter=lambda: 0.0, sleep=clock.sleep,
    )  # fmt: skip

    async def until_the_end() -> None:
        tasks = renewing.start()
        clock.tasks = len(tasks)
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(until_the_end())
    return renewing, reloads, lines.getvalue()


def test_a_certificate_is_renewed_in_time(federation: Federation) -> None:
    """Nothing happens for sixty days; then there is a new pair that fits, one reload, one line and one count."""
    folder = federation.site("north")
    before = read_certificate_file(folder / "tls.pem")
    early, late = Clock(58), Clock(62)
    with serving(federation, clock=late) as service:
        renewing, reloads, lines = run(federation, str(service.address), early)
        assert (renewing.snapshot(), reloads, lines) == ({"renewals": {}}, [], "")
        renewing, reloads, lines = run(federation, str(service.address), late)
    after = read_certificate_file(folder / "tls.pem")
    assert after != before
    assert chain.verifying_key(after) == load_signing_key(folder / "tls.key").verifying_key
    assert renewing.snapshot()["renewals"] == {"ok": 1}
    assert len(reloads) == 1
    assert '"event": "renewal"' in lines or '"event":"renewal"' in lines


def test_the_former_key_of_a_renewal_that_was_killed_is_cleared_up(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after its one step, a sidecar that starts again erases what it replaced."""
    folder = federation.site("north")
    files = {name: (folder / name).read_bytes() for name in ("tls.pem", "tls.key")}
    with monkeypatch.context() as patched:
        patched.setattr(swapping, "_discard", lambda *_, **__: None)
        swapping.replace_together(folder, files)
    former = folder / swapping.STORE / "0001"
    assert (former / "tls.key").exists()
    run(federation, "127.0.0.1:1", Clock(1))
    assert not former.exists()
    assert (folder / "tls.key").read_bytes() == files["tls.key"]


def test_a_service_that_is_down_is_asked_again(federation: Federation) -> None:
    """Each failure is counted and said with its reason, the old pair stays, and nothing is read again."""
    folder = federation.site("north")
    before = read_certificate_file(folder / "tls.pem")
    with serving(federation) as service:
        address = str(service.address)
    renewing, reloads, lines = run(federation, address, Clock(62))
    assert renewing.snapshot()["renewals"]["failed"] >= 3
    assert reloads == []
    assert "target_down" in lines
    assert read_certificate_file(folder / "tls.pem") == before


def test_a_twin_is_renewed_at_two_thirds_of_its_own_life(federation: Federation, tmp_path: Path) -> None:
    """Ten days long, it is renewed again and again while the certificate beside it is not due once."""
    federation.authority.create_classical()
    party = SpiffeId.parse(federation.site_uri("north"))
    federation.authority.issue_twin(party, out=tmp_path / "twin", days=10)
    tls = (federation.site("north") / "tls.pem").read_bytes()
    before, clock = read_certificate_file(tmp_path / "twin" / "classical.pem"), Clock(30)
    with serving(federation, clock=clock, seconds=10 * 86400) as service:
        renewing, reloads, lines = run(federation, str(service.address), clock, tmp_path / "twin")
    after = read_certificate_file(tmp_path / "twin" / "classical.pem")
    assert after.not_valid_after_utc > before.not_valid_after_utc
    assert 3 <= renewing.snapshot()["renewals"]["ok"] <= 5
    assert len(reloads) == renewing.snapshot()["renewals"]["ok"]
    assert all('"twin"' in line for line in lines.splitlines())
    assert (federation.site("north") / "tls.pem").read_bytes() == tls


def test_a_second_certificate_of_somebody_else_is_not_renewed(federation: Federation, tmp_path: Path) -> None:
    """It is its authority's business, and so nothing is asked, counted or said."""
    own = make_root("own")
    folder = write_classical(tmp_path / "own", own, *make_leaf(own, days=2))
    for name, ours in (("tls.pem", "classical.pem"), ("tls.key", "classical.key"), ("ca.pem", "classical-ca.pem")):
        (folder / name).rename(folder / ours)
    with serving(federation) as service:
        renewing, _, lines = run(federation, str(service.address), Clock(30), folder)
        assert service.requests == []
    assert (renewing.snapshot(), lines) == ({"renewals": {}}, "")


def test_only_a_twin_has_to_lie_beside_its_key(federation: Federation, tmp_path: Path) -> None:
    """The files of a twin change together; those of another authority may lie where that puts them."""
    own = make_root("own")
    folder = write_classical(tmp_path / "own", own, *make_leaf(own))
    for name, ours in (("tls.pem", "classical.pem"), ("tls.key", "classical.key"), ("ca.pem", "classical-ca.pem")):
        (folder / name).rename(folder / ours)
    (tmp_path / "own" / "private").mkdir()
    (folder / "classical.key").rename(folder / "private" / "classical.key")
    federation.authority.create_classical()
    twin = tmp_path / "twin"
    federation.authority.issue_twin(SpiffeId.parse(federation.site_uri("north")), out=twin)
    party, site = SpiffeId.parse(federation.site_uri("north")), federation.site("north")

    def said(second: Path, key: Path) -> dict[str, Any]:
        return {
            "renew": "hub:1", "cert": (site / "tls.pem", second / "classical.pem"), "key": (site / "tls.key", key),
            "cacert": site / "ca.pem", "classical-cacert": second / "classical-ca.pem",
        }  # fmt: skip

    assert renewal_config(said(folder, folder / "private" / "classical.key"), party) is not None
    assert renewal_config(said(twin, twin / "classical.key"), party) is not None
    with pytest.raises(ConfigurationError, match=r"--renew: .* two folders"):
        renewal_config(said(twin, site / "tls.key"), party)
