"""What is measured: the upstream directly, nginx, a bare pass-through, Farebox, and its rivals.

Each target runs on one core. The upstream and the load driver run on another, PostgreSQL where the
kernel puts it.
"""

from __future__ import annotations

import shutil
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.processes import Measured, free_port, python, start

TARGET_CORE: Final = 0
LOAD_CORE: Final = 1

NGINX_CONF: Final = """
worker_processes 1; daemon off; error_log stderr; pid {folder}/nginx.pid;
events {{ worker_connections 8192; }}
http {{ access_log off; client_body_temp_path {folder}; proxy_temp_path {folder};
  fastcgi_temp_path {folder}; uwsgi_temp_path {folder}; scgi_temp_path {folder};
  keepalive_requests 1000000000;
  upstream up {{ server {upstream}; keepalive 2048; keepalive_requests 1000000000; }}
  server {{ listen 127.0.0.1:{port} backlog=4096; client_body_buffer_size 64k;
    location / {{ proxy_pass http://up; proxy_http_version 1.1;
    proxy_set_header Connection ""; proxy_buffering off; client_max_body_size 64m; }} }} }}
"""


@dataclass(frozen=True, slots=True)
class Target:
    """An address to load."""

    name: str
    url: str
    process: Measured | None = None
    key: str = "sk-none"
    headers: tuple[str, ...] = ()


def direct(stack: ExitStack, folder: Path) -> Target:
    """Start the mock upstream."""
    port = free_port()
    process = start(
        stack,
        "upstream",
        python("bench.upstream", str(port)),
        core=LOAD_CORE,
        log=folder / "upstream.log",
        port=port,
    )
    return Target("direct", f"http://127.0.0.1:{port}", process)


def nginx(stack: ExitStack, folder: Path, upstream: Target) -> Target | None:
    """Nginx as a plain proxy; None where it is not installed."""
    program = shutil.which("nginx")
    if program is None:
        return None
    port, temporary = free_port(), folder / "nginx"
    temporary.mkdir(mode=0o777)
    temporary.chmod(0o777)  # its worker is another user where we are root
    conf = folder / "nginx.conf"
    conf.write_text(
        NGINX_CONF.format(
            folder=temporary, port=port, upstream=upstream.url.removeprefix("http://")
        )
    )
    log = folder / "nginx.log"
    command = [program, "-p", str(temporary), "-c", str(conf)]
    process = start(stack, "nginx", command, core=TARGET_CORE, log=log, port=port)
    return Target("nginx", f"http://127.0.0.1:{port}", process)


def passthrough(stack: ExitStack, folder: Path, upstream: Target) -> Target:
    """The usual server and client, uvicorn and aiohttp, with nothing between."""
    port = free_port()
    command = python("bench.passthrough", str(port), upstream.url)
    log = folder / "passthrough.log"
    process = start(stack, "pass-through", command, core=TARGET_CORE, log=log, port=port)
    return Target("pass-through", f"http://127.0.0.1:{port}", process)
