"""The same figures with a million calls and 100,000 keys already recorded, against an empty house.

``python -m bench.recorded [--calls 1000000] [--keys 100000] [--rounds 7]``. The calls are real:
every one was admitted and settled by the engine, a fifth of them on the organisation that is
measured, the rest on a thousand others.
"""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from typing import Final

from bench.beside import Place, make_place, measure, parser, told
from bench.database import scratch
from bench.engine import fund, make_tenants
from bench.keys import add_keys
from bench.targets import direct

NAMES: Final = ("empty", "recorded")
OTHERS: Final = 1000
STEP_SECONDS: Final = 10.0


def record(place: Place, calls: int, keys: int) -> int:
    """Fill a database; gives how many calls were made."""
    node, others = make_tenants(place.server.dsn, OTHERS)
    asyncio.run(fund(place.server.dsn, others, scopes=0))
    add_keys(place.server.dsn, others, keys)
    del node  # any live node may have made them
    made = 0
    while made < calls // 5:
        made += place.make_pairs([place.tenant], STEP_SECONDS)
    while made < calls:
        made += place.make_pairs(others, STEP_SECONDS)
    return made


def main() -> None:
    """Measure and print."""
    arguments = parser(__doc__)
    arguments.add_argument("--calls", type=int, default=1_000_000)
    arguments.add_argument("--keys", type=int, default=100_000)
    args = arguments.parse_args()
    with ExitStack() as stack:
        folder = stack.enter_context(scratch(args.folder))
        upstream = direct(stack, folder)
        empty, full = (make_place(stack, name, folder, upstream) for name in NAMES)
        made = record(full, args.calls, args.keys)
        report = measure((empty, full), upstream, folder, args)
        report["conditions"] |= {"calls_recorded": made, "keys_recorded": args.keys}
    told(report, NAMES, args)


if __name__ == "__main__":
    main()
