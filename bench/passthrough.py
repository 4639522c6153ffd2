"""A bare pass-through on the usual stack, uvicorn and aiohttp: no billing at all.

``python -m bench.passthrough PORT UPSTREAM_URL``.
"""

from __future__ import annotations

import sys
from typing import Any

import aiohttp
import uvicorn


def application(upstream_url: str) -> Any:
    """An ASGI application that forwards bodies and streams answers."""
    session: aiohttp.ClientSession | None = None

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal session
        if session is None:
            session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0), auto_decompress=False
            )
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        async with session.post(
            upstream_url + scope["path"], data=body, headers={"content-type": "application/json"}
        ) as response:
            headers = [
                (name.encode(), response.headers[name].encode())
                for name in ("content-type", "content-length")
                if name in response.headers
            ]
            start = {"type": "http.response.start", "status": response.status, "headers": headers}
            await send(start)
            async for chunk in response.content.iter_any():
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b""})

    return app


async def main(port: int, upstream_url: str) -> None:
    """Serve until killed."""
    config = uvicorn.Config(
        application(upstream_url),
        port=port,
        http="httptools",
        loop="none",
        lifespan="off",
        access_log=False,
        proxy_headers=False,
        log_config=None,
        backlog=4096,
    )
    await uvicorn.Server(config).serve()


if __name__ == "__main__":
    import uvloop

    uvloop.run(main(int(sys.argv[1]), sys.argv[2]))
