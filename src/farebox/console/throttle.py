"""Slows guessing and loops down: so many attempts per person, key and address, then a pause.

Counted in this process alone, before a password or a key is looked at, so that attempts at the same
moment count too. Memory is bounded: whoever wants to have a count forgotten needs some hundred
addresses, since what one address may add is itself counted.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from hashlib import sha256
from ipaddress import IPv6Address, IPv6Network, ip_address
from typing import Final, NamedTuple

WINDOW_SECONDS: Final = 900.0
"""Of attempts to sign in."""

ATTEMPTS_PER_EMAIL_MAX: Final = 10
ATTEMPTS_PER_ADDRESS_MAX: Final = 30
"""An office shares an address."""

API_WINDOW_SECONDS: Final = 60.0
REQUESTS_PER_CALLER_MAX: Final = 1_200
"""Twenty a second on average: a program that lists, never a loop that has gone wild."""

REQUESTS_UNPROVEN_MAX: Final = 300
"""Of one address, with keys that have not opened anything lately: what each of them costs is a look
into the database."""

KNOWN_SECONDS: Final = 900.0
"""How long a credential that opened something is taken for a good one."""

COUNTERS_MAX: Final = 10_000
"""Of either kind; about 2 MiB."""

_IPV6_SITE_BITS: Final = 64
"""One customer of a provider has at least that much and may write any address in it."""


class _Counter(NamedTuple):
    attempts: int
    ends: float


class _Counters:
    """Attempts per key in a window that begins with the first."""

    def __init__(self, most: int, seconds: float = WINDOW_SECONDS) -> None:
        self._most = most
        self._seconds = seconds
        self._kept: OrderedDict[str, _Counter] = OrderedDict()

    def wait_seconds(self, key: str, now: float) -> float:
        counter = self._kept.get(key)
        if counter is None or counter.ends <= now or counter.attempts < self._most:
            return 0.0
        return counter.ends - now

    def add(self, key: str, now: float) -> None:
        counter = self._kept.get(key)
        if counter is None or counter.ends <= now:
            self._kept.pop(key, None)
            counter = _Counter(0, now + self._seconds)
        self._kept[key] = _Counter(counter.attempts + 1, counter.ends)
        if len(self._kept) > COUNTERS_MAX:
            self._kept.popitem(last=False)  # the one whose window began first

    def take_back(self, key: str) -> None:
        counter = self._kept.get(key)
        if counter is not None:
            self._kept[key] = _Counter(max(0, counter.attempts - 1), counter.ends)

    def forget(self, key: str) -> None:
        self._kept.pop(key, None)


class SignInThrottle:
    """Counts attempts to sign in."""

    def __init__(self, *, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._emails = _Counters(ATTEMPTS_PER_EMAIL_MAX)
        self._addresses = _Counters(ATTEMPTS_PER_ADDRESS_MAX)

    def attempt(self, email: str, address: str) -> float:
        """Count an attempt, unless there were too many.

        Args:
            email: As typed; case and outer spaces do not matter.
            address: The client's IP address.

        Returns:
            Zero if the attempt may go on, else the seconds to wait; a refused one is not counted.
        """
        now, person, site = self._monotonic(), _person(email), _site(address)
        wait = max(self._emails.wait_seconds(person, now), self._addresses.wait_seconds(site, now))
        if wait <= 0:
            self._emails.add(person, now)
            self._addresses.add(site, now)
        return wait

    def succeeded(self, email: str, address: str) -> None:
        """The attempt was right: forget the person's count, and take this one off the address."""
        self._emails.forget(_person(email))
        self._addresses.take_back(_site(address))


class ApiThrottle:
    """Counts what programs ask.

    A credential that has opened something lately is counted by itself, whatever its address does:
    strangers behind the same proxy cannot shut anybody out who is inside.
    """

    def __init__(
        self,
        *,
        monotonic: Callable[[], float],
        requests_max: int = REQUESTS_PER_CALLER_MAX,
        unproven_max: int = REQUESTS_UNPROVEN_MAX,
    ) -> None:
        """Begin with nothing counted.

        Args:
            monotonic: Seconds of a clock that never goes back.
            requests_max: Of one credential in a minute.
            unproven_max: Of one address in a minute, with credentials not known to be good.
        """
        self._monotonic = monotonic
        self._callers = _Counters(requests_max, API_WINDOW_SECONDS)
        self._addresses = _Counters(unproven_max, API_WINDOW_SECONDS)
        self._known: OrderedDict[str, float] = OrderedDict()

    def attempt(self, credential: str, address: str) -> float:
        """Count a request, unless there were too many.

        Args:
            credential: The key or the session that it came with; empty where it has none.
            address: The client's IP address.

        Returns:
            Zero if it may go on, else the seconds to wait; a refused one is not counted.
        """
        now, name = self._monotonic(), _credential(credential)
        counters, key = self._addresses, _site(address)
        if credential and self._known.get(name, now) > now:
            counters, key = self._callers, name
        wait = counters.wait_seconds(key, now)
        if wait <= 0:
            counters.add(key, now)
        return wait

    def proven(self, credential: str) -> None:
        """The credential opened something: for a while it is counted by itself."""
        name = _credential(credential)
        self._known[name] = self._monotonic() + KNOWN_SECONDS
        self._known.move_to_end(name)
        if len(self._known) > COUNTERS_MAX:
            self._known.popitem(last=False)


def _credential(text: str) -> str:
    """What a credential is remembered by: nothing that could be used as one."""
    return sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _person(email: str) -> str:
    return email.strip().lower()


def _site(address: str) -> str:
    """The part of an address that one site has: all of IPv4, half of IPv6."""
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(IPv6Network((parsed, _IPV6_SITE_BITS), strict=False))
    return str(parsed)
