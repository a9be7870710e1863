"""Algorithms as rows of data.

Nothing in the program branches on an algorithm's name: code reads a row and does what the row says. A hybrid is a row
and not a subclass, and an alias from an older paper means the standard that came of it.
"""

from pqfl_transport.algorithms.lookup import CONTENT_SUITES, TABLE, content_suite, find, foundation, meant_by
from pqfl_transport.algorithms.rows import (
    LIBOQS,
    OPENSSL,
    PYCA,
    Algorithm,
    ContentSuite,
    Kind,
    Status,
)

__all__ = [
    "CONTENT_SUITES",
    "LIBOQS",
    "OPENSSL",
    "PYCA",
    "TABLE",
    "Algorithm",
    "ContentSuite",
    "Kind",
    "Status",
    "content_suite",
    "find",
    "foundation",
    "meant_by",
]
