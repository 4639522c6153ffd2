"""Other gateways to measure against, each in an environment of its own.

``python -m bench.rivals install litellm portkey --folder F`` installs the versions named here from
PyPI and npm. ``bench.gateway --rivals F`` then measures those that F has. None of them is asked for
more than to forward a call: no key check, no database; ``litellm-budget`` also checks and counts a
provider's budget, in memory, which is the most that LiteLLM does without a database of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from bench.processes import free_port, start
from bench.targets import TARGET_CORE, Target

LITELLM: Final = "litellm[proxy]==1.106.2"
PORTKEY: Final = {
    "@portkey-ai/gateway": "1.15.2",
    # With the newest that npm resolves, every stream is answered 500 ("TypeError: immutable").
    "@hono/node-server": "1.13.8",
    "hono": "4.9.7",
}
NAMES: Final = ("litellm", "litellm-budget", "portkey")
INSTALLABLE: Final = ("litellm", "portkey")

LITELLM_CONFIG: Final = """\
model_list:
  - model_name: gpt-5.4
    litellm_params:
      model: openai/gpt-5.4
      api_base: {upstream}/v1
      api_key: sk-none
litellm_settings:
  telemetry: false
"""
LITELLM_BUDGET: Final = """\
router_settings:
  provider_budget_config:
    openai:
      budget_limit: 1000000
      time_period: 30d
"""


def install(name: str, folder: Path) -> None:
    """Install one of them; what is there stays."""
    home = folder / name
    if name == "litellm":
        if not (home / "bin/litellm").exists():
            _run([sys.executable, "-m", "venv", str(home)])
        _run([str(home / "bin/pip"), "install", "--quiet", LITELLM])
    else:
        home.mkdir(parents=True, exist_ok=True)
        package = {
            "private": True,
            "dependencies": PORTKEY,
            "overrides": {k: v for k, v in PORTKEY.items() if not k.startswith("@portkey")},
        }
        (home / "package.json").write_text(json.dumps(package))
        _run(["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", f"--prefix={home}"])


def installed(folder: Path) -> list[str]:
    """Which of them a folder has."""
    return [name for name in NAMES if _program(name, folder).exists()]


def rival(stack: ExitStack, name: str, folder: Path, scratch: Path, upstream: Target) -> Target:
    """Start one of them in front of the mock upstream."""
    port = free_port()
    log = scratch / f"{name}.log"
    if name == "portkey":
        command = ["node", str(_program(name, folder)), f"--port={port}", "--headless"]
        headers: tuple[str, ...] = (
            "x-portkey-provider: openai",
            f"x-portkey-custom-host: {upstream.url}/v1",
        )
        env = {"NODE_ENV": "production"}
    else:
        config = scratch / f"{name}.yaml"
        budget = LITELLM_BUDGET if name == "litellm-budget" else ""
        config.write_text(LITELLM_CONFIG.format(upstream=upstream.url) + budget)
        command = [
            str(_program(name, folder)),
            f"--config={config}",
            "--host=127.0.0.1",
            f"--port={port}",
            "--num_workers=1",
        ]
        headers = ()
        env = {
            "LITELLM_LOG": "ERROR",
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            # No key is asked for; the newer versions want to be told so.
            "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",
        }
    process = start(stack, name, command, core=TARGET_CORE, log=log, env=env, port=port)
    return Target(name, f"http://127.0.0.1:{port}", process, headers=headers)


def versions(folder: Path) -> dict[str, str]:
    """The versions that a folder has."""
    found: dict[str, str] = {}
    program = folder / "litellm/bin/python"
    if program.exists():
        code = "from importlib.metadata import version as v; print(v('litellm'))"
        found["litellm"] = subprocess.check_output([str(program), "-c", code], text=True).strip()
    package = folder / "portkey/node_modules/@portkey-ai/gateway/package.json"
    if package.exists():
        found["portkey"] = json.loads(package.read_text())["version"]
        found["node"] = subprocess.check_output(["node", "--version"], text=True).strip()
    return found


def _program(name: str, folder: Path) -> Path:
    if name == "portkey":
        return folder / "portkey/node_modules/@portkey-ai/gateway/build/start-server.js"
    return folder / "litellm/bin/litellm"


def _run(command: list[str]) -> None:
    print("+", *command, flush=True)
    subprocess.run(command, check=True, env={**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"})


def main() -> None:
    """Install what is named."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(required=True)
    adding = commands.add_parser("install", help="install rivals, each in its own environment")
    adding.add_argument("names", nargs="+", choices=INSTALLABLE)
    adding.add_argument("--folder", type=Path, required=True)
    args = parser.parse_args()
    for name in args.names:
        install(name, args.folder.resolve())
    print(json.dumps(versions(args.folder.resolve())))


if __name__ == "__main__":
    main()
