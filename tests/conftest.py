"""What every test run says of itself: the OpenSSL and the libraries it ran on."""

from importlib.metadata import version

from cryptography.hazmat.backends.openssl import backend


def pytest_report_header() -> list[str]:
    libraries = ", ".join(f"{name} {version(name)}" for name in ("cryptography", "pyOpenSSL", "aiohttp", "numpy"))
    return [f"OpenSSL in use: {backend.openssl_version_text()}", libraries]
