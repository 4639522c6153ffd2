"""The foundation every room stands on: money, time, identifiers and the error tree; all pure."""
