"""What the authority signs, as Go sees it: another parser of X.509 and another ML-DSA, with no OpenSSL anywhere."""

import json
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from pqfl_transport.crypto import armour
from pqfl_transport.crypto.pyca import SigningKey
from pqfl_transport.pki import chain
from pqfl_transport.pki.requests import make_request
from pqfl_transport.pki.spiffe import SpiffeId
from pqfl_transport.policy import SecurityLevel, for_level, leaf_algorithm
from tests.support import classical, pki, rfc9881
from tests.support.go import build_go
from tests.support.pki import Federation, make_federation

VERIFIER = Path(__file__).resolve().parents[1] / "independent_verifier"


@pytest.fixture(scope="module")
def verifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The verifier, built once."""
    return build_go(VERIFIER, tmp_path_factory.mktemp("verifier"))


@pytest.fixture(scope="module", params=list(SecurityLevel))
def federation(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Federation:
    """A federation of each level."""
    return make_federation(tmp_path_factory.mktemp(request.param), level=request.param, sites=("bank-a",))


def examine(verifier: Path, anchors: Path, *files: Path) -> list[dict[str, Any]]:
    """What it says of each file."""
    done = subprocess.run(
        [verifier, anchors, *files], capture_output=True, text=True, check=True, timeout=60
    )  # fmt: skip
    return [json.loads(line) for line in done.stdout.splitlines()]


def algorithm(federation: Federation) -> str:
    return leaf_algorithm(for_level(federation.authority.level))


def test_certificates_hold_up_to_the_root(verifier: Path, federation: Federation) -> None:
    """All signatures, key identifiers, usages and name constraints of every kind of certificate that is issued."""
    site = federation.site("bank-a")
    files = [federation.ca / "issuing.pem", federation.gateway / "tls.pem", site / "tls.pem", site / "signing.pem"]
    said = examine(verifier, federation.ca_pem, *files)
    assert [one.get("error") for one in said] == [None] * 4
    assert [one.get("rfc7093") for one in said] == [True] * 4
    assert [one["algorithm"] for one in said] == ["ML-DSA-87", *[algorithm(federation)] * 3]
    assert [one.get("usages") for one in said] == [None, ["serverAuth"], ["clientAuth"], ["1.3.6.1.5.5.7.3.36"]]
    uri = federation.site_uri("bank-a")
    assert [one.get("uris") for one in said] == [None, [federation.gateway_uri], [uri], [uri]]


def test_what_is_wrong_is_found(verifier: Path, federation: Federation, tmp_path: Path) -> None:
    """A stranger of the same name, an end that is past, an ECDSA issuer, one changed bit."""
    der = bytearray(
        x509.load_pem_x509_certificate((federation.gateway / "tls.pem").read_bytes()).public_bytes(Encoding.DER)
    )
    der[-1] ^= 1
    (tmp_path / "changed.pem").write_bytes(armour.encode("CERTIFICATE", bytes(der)))
    files = {
        pki.other_authority(federation, tmp_path / "other") / "tls.pem": "no anchor issued it",
        pki.expired(federation, tmp_path / "expired") / "tls.pem": "not valid now",
        pki.signed_by_ecdsa(federation, tmp_path / "ecdsa") / "tls.pem": "no anchor issued it",
        tmp_path / "changed.pem": "the signature does not hold",
    }
    said = examine(verifier, federation.ca_pem, *files)
    for one, expected in zip(said, files.values(), strict=True):
        assert expected in one["error"], one


def test_lists_and_requests_hold(verifier: Path, federation: Federation, tmp_path: Path) -> None:
    """A list names whom it revokes, a request proves that its key is there."""
    revoked = chain.load_certificates((federation.site("bank-a") / "tls.pem").read_bytes())[0].serial_number
    own = pki.federation_signer(federation)
    crl = classical.make_crl(
        classical.Signer(own.certificate, own.key), number=7, revoked={revoked: None}, begin=datetime.now(UTC)
    )
    (tmp_path / "crl.pem").write_bytes(classical.pem(crl))
    party = SpiffeId.parse(federation.site_uri("bank-a"))
    request = make_request(party, SigningKey.generate(algorithm(federation)))
    (tmp_path / "request.pem").write_bytes(armour.encode("CERTIFICATE REQUEST", request))
    damaged = request[:-1] + bytes([request[-1] ^ 1])
    (tmp_path / "damaged.pem").write_bytes(armour.encode("CERTIFICATE REQUEST", damaged))
    files = [tmp_path / name for name in ("crl.pem", "request.pem", "damaged.pem")]
    listed, asked, refused = examine(verifier, federation.ca_pem, *files)
    assert (listed["number"], listed["algorithm"]) == ("7", algorithm(federation))
    assert [int(serial, 16) for serial in listed["revoked"]] == [revoked]
    assert (asked["uris"], asked["algorithm"]) == ([str(party)], algorithm(federation))
    assert refused["error"] == "the signature does not hold"


@pytest.mark.parametrize("name", rfc9881.ALGORITHMS)
def test_the_examples_of_rfc_9881(verifier: Path, name: str) -> None:
    """Go reads the RFC's certificates as we do."""
    path = rfc9881.FOLDER / f"{name}.crt"
    (said,) = examine(verifier, path, path)
    assert said["algorithm"] == name
