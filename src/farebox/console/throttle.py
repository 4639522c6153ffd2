"""Slows guessing down: so many attempts to sign in per person and per address, then a pause.

Counted in this process alone, before the password is looked at, so that attempts at the same moment
count too. Memory is bounded: whoever wants to have a count forgotten needs some hundred addresses,
since what one address may add is itself counted.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from ipaddress import IPv6Address, IPv6Network, ip_address
from typing import Final, NamedTuple

WINDOW_SECONDS: Final = 900.0
ATTEMPTS_PER_EMAIL_MAX: Final = 10
ATTEMPTS_PER_ADDRESS_MAX: Final = 30
"""An office shares an address."""

COUNTERS_MAX: Final = 10_000
"""Of either kind; about 2 MiB."""

_IPV6_SITE_BITS: Final = 64
"""One customer of a provider has at least that much and may write any address in it."""


class _Counter(NamedTuple):
    attempts: int
    ends: float


class _Counters:
    """Attempts per key in a window that begins with the first."""

    def __init__(self, most: int) -> None:
        self._most = most
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
            counter = _Counter(0, now + WINDOW_SECONDS)
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
