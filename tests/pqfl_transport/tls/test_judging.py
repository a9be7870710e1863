"""Certificates are judged by what holds now, and remembered only where nothing can change."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from pqfl_transport.errors import CertificateError, PeerError
from pqfl_transport.tls import alerts
from pqfl_transport.tls.config import AllowedPeers, Role
from pqfl_transport.tls.judging import Judge, Verifier
from tests.support.listeners import tls
from tests.support.pki import Federation, make_federation


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return make_federation(tmp_path_factory.mktemp("federation"), sites=("bank-a",))


def der(folder: Path, name: str = "tls.pem") -> bytes:
    return x509.load_pem_x509_certificate((folder / name).read_bytes()).public_bytes(Encoding.DER)


def no_chain() -> list[bytes]:
    return []


def test_a_good_certificate_gives_its_names(federation: Federation) -> None:
    """The same object the second time: it was read once."""
    verifier = Verifier(tls(federation))
    site = der(federation.site("bank-a"))
    first = verifier.verify(site, None, no_chain)
    assert first.name == federation.site_uri("bank-a")
    assert verifier.verify(site, None, no_chain) is first


def test_a_remembered_certificate_expires_all_the_same(federation: Federation) -> None:
    """Time is asked on every connection."""
    now = [datetime.now(UTC)]
    verifier = Verifier(tls(federation, clock=lambda: now[0]))
    site = der(federation.site("bank-a"))
    verifier.verify(site, None, no_chain)
    now[0] += timedelta(days=400)
    with pytest.raises(CertificateError) as caught:
        verifier.verify(site, None, no_chain)
    assert caught.value.reason == "expired"


def test_who_is_allowed_is_asked_on_every_connection(federation: Federation) -> None:
    """A good certificate of somebody who is not on the list."""
    only = AllowedPeers(uris=("spiffe://fed/site/bank-z",))
    with pytest.raises(PeerError) as caught:
        Verifier(tls(federation, allowed=only)).verify(der(federation.site("bank-a")), None, no_chain)
    assert caught.value.reason == "not_allowed"


def test_a_client_without_rules_checks_the_host(federation: Federation) -> None:
    """The name connected to has to be in the certificate."""
    config = tls(federation, Role.CLIENT, allowed=AllowedPeers())
    gateway = der(federation.gateway)
    assert Verifier(config).verify(gateway, "localhost", no_chain).name == federation.gateway_uri
    with pytest.raises(CertificateError) as caught:
        Verifier(config).verify(gateway, "elsewhere.example", no_chain)
    assert caught.value.reason == "bad_name"


@pytest.mark.parametrize(("data", "reason"), [(b"no certificate", "malformed"), (b"", "malformed")])
def test_garbage_is_refused_with_an_alert(federation: Federation, data: bytes, reason: str) -> None:
    """Nothing is raised into OpenSSL, which asks."""
    judge = Judge(Verifier(tls(federation)), "client", None)
    assert judge(data, 0, no_chain) == alerts.x509_error(reason)
    assert judge.refusal is not None
    assert judge.refusal.reason == reason
    assert judge.certified is None


def test_openssl_has_a_veto(federation: Federation) -> None:
    """What it refuses is refused, even where we find nothing."""
    judge = Judge(Verifier(tls(federation)), "client", None)
    assert judge(der(federation.site("bank-a")), 18, no_chain) != 0
    assert judge.refusal is not None
    assert judge.refusal.reason == "untrusted"


def test_a_failure_of_ours_refuses(federation: Federation) -> None:
    """A mistake while judging lets nobody in."""
    config = tls(federation)
    broken = replace(config, clock=lambda: datetime.now(UTC))
    verifier = Verifier(broken)
    verifier._chains = None  # type: ignore[assignment]
    judge = Judge(verifier, "client", None)
    assert judge(der(federation.site("bank-a")), 0, no_chain) != 0
    assert judge.refusal is not None
    assert judge.refusal.reason == "protocol"
