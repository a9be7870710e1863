"""The command line of OpenSSL 3.5, the first that knows ML-KEM and ML-DSA, or later: another implementation's view.

It is the one that `PQFL_TEST_OPENSSL` names, or else the one on PATH. `PQFL_TEST_OQSPROVIDER` names the folder with an
oqs-provider (`oqsprovider.so`) that was built for it.
"""

import os
import re
import shutil
import subprocess

import pytest

_VARIABLE = "PQFL_TEST_OPENSSL"
_PROVIDER_VARIABLE = "PQFL_TEST_OQSPROVIDER"
_NEEDED = (3, 5)


def find_openssl() -> str:
    """Return the command to test with. Skips the test, and says why, where there is none that is new enough."""
    named = os.environ.get(_VARIABLE)
    command = named or shutil.which("openssl")
    if command is None:
        pytest.skip(f"no openssl on PATH; name one of 3.5 or later in {_VARIABLE}")
    says, version = _version_of(command)
    if version >= _NEEDED:
        return command
    # A command that somebody named on purpose and that does not do is a mistake, not a reason to pass.
    if named:
        pytest.fail(f"{_VARIABLE}={named} is not OpenSSL 3.5 or later: {says}")
    pytest.skip(f"{command} is {says}; ML-DSA needs 3.5 or later: name one in {_VARIABLE}")


def find_oqsprovider(openssl: str) -> str:
    """Return the folder with oqs-provider. Skips the test where none is named; one that does not load is a mistake."""
    folder = os.environ.get(_PROVIDER_VARIABLE)
    if folder is None:
        pytest.skip(f"no oqs-provider; name the folder of one in {_PROVIDER_VARIABLE}")
    command = [openssl, "list", "-providers", "-provider", "oqsprovider"]
    environment = os.environ | {"OPENSSL_MODULES": folder, "OPENSSL_CONF": os.devnull}
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30, env=environment)
    if done.returncode:
        pytest.fail(f"{_PROVIDER_VARIABLE}={folder}: {openssl} does not load it: {done.stderr}")
    return folder


def _version_of(command: str) -> tuple[str, tuple[int, int]]:
    try:
        done = subprocess.run([command, "version"], capture_output=True, text=True, check=False, timeout=30)
    except OSError as error:
        return str(error), (0, 0)
    match = re.match(r"OpenSSL (\d+)\.(\d+)", done.stdout)
    return done.stdout.strip() or done.stderr.strip(), (int(match[1]), int(match[2])) if match else (0, 0)
