"""The native API under ``/api/v1``: everything that can be managed, by programs."""
