"""What a thousand idle organisations cost a batch: nothing, if the ratios are one.

``python -m bench.idle [--organizations 1000] [--rounds 7]``: the same figures on a database with
one organisation at work and on one with a thousand funded ones beside it that make no call.
"""

from __future__ import annotations

import asyncio
from contextlib import ExitStack

from bench.beside import make_place, measure, parser, told
from bench.database import scratch
from bench.engine import fund, make_tenants
from bench.targets import direct

NAMES = ("alone", "beside idle ones")


def main() -> None:
    """Measure and print."""
    arguments = parser(__doc__)
    arguments.add_argument("--organizations", type=int, default=1000)
    args = arguments.parse_args()
    with ExitStack() as stack:
        folder = stack.enter_context(scratch(args.folder))
        upstream = direct(stack, folder)
        alone, beside = (make_place(stack, name, folder, upstream) for name in NAMES)
        _, idle = make_tenants(beside.server.dsn, args.organizations)
        asyncio.run(fund(beside.server.dsn, idle, scopes=0))
        report = measure((alone, beside), upstream, folder, args)
        report["conditions"]["idle_organizations"] = args.organizations
    told(report, NAMES, args)


if __name__ == "__main__":
    main()
