"""What certificates cost: issuing, bytes of chains and handshakes, and a federation of a thousand sites.

    python benchmarks/pki.py [--openssl PROGRAM] [--sites N] [--runs N] [--quick]

Rosters are measured at N sites and ten times as many, with ML-DSA-87 keys.

Issuing is measured beside `openssl x509 -req` with the same request, issuer and extensions, and beside that program
started for nothing, because it is a process for every certificate. Bytes are counted between two engines in memory, so
they are exact. The federation is made by the real authority: ledger on disk, keys that the sites made themselves.
"""

import argparse
import asyncio
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from multiprocessing import get_context
from pathlib import Path
from types import MappingProxyType

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from support.machine import describe, markdown
from support.turns import Subjects, take_turns

from certs.authority import Authority
from certs.certifying import CertificationRequest, Certified
from pqfl_transport.content.recipients import ReceivingKey
from pqfl_transport.crypto.pyca import SigningKey, VerifyingKey
from pqfl_transport.pki import chain, keystore
from pqfl_transport.pki.authority import Issuer, create_issuing, create_root, issue_tls
from pqfl_transport.pki.profiles import LEAF_DAYS, PROFILES, Usage
from pqfl_transport.pki.references import CertificateReference
from pqfl_transport.pki.requests import make_request, open_request
from pqfl_transport.pki.revocation import open_crls
from pqfl_transport.pki.roster import Party, Roster, open_roster, sign_roster
from pqfl_transport.pki.spiffe import Role, SpiffeId
from pqfl_transport.policy import SecurityLevel, for_level, leaf_algorithm
from pqfl_transport.tls.config import AllowedPeers, TlsConfig, TlsIdentity
from pqfl_transport.tls.config import Role as End
from pqfl_transport.tls.engine import TlsContext, TlsEngine

FEDERATION = "bench"
LEAF_SECONDS = LEAF_DAYS * 24 * 3600
REPEAT = 20
TICK_SECONDS = 0.001


@dataclass(frozen=True)
class Site:
    """A site of the large federation, and what it was given."""

    party: Party
    certified: Certified


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--openssl", default=os.environ.get("PQFL_TEST_OPENSSL") or shutil.which("openssl"))
    parser.add_argument("--sites", type=int, default=1000)
    parser.add_argument("--runs", type=int, default=15, help="turns of each table")
    parser.add_argument("--quick", action="store_true", help="few sites and one turn, to see that it works")
    options = parser.parse_args()
    runs, sites = (1, 20) if options.quick else (options.runs, options.sites)
    print("\n".join(f"{name}: {value}" for name, value in describe().items()), end="\n\n")
    with tempfile.TemporaryDirectory() as folder:
        print(issuing(Path(folder), options.openssl, runs), sizes(Path(folder)), sep="\n\n")
        print(f"\n{large(Path(folder) / 'large', sites)}")
        print(f"\n{rosters(Path(folder), (sites, 10 * sites))}")


def issuing(folder: Path, openssl: str | None, runs: int) -> str:
    """Certificates a second, of each level's algorithm."""
    program = usable(openssl)
    rows = []
    for level in (SecurityLevel.STANDARD, SecurityLevel.HIGH, SecurityLevel.MAXIMUM):
        subjects = issuers(folder / level, level, program, turns=REPEAT * (runs + 1))
        found = take_turns(subjects, runs, REPEAT)
        algorithm = leaf_algorithm(for_level(level))
        floor = found.get("openssl x509 -req")
        for name, seconds in found.items():
            ratio = "" if floor is None else f"{floor / seconds:.2f}"
            rows.append([f"{algorithm}, {name}", f"{1 / seconds:.0f}", f"{seconds * 1e3:.2f}", ratio])
    return markdown(["issuing a TLS certificate", "a second", "ms", "rate / openssl x509 -req"], rows)


def usable(openssl: str | None) -> str | None:
    """Return the program where it can make ML-DSA certificates; say so where it cannot."""
    if openssl is not None:
        command = [openssl, "genpkey", "-algorithm", "ML-DSA-44", "-out", os.devnull]
        if subprocess.run(command, capture_output=True, check=False).returncode == 0:
            said = subprocess.run([openssl, "version"], capture_output=True, text=True, check=True).stdout
            print(f"beside: {said.strip()}\n")
            return openssl
    print("beside: nothing, because there is no openssl of 3.5 or later; name one with --openssl\n")
    return None


def issuers(folder: Path, level: SecurityLevel, openssl: str | None, turns: int) -> Subjects:
    """Return the ways to issue, each to be called so many times; all verify that the request is signed by its key."""
    authority = Authority.create(folder, federation=FEDERATION, level=level)
    issuer = Issuer(
        x509.load_pem_x509_certificate((folder / "issuing.pem").read_bytes()),
        keystore.load_signing_key(folder / "issuing.key"),
    )
    party = SpiffeId(FEDERATION, Role.GATEWAY, "hub")
    request = make_request(party, SigningKey.generate(leaf_algorithm(authority.policy)))
    # The authority certifies a key once, so every turn brings another one; making them is the party's work.
    others = [SpiffeId(FEDERATION, Role.GATEWAY, f"hub-{number}") for number in range(turns)]
    requests = iter(
        [(other, make_request(other, SigningKey.generate(leaf_algorithm(authority.policy)))) for other in others]
    )

    def ours() -> object:
        key = open_request(request, party, "request")
        now = datetime.now(UTC)
        return issue_tls(issuer, PROFILES["gateway"], party, key, now=now, seconds=LEAF_SECONDS)

    def with_ledger() -> object:
        other, theirs = next(requests)
        key = open_request(theirs, other, "request")
        return authority.certify(CertificationRequest(other, "gateway", key))

    found: Subjects = {"in memory": ours, "authority with its ledger": with_ledger}
    if openssl is None:
        return found
    (folder / "request.pem").write_bytes(x509.load_der_x509_csr(request).public_bytes(Encoding.PEM))
    (folder / "extensions").write_text(
        "basicConstraints = critical, CA:FALSE\nkeyUsage = critical, digitalSignature\nextendedKeyUsage = serverAuth\n"
        f"subjectAltName = URI:{party}\nsubjectKeyIdentifier = hash\nauthorityKeyIdentifier = keyid:always\n"
    )
    command = [
        openssl, "x509", "-req", "-in", f"{folder}/request.pem", "-CA", f"{folder}/issuing.pem",
        "-CAkey", f"{folder}/issuing.key", "-extfile", f"{folder}/extensions", "-days", str(LEAF_DAYS),
        "-subj", f"/O={FEDERATION}/OU=gateway/CN=hub", "-out", f"{folder}/made.pem",
    ]  # fmt: skip
    found["openssl x509 -req"] = lambda: subprocess.run(command, capture_output=True, check=True)
    found["openssl version (a process for nothing)"] = lambda: subprocess.run(
        [openssl, "version"], capture_output=True, check=True
    )
    return found


def sizes(folder: Path) -> str:
    """Bytes of each certificate, of ca.pem, and of a full mutual handshake in either direction."""
    rows = []
    for level in SecurityLevel:
        ca = folder / f"sizes-{level}"
        authority = Authority.create(ca, federation=FEDERATION, level=level)
        for profile in ("gateway", "site"):
            authority.issue(profile=profile, name="one", out=ca / profile)
        certificates = [ca / "gateway" / "tls.pem", ca / "issuing.pem", ca / "root.pem"]
        der = [
            len(x509.load_pem_x509_certificate(path.read_bytes()).public_bytes(Encoding.DER)) for path in certificates
        ]
        server, client = handshake(ca, level)
        figures = [*der, len((ca / "ca.pem").read_bytes()), server, client, server + client]
        rows.append([f"{level}: {leaf_algorithm(for_level(level))}, {for_level(level).groups[0]}", *map(str, figures)])
    header = ["bytes", "leaf", "issuing", "root", "ca.pem", "handshake, server", "client", "both"]
    return markdown(header, rows)


def handshake(ca: Path, level: SecurityLevel) -> tuple[int, int]:
    """Return the bytes that a server and a client send until both have completed a mutual handshake."""
    server, client = engine(ca, "gateway", End.SERVER, level), engine(ca, "site", End.CLIENT, level)
    sent = {server: 0, client: 0}
    client.do_handshake()
    for _ in range(10):
        for sender, receiver in ((client, server), (server, client)):
            data = sender.data_to_send()
            sent[sender] += len(data)
            if data:
                receiver.receive(data)
                receiver.do_handshake()
    if not (server.handshake_complete and client.handshake_complete):
        raise SystemExit("the handshake did not complete")
    return sent[server], sent[client]


def engine(ca: Path, profile: str, end: End, level: SecurityLevel) -> TlsEngine:
    """Return one end of a connection, with the identity of this profile."""
    folder = ca / profile
    identity = TlsIdentity.load(folder / "tls.pem", folder / "tls.key", folder / "ca.pem")
    allowed = (
        AllowedPeers(any_of_federation=True)
        if end is End.SERVER
        else AllowedPeers(uris=(f"spiffe://{FEDERATION}/gateway/one",))
    )
    return TlsContext(TlsConfig(end, identity, for_level(level), allowed)).new_engine()


def large(folder: Path, count: int) -> str:
    """Issue, list, revoke a tenth of and verify a whole federation."""
    authority = Authority.create(folder, federation=FEDERATION)
    algorithm = leaf_algorithm(authority.policy)
    asked = [key_request(number, algorithm, authority) for number in range(count)]
    rows: list[list[str]] = []

    def note(what: str, began: float, size: str = "") -> None:
        rows.append([what, f"{time.perf_counter() - began:.3f}", size])

    began = time.perf_counter()
    sites = [Site(party, authority.certify(request)) for party, request in asked]
    note(f"certify {count} sites, 2 certificates each, ledger on disk", began, f"{_bytes_of(folder)}")
    root = keystore.load_signing_key(folder / "root.key")
    roster = Roster(
        FEDERATION, authority.level, 2, int(time.time()),
        MappingProxyType({str(site.party.id): site.party for site in sites}),
    )  # fmt: skip
    began = time.perf_counter()
    signed = sign_roster(roster, root)
    note(f"sign the roster of {count} sites", began, f"{len(signed)}")
    began = time.perf_counter()
    open_roster(signed, [root.verifying_key], at_least_number=0, federation=FEDERATION)
    note("verify and read it", began)
    rows += verifying(folder, authority, sites)
    return markdown([f"a federation of {count} sites, {algorithm}", "seconds", "bytes"], rows)


def rosters(folder: Path, counts: tuple[int, ...]) -> str:
    """Rosters of so many sites at the highest level: made, and read as a program does that starts with them."""
    root = create_root(FEDERATION, now=datetime.now(UTC))
    issuing = create_issuing(root, SecurityLevel.MAXIMUM, now=datetime.now(UTC)).certificate
    algorithm, kem = leaf_algorithm(for_level("maximum")), for_level("maximum").content_suite.kem
    rows = []
    for count in counts:
        parties = [roster_party(number, algorithm, kem, issuing) for number in range(count)]
        roster = Roster(
            FEDERATION, SecurityLevel.MAXIMUM, 1, int(time.time()),
            MappingProxyType({str(party.id): party for party in parties}),
        )  # fmt: skip
        path = folder / f"roster-{count}.json"
        began = time.perf_counter()
        signed = sign_roster(roster, root.key)
        wrote = time.perf_counter()
        keystore.write_public(path, signed)
        ended = time.perf_counter()
        # In a process of its own, where nothing else was read before.
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
            seconds, peak, stall = process.submit(load_beside_loop, path, root.key.verifying_key.spki).result()
        rows.append([
            f"{count}", f"{len(signed) / 2**20:.1f}", f"{wrote - began:.2f}", f"{ended - wrote:.2f}", f"{seconds:.2f}",
            f"{peak:.0f}", f"{stall * 1e3:.0f}",
        ])  # fmt: skip
    head = ["roster, sites", "MiB", "sign, s", "write, s", "load and verify, s", "peak MiB", "loop late by, ms"]
    return markdown(head, rows)


def roster_party(number: int, algorithm: str, kem: str, certificate: x509.Certificate) -> Party:
    """Return a site as it stands in a roster, with keys of its own."""
    receiving = ReceivingKey.generate(kem).public
    return Party(
        SpiffeId(FEDERATION, Role.SITE, f"site-{number}"), SigningKey.generate(algorithm).verifying_key,
        receiving.to_bytes(), receiving.fingerprint, 1000, CertificateReference.of(certificate),
    )  # fmt: skip


def load_beside_loop(path: Path, root: bytes) -> tuple[float, float, float]:
    """Load a roster in a thread; return seconds, MiB of memory it took at most, and by how much a loop was late."""
    late = 0.0

    async def tick() -> None:
        nonlocal late
        while True:
            began = time.perf_counter()
            await asyncio.sleep(TICK_SECONDS)
            late = max(late, time.perf_counter() - began - TICK_SECONDS)

    async def load() -> float:
        ticking = asyncio.create_task(tick())
        await asyncio.sleep(10 * TICK_SECONDS)
        began = time.perf_counter()
        await asyncio.to_thread(keystore.load_roster, path, [VerifyingKey.from_spki(root)])
        seconds = time.perf_counter() - began
        ticking.cancel()
        return seconds

    before = memory_mib("VmRSS")
    # Forget the highest use so far, which is inherited: proc(5).
    Path("/proc/self/clear_refs").write_text("5")
    seconds = asyncio.run(load())
    return seconds, memory_mib("VmHWM") - before, late


def memory_mib(field: str) -> float:
    """Return a size that Linux gives of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:")) / 1024


def key_request(number: int, algorithm: str, authority: Authority) -> tuple[Party, CertificationRequest]:
    """Return the party and the request of a site; making keys is the site's work and not measured."""
    party_id = SpiffeId(FEDERATION, Role.SITE, f"site-{number}")
    signing = SigningKey.generate(algorithm).verifying_key
    receiving = ReceivingKey.generate(authority.policy.content_suite.kem).public
    party = Party(party_id, signing, receiving.to_bytes(), receiving.fingerprint, 1000)
    tls = SigningKey.generate(algorithm).verifying_key
    return party, CertificationRequest(party_id, "site", tls, signing, receiving.to_bytes())


def verifying(folder: Path, authority: Authority, sites: list[Site]) -> list[list[str]]:
    """Return rows: a list that revokes a tenth, and verification of one certificate and of all, with the list."""
    rows: list[list[str]] = []
    issuing_certificate = x509.load_pem_x509_certificate((folder / "issuing.pem").read_bytes())
    key = keystore.load_signing_key(folder / "issuing.key")
    anchors = keystore.load_anchors(folder / "ca.pem")
    now = datetime.now(UTC)
    gone = max(1, len(sites) // 10)
    began = time.perf_counter()
    crl = revocation_list(issuing_certificate, key, sites[:gone], now)
    rows.append([f"sign a revocation list of {gone} sites", f"{time.perf_counter() - began:.3f}", str(len(crl))])
    began = time.perf_counter()
    revocations = open_crls(crl, anchors, policy=authority.policy, now=now)
    rows.append(["verify and read it", f"{time.perf_counter() - began:.3f}", ""])
    ders = [site.certified.tls_certificate.public_bytes(Encoding.DER) for site in sites[gone:]]
    verifier = chain.ChainVerifier(anchors, authority.policy)
    seconds = []
    for der in ders:
        began = time.perf_counter()
        leaf = chain.load_certificate_der(der)
        verifier.verify(leaf, usage=Usage.CLIENT, now=now)
        revocations.check(leaf, now)
        seconds.append(time.perf_counter() - began)
    rows.append(["verify the chain of one, the first", f"{seconds[0]:.5f}", str(len(ders[0]))])
    rows.append(["of one, median", f"{statistics.median(seconds):.5f}", ""])
    rows.append([f"of all {len(ders)} that are left", f"{sum(seconds):.3f}", ""])
    return rows


def revocation_list(issuer: x509.Certificate, key: SigningKey, gone: list[Site], now: datetime) -> bytes:
    """Return the DER of a list with both certificates of these sites."""
    builder = x509.CertificateRevocationListBuilder().issuer_name(issuer.subject)
    builder = builder.last_update(now - timedelta(minutes=5)).next_update(now + timedelta(days=7))
    builder = builder.add_extension(x509.CRLNumber(1), critical=False)
    for site in gone:
        for certificate in (site.certified.tls_certificate, site.certified.signing_certificate):
            if certificate is not None:
                entry = x509.RevokedCertificateBuilder().serial_number(certificate.serial_number).revocation_date(now)
                entry = entry.add_extension(x509.CRLReason(x509.ReasonFlags.cessation_of_operation), critical=False)
                builder = builder.add_revoked_certificate(entry.build())
    return builder.sign(key.pyca_key, None).public_bytes(Encoding.DER)


def _bytes_of(folder: Path) -> int:
    return sum(
        path.stat().st_size for path in folder.rglob("*") if path.is_file() and path.suffix not in {".pem", ".key"}
    )


if __name__ == "__main__":
    main()
