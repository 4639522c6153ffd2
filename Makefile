# Thin over ./dev, which works without make too. Arguments: make test ARGS="tests/ledger -x"
.DEFAULT_GOAL := help
.PHONY: help setup run test test-long coverage check lock clean

help:
	@./dev help

setup run test test-long coverage check lock clean:
	@./dev $@ $(ARGS)
