"""The upstreams: what each one speaks, and the simulated one of the sandbox."""
