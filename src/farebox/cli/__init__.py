"""The doors for people and scripts: one command per file."""
