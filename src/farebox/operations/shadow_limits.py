"""What limits in shadow would have refused: they refuse nothing, so somebody has to count it.

Nothing is counted when a call is admitted. The figures that every call keeps of its limits
(ERR-11) are looked through when somebody asks: of the organisation's newest calls, so the cost of
an answer is bounded and the answer says since when it counts.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

import msgspec

from farebox.kit.ids import format_id
from farebox.operations.documents import Document, instant

CALLS_LOOKED_AT_MAX: Final = 5_000
"""Of the newest calls; some tens of milliseconds of the database's time."""

LOOK_BACK: Final = timedelta(days=31)
"""At least one whole window of every limit that has one."""


class ShadowRefusals(msgspec.Struct, frozen=True, kw_only=True):
    """The calls for which one limit in shadow had no room when they were admitted."""

    calls: int
    """Open ones too; of a default, those of every scope of its kind. Of tokens, a call's input
    counts as it came, since its bound is kept with open calls alone."""
    since: datetime
    """Calls that were admitted before were not looked at."""
    last_call_id: UUID | None
    """The newest of them; None where there is none."""
    last_call_at: datetime | None


def shadow_document(found: ShadowRefusals | None) -> Document | None:
    """What a limit in shadow would have refused; None for every other limit."""
    if found is None:
        return None
    call_id = found.last_call_id
    return {
        "calls": found.calls,
        "since": instant(found.since),
        "last_call_id": None if call_id is None else format_id("req", call_id),
        "last_call_at": instant(found.last_call_at),
    }
