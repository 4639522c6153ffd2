"""The clockwork: sweeps, expiry, recharge, alerts and rollups, each one step(now)."""
