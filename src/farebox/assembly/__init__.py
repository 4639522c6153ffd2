"""The only place that chooses implementations: it puts the wings together and starts them."""
