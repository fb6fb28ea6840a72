# Every target does its own set-up: a virtual environment in .venv, and the project installed into it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PACKAGES := heddle compiler ir_passes models runtime schedules
# Tests run in this many processes, each of which may use two threads.
JOBS ?= 2
export HEDDLE_CACHE ?= $(CURDIR)/.cache

.PHONY: demo test test-all test-targets system native lint bench clean

demo: $(VENV)/core.stamp
	$(BIN)/python examples/demo.py

test: $(VENV)/dev.stamp lint
	$(BIN)/python -m pytest -n $(JOBS) -m "not slow"

test-all: $(VENV)/dev.stamp lint
	$(BIN)/python -m pytest -n $(JOBS)

# Tests that need more than Python packages: a browser, a cross compiler, emulators, C libraries.
test-targets: $(VENV)/targets.stamp system
	$(BIN)/python -m pytest tests/targets -m "not slow"

system: $(VENV)/targets.stamp
	@missing="$$($(BIN)/python tests/targets/system.py)" && { [ -z "$$missing" ] || \
		{ [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && \
		apt-get update -qq && apt-get install -y -qq --no-install-recommends $$missing; } || \
		{ echo "Tests of targets need more of the system (Debian: apt-get install $$missing)"; exit 1; }; }

# The native runner, heddle-run, for this machine: prints where it is.
native: $(VENV)/core.stamp
	@$(BIN)/python -c "from heddle.compiler.native import build_runner; print(build_runner().program)"

lint: $(VENV)/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	rm -rf build .typecheck
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target .typecheck .
	cd .typecheck && ../$(BIN)/mypy -p heddle --config-file ../pyproject.toml
	rm -rf build .typecheck

bench: $(VENV)/dev.stamp
	$(BIN)/python benchmarks/model.py

clean:
	rm -rf $(VENV) .cache build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Heddle needs Python 3.11 or later; set PYTHON to one (found: $$($(PYTHON) --version))"; exit 1; }
	@command -v c++ >/dev/null || command -v g++ >/dev/null || \
		{ echo "Heddle links compiled models with g++; install it (Debian: apt-get install g++)"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/core.stamp: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	touch $@

$(VENV)/dev.stamp: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[dev]"
	touch $@ $(VENV)/core.stamp

$(VENV)/targets.stamp: $(VENV)/dev.stamp
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[dev,targets]"
	touch $@
