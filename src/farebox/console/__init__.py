"""The control plane: dashboard and admin API."""
