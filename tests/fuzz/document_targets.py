"""Targets: signed documents, certificates, names, and what is read from files."""

import atexit
import base64
import contextlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import numpy as np
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from aggregator.config import load_config
from certs.migration import read_former_ledger
from gateway.options import collect
from pqfl.commands import shares
from pqfl_transport import hashchain
from pqfl_transport.aggregation.round_document import (
    RoundDocument,
    RoundState,
    TensorSchema,
    open_round_document,
    sign_round_document,
)
from pqfl_transport.audit import AuditLog, EventKind, verify_audit_log
from pqfl_transport.content.files import Sender
from pqfl_transport.content.shares import Contribution, parse_contribution
from pqfl_transport.content.tensors import TensorLayout
from pqfl_transport.content.weight_files import load_weights
from pqfl_transport.crypto.pyca import SigningKey
from pqfl_transport.errors import PqflError
from pqfl_transport.extrakeys.config import load_keys_config
from pqfl_transport.net.address import Address
from pqfl_transport.pki import chain, keystore
from pqfl_transport.pki.advisory import open_advisory, sign_advisory
from pqfl_transport.pki.constraints import permitted_federations
from pqfl_transport.pki.documents import DocumentKind, open_document
from pqfl_transport.pki.profiles import PROFILES, Usage
from pqfl_transport.pki.requests import make_request, open_request, open_twin_request
from pqfl_transport.pki.revocation import open_crls
from pqfl_transport.pki.roster import open_roster, sign_roster
from pqfl_transport.pki.spiffe import SpiffeId
from pqfl_transport.pki.twin_renewal import (
    TwinGrant,
    make_twin_renewal,
    open_twin_answer,
    open_twin_renewal,
    twin_answer,
)
from pqfl_transport.pki.twins import create_classical, generate_key, is_twin_of, issue_twin, with_issuers
from pqfl_transport.policy import POLICIES, Advisory, Verdict, Withdrawal, for_level, tighten
from pqfl_transport.policy.files import parse_policy
from pqfl_transport.tls.allowed import AllowedPeers
from pqfl_transport.tls.config import Role
from pqfl_transport.tls.peers import read_certificate
from tests.fuzz.content_targets import trusting, vectors
from tests.fuzz.registry import target, text_of
from tests.support import classical
from tests.support.pki import Federation, expired, make_federation, two_uris

_KEY = SigningKey.from_seed("ML-DSA-65", bytes(range(32)))
_TRUSTING = trusting(_KEY)
_NOW = datetime(2027, 1, 1, tzinfo=UTC)
_NONCE = "ab" * 16
_BINDING = b"b" * 32
NORTH = "spiffe://fed/site/north"
# In memory where the system has such a folder: a file is written for every input.
_MEMORY = Path("/dev/shm")  # noqa: S108 -- the folder below it is new and this process's own
_SCRATCH = Path(tempfile.mkdtemp(prefix="pqfl-fuzz-", dir=_MEMORY if _MEMORY.is_dir() else None))
atexit.register(shutil.rmtree, _SCRATCH, ignore_errors=True)
_ROUND = RoundDocument(
    nonce=_NONCE, aggregator="spiffe://fed/aggregator/main", federation="fed", round=3, state=RoundState.COLLECTING,
    suite="pqfl/v1/mlkem768x25519-mldsa65", challenge=b"c" * 32, receiving_key=b"key", model_version=2,
    model_digest=b"d" * 32, plaintext_bytes=100, schema=(TensorSchema("w", "F32", (2, 3)),), quorum=2, deadline=1000,
    not_after=2000, roster_number=1,
)  # fmt: skip


@cache
def federation() -> Federation:
    """Return a federation of one site, made once a process."""
    return make_federation(_SCRATCH / "federation", sites=("north",))


def _scratch(name: str, data: bytes) -> Path:
    path = _SCRATCH / name
    path.write_bytes(data)
    return path


def _signed(kind: DocumentKind, payload: bytes) -> bytes:
    """Return a document around any text, whose signature the trusting key believes."""
    document = {
        "pqfl": kind.tag, "payload": payload.decode("utf-8", "replace"), "signature": "",
        "signer": _KEY.verifying_key.fingerprint.hex(),
    }  # fmt: skip
    return json.dumps(document).encode()


def _payload(document: bytes) -> bytes:
    payload: str = json.loads(document)["payload"]
    return payload.encode()


@target(lambda: [federation().roster.read_bytes(), sign_round_document(_ROUND, _KEY)])
def document(data: bytes) -> None:
    """The signed shell of rosters and round documents."""
    for kind in DocumentKind:
        try:
            open_document(data, kind, [_TRUSTING])
        except PqflError:
            continue


@target(lambda: [_payload(federation().roster.read_bytes())], max_bytes=16_384)
def roster(data: bytes) -> None:
    """A roster that is read is signed and read again to the same."""
    found = open_roster(_signed(DocumentKind.ROSTER, data), [_TRUSTING])
    assert open_roster(sign_roster(found, _KEY), [_TRUSTING]) == found


@target(lambda: [_payload(sign_round_document(_ROUND, _KEY))])
def round_document(data: bytes) -> None:
    """A round document that is read is signed and read again to the same."""
    found = open_round_document(_signed(DocumentKind.ROUND, data), [_TRUSTING], nonce=_NONCE)
    assert open_round_document(sign_round_document(found, _KEY), [_TRUSTING], nonce=_NONCE) == found


@cache
def certificates() -> tuple[bytes, ...]:
    """Return certificates, good and odd ones, in DER."""
    return tuple(_made_certificates())


_ADVISORY = Advisory(
    "fed", 7, 1_700_000_000, 1_900_000_000,
    (Withdrawal("SecP256r1MLKEM768", Verdict.BROKEN, 0, "a paper"), Withdrawal("RSA", Verdict.DEPRECATED, 5, "old")),
)  # fmt: skip


@target(lambda: [_payload(sign_advisory(_ADVISORY, _KEY))])
def advisory(data: bytes) -> None:
    """An advisory that is read is signed and read again to the same, and whatever it says leaves no policy wider."""
    found = open_advisory(_signed(DocumentKind.ADVISORY, data), [_TRUSTING], now=1_800_000_000.0)
    assert open_advisory(sign_advisory(found, _KEY), [_TRUSTING], now=1_800_000_000.0) == found
    policy = POLICIES["pq-prefer-2026"]
    tightened, _ = tighten(policy, found, 1_800_000_000.0)
    assert set(tightened.content_suites) <= set(policy.content_suites)


_POLICY_TOML = b"""
name = "cardio-2027"
level = "high"
groups = ["X25519MLKEM768"]
leaf_keys = ["ML-DSA-65"]
ca_signatures = ["ML-DSA-65", "ML-DSA-87"]
tls_suites = ["TLS_AES_256_GCM_SHA384"]
content_suites = ["pqfl/v1/mlkem768x25519-mldsa65"]
[classical]
groups = ["x25519"]
leaf_keys = ["ECDSA-P256"]
ca_signatures = ["ECDSA-P256"]
"""


@target(lambda: [_POLICY_TOML])
def policy_file(data: bytes) -> None:
    """A policy of one's own lists what its level may, or is refused by the file's name."""
    said = "own.toml"
    try:
        parse_policy(data, "own.toml")
    except PqflError as error:
        said = str(error)
    assert "own.toml" in said


def _made_certificates() -> Iterator[bytes]:
    made = federation()
    odd = [expired(made, _SCRATCH / "expired"), two_uris(made, _SCRATCH / "uris")]
    for folder in (made.site("north"), made.gateway, *odd):
        yield chain.load_certificates((folder / "tls.pem").read_bytes())[0].public_bytes(Encoding.DER)
    for one in keystore.load_anchors(made.ca_pem):
        yield one.public_bytes(Encoding.DER)
    root = classical.make_root("root")
    yield root.certificate.public_bytes(Encoding.DER)


@cache
def _verifier() -> chain.ChainVerifier:
    return chain.ChainVerifier(keystore.load_anchors(federation().ca_pem), for_level("high"))


@target(certificates, max_bytes=8192)
def certificate(data: bytes) -> None:
    """A certificate of a peer is judged or refused, whatever its names, dates and extensions are."""
    leaf = chain.load_certificate_der(data)
    for judge in (
        lambda one: _verifier().verify(one, usage=Usage.CLIENT, now=_NOW),
        lambda one: chain.require_usage(one, Usage.SIGNING),
        chain.spiffe_id,
        permitted_federations,
    ):
        try:
            judge(leaf)
        except PqflError:
            continue
    facts = read_certificate(leaf)
    AllowedPeers(uris=("spiffe://fed/site/*",), dns=("*.example",), cns=("a*b",)).check(facts, federation="fed")


_PARTY = SpiffeId.parse(NORTH)


def _certification_requests() -> Iterator[bytes]:
    yield make_request(_PARTY, _KEY)
    yield make_request(_PARTY, generate_key())


@target(_certification_requests, max_bytes=8192)
def certification_request(data: bytes) -> None:
    """Gives a key or is refused, and no request is good for both kinds of keys."""
    kinds = 0
    for opened in (open_request, open_twin_request):
        with contextlib.suppress(PqflError):
            opened(data, _PARTY, "request")
            kinds += 1
    assert kinds <= 1


def _twin_renewals() -> Iterator[bytes]:
    issuer, key = create_classical("fed", now=_NOW), generate_key()
    twin = issue_twin(issuer, PROFILES["site"], _PARTY, key.public_key(), now=_NOW, seconds=3600)
    tls = chain.load_certificates((federation().site("north") / "tls.pem").read_bytes())[0]
    tls_key = keystore.load_signing_key(federation().site("north") / "tls.key")
    yield make_twin_renewal(_PARTY, _BINDING, tls, tls_key, twin, key)
    yield twin_answer(TwinGrant(twin, (issuer.certificate,)))


@target(_twin_renewals, max_bytes=32768)
def twin_renewal(data: bytes) -> None:
    """What a party asks for its twin and what it is answered; what is verified is all of that one party."""
    with contextlib.suppress(PqflError):
        found = open_twin_renewal(data, _BINDING)
        assert chain.spiffe_id(found.tls) == chain.spiffe_id(found.twin) == found.party
    grant = open_twin_answer(data)
    assert open_twin_answer(twin_answer(grant)) == grant
    is_twin_of(_PARTY, grant.twin, grant.anchors)
    with_issuers(grant.anchors, grant.anchors, _PARTY.federation)


@cache
def _contribution() -> Contribution:
    vector = next(one for one in vectors("mlkem768x25519-mldsa44") if "contributions" in one.entry)
    return replace(parse_contribution(base64.b64decode(vector.entry["contributions"][0])), trustee=NORTH)


@target(certificates, max_bytes=8192)
def contribution_certificate(data: bytes) -> None:
    """The certificate that a trustee sends along, whatever its anchors are."""
    brought = replace(_contribution(), certificate=data)
    sender = Sender(NORTH, _TRUSTING, for_level("high"))
    for anchors in (None, federation().ca_pem):
        with contextlib.suppress(PqflError):
            shares._lookup((), anchors, sender)(brought)


@target(lambda: [federation().ca_pem.read_bytes(), (federation().gateway / "tls.pem").read_bytes()], max_bytes=16_384)
def certificates_pem(data: bytes) -> None:
    """A trust store or an identity's certificates."""
    chain.load_certificates(data)


@cache
def _crl_parts() -> tuple[classical.Signer, bytes]:
    root = classical.make_root("root")
    made = classical.make_crl(root, revoked={5: x509.ReasonFlags.key_compromise, 6: None})
    return root, made.public_bytes(Encoding.PEM)


@target(lambda: [_crl_parts()[1]], max_bytes=8192)
def revocation_list(data: bytes) -> None:
    """A list is of an authority that is trusted, or refused."""
    root = _crl_parts()[0].certificate
    assert open_crls(data, [root], now=_NOW, policy=POLICIES["pq-prefer-2026"]).numbers


@target(lambda: [(federation().gateway / name).read_bytes() for name in ("tls.key", "tls.pem")])
def identity_bundle(data: bytes) -> None:
    """A keystore: certificates and one key, as PEM or PKCS#12."""
    keystore.open_keystore(data, b"pw", "keystore")


@target(lambda: [_KEY.to_pem()])
def signing_key_pem(data: bytes) -> None:
    """A private signing key survives being stored."""
    key = SigningKey.from_pem(data)
    assert SigningKey.from_pem(key.to_pem()).verifying_key == key.verifying_key


@target(lambda: [b"spiffe://fed/site/north", b"spiffe://a-b/aggregator/main"], max_bytes=300)
def spiffe(data: bytes) -> None:
    """There is one spelling of an ID."""
    text = text_of(data)
    assert str(SpiffeId.parse(text)) == text


@target(lambda: [b"127.0.0.1:80", b"[::1%lo]:443", b"unix:/run/x", b"systemd:web", b"host:0"], max_bytes=400)
def address(data: bytes) -> None:
    """An address that parses is written and parsed to the same."""
    found = Address.parse(text_of(data), "--listen")
    assert Address.parse(str(found), "--listen") == found
    assert found.is_local in {True, False}


@target(lambda: [b"spiffe://fed/*/**", b"*.example.org", b"10.0.0.0/8", b"a*b*c", b"sha256/" + b"A" * 43 + b"="])
def allow_rule(data: bytes) -> None:
    """A rule of any kind is taken or refused as it is written down."""
    text = text_of(data)
    for name in ("uris", "dns", "ips", "cns", "ous", "spki_pins"):
        try:
            AllowedPeers(**{name: (text,)})
        except PqflError:
            continue


def _audit_logs() -> Iterator[bytes]:
    path = _SCRATCH / "seed.log"
    path.unlink(missing_ok=True)
    with AuditLog(path, signing_key=_KEY) as log:
        log.event(EventKind.CONNECTION, peer="north", bytes_in=5)
        log.event(EventKind.REFUSAL, reason="bad_signature")
    yield path.read_bytes()
    yield from path.read_bytes().splitlines(keepends=True)


@target(_audit_logs)
def audit_log(data: bytes) -> None:
    """A log holds or is refused by its line."""
    verify_audit_log(_scratch("audit.log", data), [_TRUSTING])


@target(_audit_logs)
def audit_line(data: bytes) -> None:
    """A line whose own hash is right, so that what is behind the hash is reached."""
    try:
        line = json.loads(data)
        line["prev"], line["seq"] = "0" * 64, 0
        line["hash"] = hashchain.digest({key: value for key, value in line.items() if key != "hash"})
        text = hashchain.canonical(line) + b"\n"
    except (ValueError, TypeError, AttributeError, RecursionError):
        return
    verify_audit_log(_scratch("audit-line.log", text), [_TRUSTING])


_GATEWAY_TOML = b"""
listen = "0.0.0.0:8443"
target = ["127.0.0.1:80", "unix:/run/x"]
cert = "tls.pem"
connect-timeout = "5s"
quiet = true
[[listener]]
name = "a"
role = "client"
listen = "127.0.0.1:1"
"""
_AGGREGATOR_TOML = b"""
[aggregator]
listen = "127.0.0.1:9000"
identity = "id"
roster = "roster.json"
state = "state"
audit = "audit.log"
[model]
initial = "model.npz"
[rounds]
count = 3
quorum = 2
level = "high"
deadline_seconds = 1.5
"""


@target(lambda: [_GATEWAY_TOML])
def gateway_config(data: bytes) -> None:
    """A sidecar's file is taken or refused, with its name."""
    path = _scratch("gateway.toml", data)
    for role in Role:
        _refused_by_name(path, lambda role=role: collect(role, {}, path))


@target(lambda: [_AGGREGATOR_TOML])
def aggregator_config(data: bytes) -> None:
    """An aggregator's file is taken or refused, with its name."""
    path = _scratch("aggregator.toml", data)
    _refused_by_name(path, lambda: load_config(path))


def _refused_by_name(path: Path, read: Callable[[], object]) -> None:
    said = str(path)
    try:
        read()
    except PqflError as error:
        said = str(error)
    assert str(path) in said


_KEYS_TOML = b"""
[used]
file = "used.db"
retain_days = 100
[psk.spring]
file = "spring.psk"
[qkd.north-south]
url = "https://127.0.0.1:8020"
peer_sae = "south"
cert = "km/tls.pem"
key = "km/tls.key"
cacert = "km/ca.pem"
verify_uri = "spiffe://qkd/gateway/north"
[[peer]]
id = "spiffe://fed/aggregator/main"
envelopes = ["update", "file"]
mode = "require"
keys = ["qkd:north-south", "psk:spring"]
"""


@target(lambda: [_KEYS_TOML])
def keys_config(data: bytes) -> None:
    """A file of key sources is taken or refused, with its name."""
    path = _scratch("keys.toml", data)
    _refused_by_name(path, lambda: load_keys_config(path))


_FORMER_FIELDS = ("issued_at", "id", "usage", "algorithm", "serial", "sha256", "not_after")


def _former_lines() -> list[bytes]:
    entries = federation().authority.ledger.entries()
    lines = [json.dumps({name: getattr(entry, name) for name in _FORMER_FIELDS}) for entry in entries]
    return ["\n".join(lines).encode()]


@target(_former_lines)
def ledger(data: bytes) -> None:
    """The ledger of former versions, which is taken into the present one."""
    read_former_ledger(_scratch("ledger", data))


def _archives() -> Iterator[bytes]:
    path = _SCRATCH / "seed.npz"
    np.savez(path, w=np.arange(6, dtype=np.float32).reshape(2, 3), b=np.array(1.5))
    yield path.read_bytes()
    np.savez_compressed(path, w=np.asfortranarray(np.eye(3)), big=np.arange(3, dtype=">i8"))
    yield path.read_bytes()


@target(_archives)
def weights_npz(data: bytes) -> None:
    """A file of weights is read without pickle, or refused."""
    load_weights(_scratch("weights.npz", data))


def _layouts() -> Iterator[bytes]:
    yield b"".join(TensorLayout.of({"w": np.arange(6, dtype=np.float32), "b": np.array(1.5)}).buffers())


@target(_layouts)
def weights_safetensors(data: bytes) -> None:
    """A file of weights in the layout itself."""
    load_weights(_scratch("weights.safetensors", data))
