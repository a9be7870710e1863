"""What every result needs beside it: the machine, the versions, the date, and a table."""

import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from pqfl_transport.tls.engine import openssl_version


def describe() -> dict[str, str]:
    """Return the facts that a number means nothing without."""
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "processor": f"{_processor()}, {os.cpu_count()} processors seen",
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "openssl": openssl_version(),
        "packages": ", ".join(f"{name} {version(name)}" for name in ("cryptography", "pyOpenSSL", "numpy", "pqfl")),
    }


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table; the first column is text, the others are numbers."""
    lines = ["| " + " | ".join(header) + " |", "|---" + "|---:" * (len(header) - 1) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])
