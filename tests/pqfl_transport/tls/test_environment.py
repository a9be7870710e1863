"""The environment: variables that make OpenSSL load code are gone before OpenSSL is there to read them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pqfl_transport.errors import ConfigurationError
from pqfl_transport.tls.environment import DANGEROUS, clean_environment

SEES = (
    "import os; from pqfl_transport.tls.environment import clean_environment;"
    "clean_environment(None); print('\\n'.join(os.environ))"
)


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=os.environ | environment
    )  # fmt: skip


@pytest.mark.parametrize("name", DANGEROUS)
def test_every_dangerous_variable_is_removed(name: str) -> None:
    """In a process that has not loaded OpenSSL yet, each of them is gone, and nothing else is."""
    done = run(SEES, **{name: "/tmp/evil", "HARMLESS": "1"})  # noqa: S108 -- never opened
    assert done.returncode == 0, done.stderr
    assert name not in done.stdout.split()
    assert "HARMLESS" in done.stdout.split()


def test_the_command_line_cleans_before_openssl_is_loaded() -> None:
    """Importing the command line loads neither pyOpenSSL nor the bindings of cryptography."""
    done = run(
        "import sys, pqfl.cli;"
        "print([m for m in sys.modules if m.startswith(('OpenSSL', 'cryptography.hazmat.bindings'))])"
    )
    assert done.stdout.strip() == "[]", done.stderr


def test_cleaning_too_late_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where OpenSSL has read them already, removing them would only pretend."""
    monkeypatch.setenv("OPENSSL_CONF", "/tmp/evil.cnf")  # noqa: S108 -- never opened
    with pytest.raises(ConfigurationError, match="OPENSSL_CONF"):
        clean_environment(None)


def test_a_clean_environment_needs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without any of them there is nothing to do, whatever is loaded."""
    for name in DANGEROUS:
        monkeypatch.delenv(name, raising=False)
    assert clean_environment(None) == ()


def test_the_file_the_operator_named_is_the_one_in_force(tmp_path: Path) -> None:
    """One configuration can be asked for by name, and it has its effect on OpenSSL."""
    config = tmp_path / "own.cnf"
    config.write_text("openssl_conf = x\n[x]\nssl_conf = y\n[y]\nsystem_default = z\n[z]\nGroups = MLKEM1024\n")
    done = run(
        "import os; from pathlib import Path; from pqfl_transport.tls.environment import clean_environment;"
        f"print(*clean_environment(Path({str(config)!r})), os.environ['OPENSSL_CONF'])",
        OPENSSL_CONF="/tmp/evil.cnf",  # noqa: S108 -- never opened
    )
    *removed, in_force = done.stdout.split()
    assert "OPENSSL_CONF" in removed, done.stderr
    assert in_force == str(config)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """A configuration that does not exist is not ignored."""
    with pytest.raises(ConfigurationError, match=r"nowhere\.cnf"):
        clean_environment(tmp_path / "nowhere.cnf")


def test_a_command_with_a_hostile_environment_works(tmp_path: Path) -> None:
    """`pqfl doctor` in an environment that would load a provider behaves as in a clean one."""
    (tmp_path / "evil.cnf").write_text(
        "openssl_conf = x\n[x]\nssl_conf = y\n[y]\nsystem_default = z\n[z]\nGroups = P-256\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "pqfl", "doctor", "--json"], capture_output=True, text=True, check=False,
        env=os.environ | {"OPENSSL_CONF": str(tmp_path / "evil.cnf"), "OPENSSL_MODULES": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert '"high": true' in done.stdout
