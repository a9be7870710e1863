"""The aggregator as a process: starts when everything holds, says what does not, ends in order."""

import shutil
import signal
import stat
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from pqfl.demo.processes import Crew, Process
from pqfl_transport.audit import verify_audit_log
from pqfl_transport.crypto import pkcs8
from pqfl_transport.pki import keystore
from tests.support.advisories import publish
from tests.support.pki import Federation, make_federation
from tests.support.rounds import MODEL

TEMPLATE = """
[aggregator]
listen = "{listen}"
identity = "{identity}"
cacert = "{cacert}"
roster = "{roster}"
state = "state"
audit = "audit.jsonl"
[model]
initial = "{model}"
[rounds]
count = 1
quorum = 2
deadline_seconds = {deadline_seconds}
attempts = 1
"""


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return make_federation(tmp_path_factory.mktemp("federation"), sites=("bank-a", "bank-b"))


@pytest.fixture
def crew(tmp_path: Path) -> Iterator[Crew]:
    logs = tmp_path / "logs"
    logs.mkdir()
    with Crew(logs) as processes:
        yield processes


def configure(federation: Federation, folder: Path, **changes: object) -> Path:
    np.savez(folder / "model.npz", **MODEL)  # type: ignore[arg-type]
    facts = {
        "listen": "127.0.0.1:0", "identity": federation.aggregator, "cacert": federation.ca_pem,
        "roster": federation.roster, "model": "model.npz", "deadline_seconds": 60,
    } | changes  # fmt: skip
    path = folder / "aggregator.toml"
    path.write_text(TEMPLATE.format(**facts))
    return path


def start(crew: Crew, config: Path) -> tuple[Process, str]:
    process = crew.start("aggregator", "-m", "pqfl", "aggregator", "--config", str(config), "--log-format", "json")
    address: str = process.wait_for(lambda event: event.get("event") == "listening", 20)["address"]
    return process, address


def refused(config: Path) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "pqfl", "aggregator", "--config", str(config)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr


def test_it_listens_answers_and_ends_on_term(federation: Federation, tmp_path: Path, crew: Crew) -> None:
    """TERM ends it with status 0, and the audit log ends with a signed checkpoint."""
    process, address = start(crew, configure(federation, tmp_path))
    with urllib.request.urlopen(f"http://{address}/v1/status") as answer:
        assert answer.status == 200
    psutil.Process(process.pid).send_signal(signal.SIGTERM)
    process.wait(20)
    key = keystore.load_signing_identity(federation.aggregator).key.verifying_key
    summary = verify_audit_log(tmp_path / "audit.jsonl", [key])
    assert summary.sealed_lines == summary.lines > 0
    assert stat.S_IMODE((tmp_path / "state" / "models").stat().st_mode) == 0o700


def test_a_unix_socket_is_an_address_too(federation: Federation, tmp_path: Path, crew: Crew) -> None:
    """Without any port only who may open the socket's file can speak to it."""
    _, address = start(crew, configure(federation, tmp_path, listen=f"unix:{tmp_path}/a.sock"))
    assert address == f"unix:{tmp_path}/a.sock"
    assert (tmp_path / "a.sock").is_socket()


def test_no_core_dump_can_hold_its_keys(federation: Federation, tmp_path: Path, crew: Crew) -> None:
    """The process has switched off core dumps for itself."""
    process, _ = start(crew, configure(federation, tmp_path))
    assert psutil.Process(process.pid).rlimit(psutil.RLIMIT_CORE) == (0, 0)


def test_failed_rounds_are_its_exit_status(federation: Federation, tmp_path: Path, crew: Crew) -> None:
    """It goes on answering that it failed; ended, its status is 1."""
    process, _ = start(crew, configure(federation, tmp_path, deadline_seconds=0.2))
    process.wait_for(lambda event: event.get("move") == "failed", 20)
    psutil.Process(process.pid).send_signal(signal.SIGTERM)
    assert psutil.Process(process.pid).wait(20) == 1
    assert "the rounds failed" in process.log.read_text()


@pytest.mark.parametrize(
    ("changes", "status", "named"),
    [
        ({"listen": "0.0.0.0:80"}, 2, "aggregator.listen 0.0.0.0:80"),
        ({"identity": "nowhere"}, 2, "nowhere/signing.pem: no such file"),
        ({"roster": "nowhere.json"}, 2, "nowhere.json: no such file"),
        ({"model": "nowhere.npz"}, 2, "nowhere.npz: no such file"),
        ({"model": "aggregator.toml"}, 2, "aggregator.toml"),
        ({"model": "pickled.npz"}, 2, "pickle"),
        ({"model": "bytes.npz"}, 2, "uint8"),
    ],
)
def test_what_it_cannot_start_with(
    federation: Federation, tmp_path: Path, changes: dict[str, object], status: int, named: str
) -> None:
    """One sentence with the file or the key, the status of wrong configuration, and no traceback."""
    np.savez(tmp_path / "pickled.npz", w=np.array([{}], dtype=object))
    np.savez(tmp_path / "bytes.npz", w=np.zeros(3, np.uint8))
    found, error = refused(configure(federation, tmp_path, **changes))
    assert (found, named in error) == (status, True), error


def test_a_sites_identity_runs_no_aggregator(federation: Federation, tmp_path: Path) -> None:
    """Roles are not exchanged."""
    status, error = refused(configure(federation, tmp_path, identity=federation.site("bank-a")))
    assert status == 2
    assert "no aggregator" in error


def test_a_port_in_use_is_named(federation: Federation, tmp_path: Path, crew: Crew) -> None:
    """The second one on a port ends with 1 and names key and address."""
    (tmp_path / "second").mkdir()
    _, address = start(crew, configure(federation, tmp_path))
    status, error = refused(configure(federation, tmp_path / "second", listen=address))
    assert status == 1
    assert f"aggregator.listen {address}: the address is in use" in error


def test_a_state_folder_is_gone_on_with_by_the_same_run_alone(
    federation: Federation, tmp_path: Path, crew: Crew
) -> None:
    """Not while it is in use, and not with another initial model; the models there stay."""
    config = configure(federation, tmp_path)
    process, _ = start(crew, config)
    process.wait_for(lambda event: event.get("event") == "model", 20)
    status, error = refused(config)
    assert (status, "another aggregator works with this folder" in error) == (2, True), error
    process.end()
    start(crew, config)[0].end()
    np.savez(tmp_path / "model.npz", w=np.zeros(2, np.float32))
    status, error = refused(config)
    assert (status, "keeps a run that began with model" in error) == (2, True), error
    assert len(list((tmp_path / "state" / "models").iterdir())) == 1


def test_an_encrypted_signing_key_needs_its_passphrase(
    federation: Federation, tmp_path: Path, crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the file it starts; with a wrong one or none it says so in one line that names the key."""
    monkeypatch.delenv("PQFL_PASSPHRASE", raising=False)
    identity = Path(shutil.copytree(federation.aggregator, tmp_path / "identity"))
    plain = (identity / "signing.key").read_bytes()
    keystore.write_secret(identity / "signing.key", pkcs8.encrypt(plain, b"correct horse battery"), overwrite=True)
    config = configure(federation, tmp_path, identity=identity)
    status, line = refused(config)
    assert (status, len(line.splitlines())) == (2, 1)
    assert all(word in line for word in ("signing.key", "passphrase_file", "PQFL_PASSPHRASE"))
    config.write_text(config.read_text().replace("[model]", 'passphrase_file = "pass"\n[model]'))
    keystore.write_secret(tmp_path / "pass", b"wrong")
    assert "does not open" in refused(config)[1]
    keystore.write_secret(tmp_path / "pass", b"correct horse battery\n", overwrite=True)
    start(crew, config)


@pytest.mark.parametrize("fallen", ["ML-DSA-65", "ML-DSA-87"])
def test_it_does_not_start_under_an_advisory_that_leaves_it_nothing(
    federation: Federation, tmp_path: Path, fallen: str
) -> None:
    """Neither a suite, nor a chain to the root for its own certificate: status 3, and the advisory is named."""
    path = publish(federation, tmp_path / "advisory.json", fallen)
    config = configure(federation, tmp_path)
    config.write_text(config.read_text().replace("audit = ", f'advisory = "{path}"\naudit = '))
    status, error = refused(config)
    assert (status, fallen in error) == (3, True), error
