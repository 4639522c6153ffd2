"""The pure arithmetic from metered usage and a dated price to an exact charge."""
