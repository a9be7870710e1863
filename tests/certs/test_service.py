import signal
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil
import pytest

from certs import service
from certs.entry import sha256_of
from certs.service import AUDIT_FILE, OwnIdentity
from pqfl.demo.processes import Crew, Process
from pqfl_transport.audit import verify_audit_log
from pqfl_transport.errors import ConfigurationError, TransportError
from pqfl_transport.pki import chain, swapping
from pqfl_transport.pki.ruling import load_policy
from pqfl_transport.policy import SecurityLevel, for_level
from pqfl_transport.tls.engine import TlsContext
from tests.support.pki import Federation, make_federation

START_SECONDS = 20.0
MOVING = Path(__file__).resolve().parents[2] / "certs" / "moving.toml"


@pytest.fixture
def federation(tmp_path: Path) -> Federation:
    return make_federation(tmp_path / "fed", sites=(), level="standard")


def test_the_service_makes_its_own_certificate_once(federation: Federation) -> None:
    """It is a gateway's of the reserved name, and stays while it is good."""
    own = OwnIdentity(federation.authority)
    config = own.load()
    assert str(config.own.id) == "spiffe://fed/gateway/enrolment"
    assert config.admits_strangers
    assert OwnIdentity(federation.authority).load() == config


def test_the_service_renews_its_own_certificate(federation: Federation) -> None:
    """After two thirds of its life there is another one, with a new key that fits."""
    own = OwnIdentity(federation.authority)
    first = own.load().identity
    then = datetime.now(UTC) + timedelta(days=61)
    later = OwnIdentity(federation.authority, lambda: then).load()
    assert chain.verifying_key(later.identity.leaf) != chain.verifying_key(first.leaf)
    assert later.own.not_after > first.leaf.not_valid_after_utc
    TlsContext(later)


@pytest.mark.parametrize("where", ["certified", "replaced"])
def test_a_renewal_that_was_killed_loses_no_certificate(
    federation: Federation, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after it was certified, it gets the same certificate again; killed at the end, it only clears up."""
    first = OwnIdentity(federation.authority).load().identity
    then = datetime.now(UTC) + timedelta(days=61)
    later = OwnIdentity(federation.authority, lambda: then)
    with monkeypatch.context() as patched:
        if where == "certified":
            patched.setattr(service, "replace_together", killed)
        else:
            patched.setattr(swapping, "_discard", killed)
        with pytest.raises(KeyboardInterrupt):
            later.load()
    identity = later.load().identity
    assert identity.leaf != first.leaf
    entries = federation.authority.ledger.entries(party="spiffe://fed/gateway/enrolment")
    assert [entry.sha256 for entry in entries] == [sha256_of(first.leaf), sha256_of(identity.leaf)]
    assert sorted(path.name for path in (later.folder / swapping.STORE).iterdir()) == ["0002", "current"]


def killed(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def test_the_service_follows_the_issuing_authority(federation: Federation) -> None:
    """Another one that is in use certifies the service at once, and again where it was retired while nobody served."""
    own = OwnIdentity(federation.authority)
    first = own.load().identity
    federation.authority.rotate_issuing(announce=True)
    assert own.load().identity.certificate_pem == first.certificate_pem
    federation.authority.rotate_issuing()
    second = own.load().identity
    assert second.certificate_pem != first.certificate_pem
    assert own.load().identity == second
    federation.authority.rotate_issuing()
    federation.authority.retire(force=True)
    config = own.load()
    assert chain.verifying_key(config.identity.leaf) != chain.verifying_key(second.leaf)
    TlsContext(config)


def test_a_certificate_that_ended_meanwhile_is_an_error(federation: Federation) -> None:
    """A service that slept through its own renewal says which file to look at."""
    OwnIdentity(federation.authority).load()
    late = datetime.now(UTC) + timedelta(days=100)
    with pytest.raises(ConfigurationError, match=r"enrolment/tls\.pem") as caught:
        OwnIdentity(federation.authority, lambda: late).load()
    assert caught.value.reason == "expired"


def test_a_service_serves_until_term_and_keeps_an_audit_log(federation: Federation, tmp_path: Path) -> None:
    """It says where it listens and who it is, refuses to run twice, and its log holds."""
    with Crew(tmp_path) as crew:
        words = ("-m", "pqfl", "ca", "serve", "--dir", str(federation.ca), "--listen", "127.0.0.1:0")
        process = crew.start("hub", *words, "--log-format", "json")
        assert process.wait_for(lambda line: line.get("event") == "crl_signed", START_SECONDS)["number"] == 1
        listening = process.wait_for(lambda line: line.get("event") == "listening", START_SECONDS)
        assert listening["id"] == "spiffe://fed/gateway/enrolment"
        second = crew.start("second", *words)
        with pytest.raises(TransportError, match="ended with status 2"):
            second.wait(START_SECONDS)
        process.end()
    assert verify_audit_log(federation.ca / AUDIT_FILE, None).lines == 3


def test_lists_are_signed_again_as_authorities_come_and_go(federation: Federation, tmp_path: Path) -> None:
    """A look after HUP is enough; what cannot be signed is said once, and served as it was."""
    with Crew(tmp_path) as crew:
        words = ("-m", "pqfl", "ca", "serve", "--dir", str(federation.ca), "--listen", "127.0.0.1:0", "--crl-days", "2")
        process = crew.start("hub", *words, "--log-format", "json")
        process.wait_for(lambda line: line.get("event") == "listening", START_SECONDS)
        federation.authority.rotate_issuing()
        hang_up(process)
        signed = process.wait_for(lambda line: line.get("event") == "crl_signed" and "issuing-2" in str(line), 20)
        assert datetime.fromisoformat(str(signed["next_update"])) < datetime.now(UTC) + timedelta(days=3)
        before = federation.authority.crl_path.read_bytes()
        (federation.ca / "crl-dual.pem").unlink(missing_ok=True)
        federation.authority.create_classical()
        (federation.ca / "classical.key").unlink()
        hang_up(process)
        failed = process.wait_for(lambda line: line.get("event") == "crl_failed", START_SECONDS)
        assert "classical.key" in str(failed["detail"])
        assert before.startswith(b"-----BEGIN X509 CRL")
        process.end()


def hang_up(process: Process) -> None:
    psutil.Process(process.pid).send_signal(signal.SIGHUP)


def test_the_service_follows_the_authority_to_another_level(federation: Federation) -> None:
    """Its next look gives it a certificate of the new kind, under the policy it was started with or the level's."""
    both = load_policy(str(MOVING))
    moving, plain = OwnIdentity(federation.authority, policy=both), OwnIdentity(federation.authority)
    assert moving.load().own.sigalg == "ML-DSA-44"
    federation.authority.rotate_issuing(level=SecurityLevel.HIGH)
    found = moving.load()
    assert (found.own.sigalg, found.policy) == ("ML-DSA-65", both)
    assert plain.load().policy == for_level("high")
    assert plain.load().identity == found.identity
    TlsContext(found)
