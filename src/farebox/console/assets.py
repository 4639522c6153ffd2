"""The few static files: read once, served from memory, named with their own digest.

There is no path to walk: a name is one of these or there is no such file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from importlib.resources import files
from typing import Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

PREFIX: Final = "/static/"

_KINDS: Final = {
    "console.css": "text/css; charset=utf-8",
    "live.js": "text/javascript; charset=utf-8",
    "vendor/htmx.min.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}
_KEPT: Final = "public, max-age=31536000, immutable"
_ASKED_AGAIN: Final = "no-cache"


@dataclass(frozen=True, slots=True)
class Asset:
    """One file."""

    content: bytes
    kind: str
    digest: str
    """Of its content, shortened; part of its address, so that a new version is fetched."""


class Assets:
    """All of them."""

    def __init__(self) -> None:
        self._assets: Mapping[str, Asset] = {name: _read(name) for name in _KINDS}

    def address(self, name: str) -> str:
        """Where pages find it."""
        return f"{PREFIX}{name}?v={self._assets[name].digest}"

    async def serve(self, request: Request) -> Response:
        """Answer a request for one."""
        asset = self._assets.get(request.path_params["name"])
        if asset is None:
            raise HTTPException(404)
        current = request.query_params.get("v") == asset.digest
        headers = {
            "cache-control": _KEPT if current else _ASKED_AGAIN,
            "etag": f'"{asset.digest}"',
        }
        if headers["etag"] in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        return Response(asset.content, media_type=asset.kind, headers=headers)


def _read(name: str) -> Asset:
    content = (files("farebox.console") / "static").joinpath(*name.split("/")).read_bytes()
    return Asset(content, _KINDS[name], sha256(content).hexdigest()[:16])
