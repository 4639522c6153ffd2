"""``python -m farebox`` is the command ``farebox``."""

from __future__ import annotations

from farebox.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
