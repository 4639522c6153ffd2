"""What is met at every door: passwords are checked and made slowly, and tries are counted."""

from __future__ import annotations

from typing import NamedTuple

from farebox.console.passwords import PasswordDesk
from farebox.console.throttle import SignInThrottle


class Reception(NamedTuple):
    """One for the pages and the API together: who guesses at one door is slow at the other too."""

    passwords: PasswordDesk
    throttle: SignInThrottle
