"""The environment that OpenSSL would obey: variables that load code, trust stores or leak secrets.

OpenSSL reads them once, when it is first used, so they have to go before anything imports it. `OPENSSL_CONF` can name
a file that loads a shared object into the process: in a service's environment that means running somebody's code.
"""

import os
import sys
from pathlib import Path

from pqfl_transport.errors import ConfigurationError

DANGEROUS = (
    "OPENSSL_CONF",
    "OPENSSL_CONF_INCLUDE",
    "OPENSSL_MODULES",
    "OPENSSL_ENGINES",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "SSLKEYLOGFILE",
    "QLOGDIR",
)
_LOADED_BY = ("OpenSSL", "cryptography.hazmat.bindings._rust")


def clean_environment(openssl_conf: Path | None) -> tuple[str, ...]:
    """Remove the variables, or point ``OPENSSL_CONF`` at the one file the operator named; return what was removed.

    Raises ``ConfigurationError`` when the file cannot be read, or when OpenSSL was loaded before, so that removing
    them has no effect any more.
    """
    found = tuple(name for name in DANGEROUS if name in os.environ)
    if openssl_conf is not None and not openssl_conf.is_file():
        raise ConfigurationError(f"{openssl_conf}: no such OpenSSL configuration file")
    if (found or openssl_conf) and any(module in sys.modules for module in _LOADED_BY):
        raise ConfigurationError(f"OpenSSL was loaded with {', '.join(found) or 'another configuration'} in force")
    for name in found:
        del os.environ[name]
    if openssl_conf is not None:
        os.environ["OPENSSL_CONF"] = str(openssl_conf.resolve())
    return found
