"""Farebox: prepaid credit for LLM APIs, never overspent, every dollar explained.

The rooms and the one direction of their imports are drawn in ARCHITECTURE.md.  Importing the
package does nothing else: no configuration, no I/O, no room is loaded.
"""

from __future__ import annotations

__version__ = "0.1.0"
