"""What every test run says of itself: the OpenSSL and the libraries it ran on."""

from importlib.metadata import version

import hypothesis
from cryptography.hazmat.backends.openssl import backend

# How long one example takes says something about the machine and its other work, and nothing about the code.
hypothesis.settings.register_profile("patient", deadline=None)
hypothesis.settings.load_profile("patient")


def pytest_report_header() -> list[str]:
    libraries = ", ".join(f"{name} {version(name)}" for name in ("cryptography", "pyOpenSSL", "aiohttp", "numpy"))
    return [f"OpenSSL in use: {backend.openssl_version_text()}", libraries]
