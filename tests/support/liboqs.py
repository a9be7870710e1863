"""Whether liboqs is here: its tests run for real where it is, and say why not elsewhere."""

import pytest

from pqfl_transport.crypto.liboqs import liboqs_version
from pqfl_transport.errors import PlatformError


def why_not() -> str | None:
    """Return why liboqs cannot be used here, or nothing."""
    try:
        liboqs_version()
    except PlatformError as error:
        return str(error)
    return None


WHY_NOT = why_not()
needs_liboqs = pytest.mark.skipif(WHY_NOT is not None, reason=WHY_NOT or "")
