"""The outside world in one room: clock, chance, processes, logs and metrics."""
