"""Clocks that are five minutes off: what was made this minute is taken, and beyond that the reason is said.

The authority has the right clock. Handshakes, joining and renewing get theirs injected; whole processes get it from
libfaketime, where that is installed.
"""

import shutil
import sys
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from certs.authority import Authority
from pqfl.demo.processes import Crew
from pqfl_transport.errors import CertificateError, ConfigurationError, MessageError, PeerError
from pqfl_transport.joining import Joiner
from pqfl_transport.pki import keystore
from pqfl_transport.pki.crl_files import load_crls
from pqfl_transport.pki.profiles import BACKDATE_SECONDS
from pqfl_transport.pki.revocation import CLOCK_SKEW, Revocations
from pqfl_transport.tls.config import AllowedPeers, Role, TlsConfig, TlsIdentity
from pqfl_transport.tls.engine import TlsContext
from tests.support.commands import good
from tests.support.enrolment import serving
from tests.support.pki import HOSTS, Federation, make_federation
from tests.support.rawtls import shake_hands
from tests.support.sidecars import START_SECONDS, Running, echo, identity, plain_server, start

FIVE, SIX = timedelta(minutes=5), timedelta(minutes=6)
FAKETIME = shutil.which("faketime")


def off_by(skew: timedelta) -> Callable[[], datetime]:
    """A clock that runs as the right one does, and is wrong by so much."""
    return lambda: datetime.now(UTC) + skew


@pytest.fixture
def federation(tmp_path: Path) -> Federation:
    """A federation of this moment: every certificate in it was made just now."""
    return make_federation(tmp_path / "fed", sites=("north",))


def crl_of_now(federation: Federation, clock: Callable[[], datetime]) -> Revocations:
    """The federation's list, made by the right clock and read by another."""
    federation.authority.make_crl()
    anchors = keystore.load_anchors(federation.ca_pem)
    return load_crls(federation.authority.crl_path, anchors, policy=federation.authority.policy, now=clock())


def test_both_tolerances_are_the_same() -> None:
    """A certificate begins as much before it is made as a list may be from a time to come."""
    assert timedelta(seconds=BACKDATE_SECONDS) == CLOCK_SKEW == FIVE


@pytest.mark.parametrize("skew", [-FIVE, FIVE], ids=["behind", "ahead"])
@pytest.mark.parametrize("wrong", list(Role))
def test_a_handshake_with_what_was_made_just_now(federation: Federation, skew: timedelta, wrong: Role) -> None:
    """Certificates and list of this minute are good for an end whose clock is five minutes off, in either role."""
    server, client = handshake_configs(federation, {wrong: off_by(skew)})
    shake_hands(TlsContext(client).new_engine(), TlsContext(server).new_engine())


def handshake_configs(
    federation: Federation, clocks: dict[Role, Callable[[], datetime]]
) -> tuple[TlsConfig, TlsConfig]:
    """Server and client, each under its clock, both with the list."""

    def config(role: Role, folder: Path, allowed: AllowedPeers) -> TlsConfig:
        clock = clocks.get(role, off_by(timedelta(0)))
        own = TlsIdentity.load(folder / "tls.pem", folder / "tls.key", folder / "ca.pem")
        lists = crl_of_now(federation, clock)
        return TlsConfig(role, own, federation.authority.policy, allowed, revocations=lists, clock=clock)

    server = config(Role.SERVER, federation.gateway, AllowedPeers(any_of_federation=True))
    return server, config(Role.CLIENT, federation.site("north"), AllowedPeers(uris=(federation.gateway_uri,)))


def test_beyond_five_minutes_the_reason_is_said(tmp_path: Path) -> None:
    """A peer that is six minutes behind refuses a certificate of this minute, and says from when on it is valid."""
    yesterday = datetime.now(UTC) - timedelta(days=1)
    federation = make_old_federation(tmp_path, yesterday)
    federation.authority.issue(profile="gateway", name="fresh", out=tmp_path / "fresh", hosts=HOSTS)
    policy = federation.authority.policy
    fresh = TlsIdentity.load(tmp_path / "fresh/tls.pem", tmp_path / "fresh/tls.key", federation.ca_pem)
    site = federation.site("north")
    own = TlsIdentity.load(site / "tls.pem", site / "tls.key", federation.ca_pem)
    server = TlsContext(TlsConfig(Role.SERVER, fresh, policy, AllowedPeers(any_of_federation=True)))
    for skew in (-FIVE, -SIX):
        allowed = AllowedPeers(uris=("spiffe://fed/gateway/fresh",))
        client = TlsContext(TlsConfig(Role.CLIENT, own, policy, allowed, clock=off_by(skew)))
        if skew == -FIVE:
            shake_hands(client.new_engine(), server.new_engine())
            continue
        with pytest.raises(PeerError, match="is not valid before") as caught:
            shake_hands(client.new_engine(), server.new_engine())
        assert caught.value.reason == "not_yet_valid"


def make_old_federation(folder: Path, made: datetime) -> Federation:
    """A federation of another day."""
    authority = Authority.create(folder / "ca", federation="fed", now=made)
    authority.issue(profile="gateway", name="hub", out=folder / "gateway", hosts=HOSTS, now=made)
    authority.issue(profile="site", name="north", out=folder / "sites" / "north", now=made)
    return Federation(authority, folder, ("north",))


def test_a_list_of_this_minute_is_of_the_future_beyond_five_minutes(federation: Federation) -> None:
    """Six minutes behind, reading it is refused in one sentence."""
    assert crl_of_now(federation, off_by(-FIVE)).lists
    with pytest.raises(ConfigurationError) as caught:
        crl_of_now(federation, off_by(-SIX))
    assert caught.value.reason == "not_yet_valid"


@pytest.mark.parametrize("skew", [-FIVE, FIVE], ids=["behind", "ahead"])
def test_a_site_joins_and_renews_five_minutes_off(tmp_path: Path, skew: timedelta) -> None:
    """The service's certificate, the statement of the receiving key and what is issued are all taken."""
    federation = make_old_federation(tmp_path / "fed", datetime.now(UTC) - timedelta(days=1))
    with serving(federation) as service:
        out = tmp_path / "west"
        Joiner(service.token("west"), service.address, out, clock=off_by(skew)).join()
        before = keystore.load_certificate(out / "tls.pem")
        service.renewer(clock=off_by(skew)).renew_folder(out)
    assert keystore.load_certificate(out / "tls.pem") != before


def test_a_site_beyond_five_minutes_is_told_when_it_renews(tmp_path: Path) -> None:
    """Six minutes behind, it refuses what it is shown, says why, and goes on with what it has."""
    federation = make_old_federation(tmp_path / "fed", datetime.now(UTC) - timedelta(days=1))
    north = federation.site("north")
    before = (north / "tls.pem").read_bytes()
    with serving(federation) as service:
        with pytest.raises((PeerError, CertificateError)) as behind:
            service.renewer(clock=off_by(-SIX)).renew_folder(north)
        assert behind.value.reason == "not_yet_valid"
    assert (north / "tls.pem").read_bytes() == before


def test_a_site_beyond_five_minutes_ahead_is_told_when_it_joins(tmp_path: Path) -> None:
    """Its receiving key would be of a time to come, and no later one taken before that: refused, nothing is spent."""
    federation = make_old_federation(tmp_path / "fed", datetime.now(UTC) - timedelta(days=1))
    out = tmp_path / "west"
    with serving(federation) as service:
        token = service.token("west")
        with pytest.raises(MessageError, match=r"clock of spiffe://fed/site/west is 36\d s ahead") as ahead:
            Joiner(token, service.address, out, clock=off_by(SIX)).join()
        assert ahead.value.reason == "from_the_future"
        assert [path.name for path in tmp_path.iterdir()] == ["fed"]
        # With the clock set right, the same token.
        Joiner(token, service.address, out).join()
    federation.authority.sign_roster(federation.authority.plan_roster())
    good("key", "rotate", "--identity", out)
    good("ca", "rekey", "--dir", federation.ca, "--statement", out / "receiving-key.json")


def start_skewed(crew: Crew, federation: Federation, target: str, minutes: int) -> Running:
    """Start the site's sidecar as a process whose clock is wrong; the time that only measures spans stays right."""
    command = [FAKETIME, "--exclude-monotonic", "-f", f"{minutes:+}m", sys.executable, "-m", "pqfl", "client"]
    words = [
        *identity(federation.site("north")), "--target", target, "--crl", str(federation.authority.crl_path),
        "--crl-state", str(federation.folder / f"seen{minutes}"), "--verify-uri", "spiffe://fed/gateway/fresh",
        "--listen", "127.0.0.1:0", "--status", "127.0.0.1:0", "--log-format", "json",
    ]  # fmt: skip
    script = f"import os; os.execv({FAKETIME!r}, {[*command, *words]!r})"
    process = crew.start(f"skewed{minutes}", "-c", script)
    listening = process.wait_for(lambda line: line.get("event") == "listening", START_SECONDS)
    assert abs((datetime.fromisoformat(listening["time"]) - datetime.now(UTC)).total_seconds() - minutes * 60) < 30
    host, port = listening["address"].rsplit(":", 1)
    return Running(process, (host, int(port)), f"http://{listening['status']}")


@pytest.mark.skipif(FAKETIME is None, reason="faketime is not installed, and a process's clock is set by nothing else")
def test_whole_processes_whose_clocks_are_wrong(tmp_path: Path) -> None:
    """Sidecars five minutes off reach a gateway that was certified just now; one ten minutes behind says why not."""
    federation = make_old_federation(tmp_path / "fed", datetime.now(UTC) - timedelta(days=1))
    federation.authority.make_crl(now=datetime.now(UTC) - timedelta(hours=1))
    fresh = tmp_path / "fresh"
    federation.authority.issue(profile="gateway", name="fresh", out=fresh, hosts=HOSTS)
    with Crew(tmp_path) as crew, plain_server(echo) as target:
        gateway = start(crew, "gateway", "server", "--target", target, *identity(fresh), "--allow-all")
        for minutes in (-5, 5):
            with start_skewed(crew, federation, gateway.target, minutes).connect() as connection:
                connection.sendall(b"now")
                assert connection.recv(10) == b"now"
        late = start_skewed(crew, federation, gateway.target, -10)
        with late.connect() as connection, suppress(ConnectionResetError):
            assert connection.recv(1) == b""
        assert "is not valid before" in late.wait_for("refusal", reason="not_yet_valid")["detail"]
