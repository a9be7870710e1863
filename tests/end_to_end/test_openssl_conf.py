"""OpenSSL configuration files in real processes: which one counts, what it changes, and what it cannot."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pqfl_transport.algorithms import Algorithm, Kind, find
from pqfl_transport.policy import for_level

NATIVE = Path(__file__).resolve().parents[2] / "openssl_conf" / "native.cnf"

# What a program that sets nothing itself offers: the bytes of its ClientHello, as a hexadecimal number.
SAYS_HELLO = """
from pathlib import Path
from pqfl_transport.tls.environment import clean_environment
clean_environment(Path({configuration!r}))
from OpenSSL import SSL
client = SSL.Connection(SSL.Context(SSL.TLS_METHOD), None)
client.set_connect_state()
try:
    client.do_handshake()
except SSL.WantReadError:
    print(client.bio_read(1 << 16).hex())
"""


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=False, timeout=60,
        env=os.environ | environment,
    )  # fmt: skip


def code_point(name: str, kind: Kind) -> int:
    row: Algorithm = find(name, kind)
    assert row.code_point is not None
    return row.code_point


def extension(number: int, code_points: list[int], *, length_bytes: int = 2) -> str:
    """A ClientHello's extension that is a list of 2-byte numbers (RFC 9846 §4.2), in hexadecimal."""
    values = b"".join(point.to_bytes(2, "big") for point in code_points)
    values = len(values).to_bytes(length_bytes, "big") + values
    return (number.to_bytes(2, "big") + len(values).to_bytes(2, "big") + values).hex()


def test_native_cnf_decides_what_a_program_offers_that_sets_nothing_itself() -> None:
    """Groups, signature algorithms and version in the ClientHello are those of the policy `high`, in its order."""
    policy = for_level("high")
    done = run("-c", SAYS_HELLO.format(configuration=str(NATIVE)))
    assert done.returncode == 0, done.stderr
    groups = [code_point(name, Kind.TLS_GROUP) for name in policy.groups]
    signatures = [code_point(name, Kind.SIGNATURE) for name in policy.ca_signatures]
    assert extension(0x000A, groups) in done.stdout
    assert extension(0x000D, signatures) in done.stdout
    assert extension(0x002B, [0x0304], length_bytes=1) in done.stdout


@pytest.mark.parametrize("variable", ["PQFL_OPENSSL_CONF", "OPENSSL_CONF"])
def test_a_configuration_moves_no_context_of_ours(variable: str) -> None:
    """With a file in force that lists two groups and TLS 1.3, all four levels work as without it."""
    done = run("-m", "pqfl", "doctor", "--json", **{variable: str(NATIVE)})
    assert done.returncode == 0, done.stderr
    plain = run("-m", "pqfl", "doctor", "--json")
    assert done.stdout == plain.stdout


def test_a_configuration_that_openssl_fails_on_is_said(tmp_path: Path) -> None:
    """An unknown group in the named file ends in a sentence and a status, and is not dropped with its list."""
    broken = tmp_path / "broken.cnf"
    broken.write_text(NATIVE.read_text().replace("Groups = ", "Groups = NoSuchGroup:"))
    done = run("-m", "pqfl", "doctor", "--json", PQFL_OPENSSL_CONF=str(broken))
    assert done.returncode == 1
    assert "OpenSSL makes no TLS context with the configuration file in force" in done.stdout
    assert "Traceback" not in done.stderr


def test_a_configuration_that_does_not_exist_is_named(tmp_path: Path) -> None:
    """A wrong path in PQFL_OPENSSL_CONF is wrong configuration, status 2."""
    done = run("-m", "pqfl", "doctor", PQFL_OPENSSL_CONF=str(tmp_path / "nowhere.cnf"))
    assert done.returncode == 2
    assert "nowhere.cnf: no such OpenSSL configuration file" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_hostile_openssl_conf_is_not_read(tmp_path: Path) -> None:
    """What OPENSSL_CONF names is not even opened by a command of ours: a file that would break it changes nothing."""
    broken = tmp_path / "broken.cnf"
    broken.write_text(NATIVE.read_text().replace("Groups = ", "Groups = NoSuchGroup:"))
    done = run("-m", "pqfl", "doctor", "--json", OPENSSL_CONF=str(broken))
    assert done.returncode == 0, done.stderr
