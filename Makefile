# `make test` is all that a contributor needs; `make help` lists the rest.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help build test lint tools openapi examples bench v2-guest

help: ## Show this list
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

build: ## Build the one executable (target/release/isopod)
	cargo build --release --package isopod

test: tools ## Install what the tests need, then check and test everything
	@.ci/test

lint: ## Formatting and clippy, warnings as errors
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings -D clippy::too_many_lines

tools: ## Install the programs that the tests call (Debian packages, only what is missing)
	@.ci/tools

openapi: ## Write openapi/v1.json anew
	UPDATE_OPENAPI=1 cargo test --package isopod-api --test openapi

examples: ## Run the examples against a server of their own
	cargo build --package isopod
	@examples/check.sh "$${CARGO_TARGET_DIR:-target}/debug/isopod"

v2-guest: ## Try the container tier on cgroup v2 and an older kernel, in an emulated guest
	@.ci/v2-guest

bench: ## Measure against fork+exec and other runtimes
	@bench/run
