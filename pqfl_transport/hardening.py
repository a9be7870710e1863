"""What a process that holds private keys can do for them itself; `docs/keys.md` says what it cannot."""

import resource
from contextlib import suppress


def forbid_core_dumps() -> None:
    """Switch core dumps off for this process and those it starts: one would hold every key that is in memory.

    A collector that the kernel pipes dumps to decides itself what it keeps; systemd's obeys this limit. A system that
    does not let the limit be changed is left as it is.
    """
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
