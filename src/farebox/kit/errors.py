"""The whole error tree.

::

    FareboxError                  anything an operator or a client can act on
    ├── InvalidInputError         a named field is wrong; the message says how to mend it
    ├── NotFoundError             no such thing, or not yours
    ├── ConflictError             the thing exists already, or differently
    ├── RefusedError              a rule forbids it; the code names the rule
    ├── UnavailableError          something we stand on is away; try again later
    └── IncompatibleError         what we stand on is set up in a way we must not accept

Programmer errors are assertions, never members of this tree. Each class has a stable ``code``;
only the outer rooms know what it means in HTTP or as an exit status.
"""

from __future__ import annotations

from typing import ClassVar


class FareboxError(Exception):
    """Something went wrong that a person can act on."""

    code: ClassVar[str] = "farebox_error"

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or (self.__class__.__doc__ or self.code).splitlines()[0])

    @property
    def message(self) -> str:
        """The sentence for people: what is wrong and what to do."""
        return str(self.args[0])


class InvalidInputError(FareboxError):
    """A field has a value that cannot be taken."""

    code: ClassVar[str] = "invalid_input"

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field} {reason}")
        self.field = field
        self.reason = reason


class NotFoundError(FareboxError):
    """There is no such thing."""

    code: ClassVar[str] = "not_found"


class ConflictError(FareboxError):
    """It exists already."""

    code: ClassVar[str] = "conflict"


class RefusedError(FareboxError):
    """A rule forbids it."""

    code: ClassVar[str] = "refused"

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        """The stable name of the rule, for example ``transfer_not_allowed`` (CRD-19)."""


class UnavailableError(FareboxError):
    """Something that Farebox stands on is away; try again later."""

    code: ClassVar[str] = "unavailable"


class IncompatibleError(FareboxError):
    """Something that Farebox stands on is set up in a way that would lose money or data."""

    code: ClassVar[str] = "incompatible"
