"""The use cases, one verb per file, written against ports."""
