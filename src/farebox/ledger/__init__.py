"""The money engine: grants, holds, limits and the journal; pure functions that decide batches."""
