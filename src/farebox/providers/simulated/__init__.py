"""The provider of the sandbox: answers, streams, bills and fails like a real one, in process."""

from farebox.providers.simulated.billed import BilledCall
from farebox.providers.simulated.provider import SimulatedUpstream

__all__ = ["BilledCall", "SimulatedUpstream"]
