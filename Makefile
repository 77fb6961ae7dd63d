# Everything a contributor runs. `make` alone lists the targets.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.DEFAULT_GOAL := help

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: install
install: $(INSTALLED) ## fill .venv from the hashed lock, with both distributions editable

$(INSTALLED): locks/dev.lock pyproject.toml clients/python/pyproject.toml .ci/install
	PYTHON=$(PYTHON) .ci/install $(VENV)
	@touch $@

.PHONY: proto
proto: ## generate the Python stubs from proto/ into clients/python
	PYTHON=$(PYTHON) .ci/proto generate

.PHONY: lock
lock: $(INSTALLED) ## renew locks/ to the newest versions pyproject.toml allows
	.ci/lock $(BIN)/uv

.PHONY: clean
clean: ## remove what the other targets made
	rm -rf $(VENV) .tools build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
