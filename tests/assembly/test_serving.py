"""Sockets and URLs: a port in use is an error with a name, and a URL ends without a slash."""

from __future__ import annotations

import socket

import pytest

from farebox.assembly.serving import bind, url
from farebox.kit.errors import InvalidInputError


def test_a_port_in_use() -> None:
    """The variable to change is named, and the port."""
    with bind("127.0.0.1", 0, variable="FAREBOX_GATEWAY_PORT") as first:
        port = first.getsockname()[1]
        with pytest.raises(InvalidInputError) as caught:
            bind("127.0.0.1", port, variable="FAREBOX_GATEWAY_PORT")
    assert caught.value.field == "FAREBOX_GATEWAY_PORT"
    assert str(port) in caught.value.message


@pytest.mark.parametrize("host", ["192.0.2.1", "no such host", "::ffff:1.2.3.4.5"])
def test_an_address_that_is_not_ours(host: str) -> None:
    """An address that cannot be listened on is the same kind of error."""
    with pytest.raises(InvalidInputError):
        bind(host, 0, variable="FAREBOX_HOST")


@pytest.mark.parametrize(
    ("host", "shown"),
    [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.0.0.1"), ("::1", "[::1]")],  # noqa: S104
)
def test_urls(host: str, shown: str) -> None:
    """People get an address that they can call."""
    if ":" in host and not socket.has_ipv6:
        pytest.skip("this machine has no IPv6")
    with bind(host, 0, variable="x") as sock:
        port = sock.getsockname()[1]
        assert url(sock) == f"http://{shown}:{port}"
