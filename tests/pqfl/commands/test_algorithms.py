"""`pqfl algorithms` as a user types it: a table that says what works here because it was tried."""

import json
import os
import subprocess
import sys

from pqfl_transport.algorithms import LIBOQS, TABLE, find
from tests.support.liboqs import WHY_NOT


def pqfl(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pqfl", "algorithms", *words], capture_output=True, text=True, check=False, timeout=100,
        env=os.environ | environment,
    )  # fmt: skip


def test_the_table_as_json_has_every_row_once_for_programs() -> None:
    """Standard output is JSON and nothing else; what this project is built on works."""
    done = pqfl("--json")
    assert done.returncode == 0, done.stderr
    found = {row["name"]: row for row in json.loads(done.stdout) if row["kind"] != "tls-group"}
    assert len(json.loads(done.stdout)) == len(TABLE)
    assert "cryptography" in found["ML-DSA-65"]["works_by"]
    assert "openssl" in found["ML-DSA-65"]["works_by"]
    assert found["ML-KEM-768+X25519"]["works_by"] == ["cryptography"]
    assert found["Rainbow"]["works_by"] == []
    assert found["Rainbow"]["broken_on"] == "2022-02-25"
    assert ("liboqs" in found["HQC-3"]["works_by"]) == (WHY_NOT is None)


def test_without_liboqs_its_rows_say_so_and_how_to_get_it() -> None:
    """Everything else works; nothing is built or waited for."""
    done = pqfl("--family", "code", OQS_INSTALL_PATH="/nowhere", HOME="/nowhere")
    assert done.returncode == 0, done.stderr
    assert "not here" in done.stdout
    assert "OQS_INSTALL_PATH" in done.stdout
    rows = json.loads(pqfl("--json", "--family", "code", OQS_INSTALL_PATH="/nowhere", HOME="/nowhere").stdout)
    assert not any(row["works_by"] for row in rows if LIBOQS in find(row["name"]).providers)


def test_rows_are_chosen_by_kind_and_family_and_measured() -> None:
    """One kind and family; with --bench each has operations per second."""
    rows = json.loads(pqfl("--json", "--kind", "signature", "--family", "lattice", "--bench").stdout)
    assert {row["kind"] for row in rows} == {"signature"}
    rates = next(row for row in rows if row["name"] == "ML-DSA-65")["per_second"]
    assert set(rates) == {"keygen", "sign", "verify"}
    assert min(rates.values()) > 1


def test_a_family_that_does_not_exist_is_wrong_usage() -> None:
    """The answer lists the families that do."""
    done = pqfl("--family", "rot13")
    assert done.returncode == 2
    assert "lattice" in done.stderr
