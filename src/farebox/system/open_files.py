"""How many files and connections this process may have open.

Shells give a thousand, which a gateway with a thousand streams passes twice over: each has a
connection to its client and one to its provider.
"""

from __future__ import annotations

import resource
from typing import Final

OPEN_FILES: Final = 65_536
"""More than the connections that a gateway takes, on both sides."""


def allow_open_files(wanted: int = OPEN_FILES) -> int:
    """Raise the soft limit as far as the hard one allows; gives what it is then."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return wanted
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if allowed <= soft:
        return soft
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    except (OSError, ValueError):
        return soft  # some systems have a lower limit than they say
    return allowed
