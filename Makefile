# Everything a contributor runs. `make` alone lists the targets.

export PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
NATIVE := build/native
# What is run again on native code: everything that decides.
DECIDING := $(addprefix tests/,unit/engine unit/sidecar properties/engine properties/sidecar integration/sidecar \
	integration/whole e2e contracts/test_any_request.py contracts/test_decision_cases_engine.py contracts/test_native.py \
	contracts/test_reservations.py contracts/test_wrong_inputs.py)
# And what is attacked for minutes: whatever native code meets from outside. None of it patches a compiled class.
ATTACKED := $(addprefix tests/fuzzing/,test_sidecar_rpcs.py test_control_plane_answers.py test_outboxes.py test_snapshots.py)

.DEFAULT_GOAL := help

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: install
install: $(INSTALLED) ## fill .venv from the hashed lock, with both distributions editable

$(INSTALLED): locks/dev.lock pyproject.toml clients/python/pyproject.toml .ci/install
	.ci/install $(VENV)
	@touch $@

.PHONY: proto
proto: ## generate the Python stubs from proto/ into clients/python
	.ci/proto generate

.PHONY: baseline
baseline: ## at a release: what later protos must not break is what they are now
	npx --yes @bufbuild/buf@1.75.0 build --exclude-source-info -o proto/baseline.binpb

.PHONY: lint
lint: $(INSTALLED) ## style, types, arrows between rooms, protos and their stubs
	.ci/lint $(BIN)

.PHONY: format
format: $(INSTALLED) ## let ruff format and mend what it can
	$(BIN)/ruff check --fix-only --quiet
	$(BIN)/ruff format

.PHONY: compile
compile: $(INSTALLED) ## the sidecar as native code in build/native, as it is released
	.ci/compile $(BIN) $(NATIVE)

.PHONY: test
test: $(INSTALLED) ## every test but the soaks, with real PostgreSQL and Redis; the sidecar's also on native code
	$(BIN)/python -m tests.servers
	$(BIN)/pytest --numprocesses 2
	.ci/compile $(BIN) $(NATIVE) || [ $$? = 3 ]
	[ ! -d $(NATIVE) ] || PYTHONPATH=$(CURDIR)/$(NATIVE) PYTHONSAFEPATH=1 $(BIN)/pytest --numprocesses 2 $(DECIDING) --ignore tests/e2e/histories

.PHONY: simulate
simulate: $(INSTALLED) ## 10,000 simulated histories, which takes a few hours
	$(BIN)/python -m tests.simulation --seeds 0-9999 --shrink

.PHONY: soak
soak: $(INSTALLED) ## the tests that take minutes: kills, failing disks, a herd, odd input; also on native code; PURSER_SOAK_SECONDS, PURSER_SOAK_SEED
	$(BIN)/python -m tests.servers
	$(BIN)/pytest -m soak --timeout 3600 --capture no
	PURSER_FUZZ_TIMES=20 $(BIN)/pytest tests/fuzzing --timeout 3600
	.ci/compile $(BIN) $(NATIVE) || [ $$? = 3 ]
	[ ! -d $(NATIVE) ] || PYTHONPATH=$(CURDIR)/$(NATIVE) PYTHONSAFEPATH=1 $(BIN)/pytest tests/e2e/histories -m soak --timeout 3600 --capture no
	[ ! -d $(NATIVE) ] || PYTHONPATH=$(CURDIR)/$(NATIVE) PYTHONSAFEPATH=1 PURSER_FUZZ_TIMES=20 $(BIN)/pytest $(ATTACKED) --timeout 3600

.PHONY: bench
bench: $(INSTALLED) ## measure sidecar and control plane as they are released, and write docs/benchmarks.md
	.ci/compile $(BIN) $(NATIVE) || [ $$? = 3 ]
	$(BIN)/python -m tests.benchmarks --installation $(NATIVE) --report docs

.PHONY: run
run: $(INSTALLED) ## the guided demo, then serves until Ctrl-C
	$(BIN)/purser dev --demo

.PHONY: docs
docs: $(INSTALLED) ## write the references in docs/ from the code
	$(BIN)/python docs/generate.py

.PHONY: lock
lock: $(INSTALLED) ## renew locks/ to the newest versions pyproject.toml allows
	.ci/lock $(BIN)/uv

.PHONY: lock-new
lock-new: ## add a new dependency to locks/, and leave every other version as it is
	.ci/lock $(BIN)/uv keep

.PHONY: clean
clean: ## remove what the other targets made
	rm -rf $(VENV) .tools build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
