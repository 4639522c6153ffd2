"""Benchmarks: paired runs and ratios, never a timed test."""
