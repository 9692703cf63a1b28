# make demo | serve | stop | test | check | bench. Each builds .venv first where it is missing or its requirements changed.
SHELL := /bin/bash
.DELETE_ON_ERROR:

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
CODE := kernels storage llmdiff infra pipelines
# One more than two cores: tests of services and of processes that die wait most of their time.
WORKERS ?= 3

.PHONY: demo serve stop test check format bench docs clean help
help:
	@echo "make demo   the whole path on the embedded world: report in runs/demo/report.html"
	@echo "make serve  Prefect, MLflow and a worker on this machine, with the deployments; PREFECT_PORT=4200 MLFLOW_PORT=5000"
	@echo "make stop   ends them"
	@echo "make test   the tests"
	@echo "make check  ruff, mypy, import-linter"
	@echo "make format ruff format and its safe fixes"
	@echo "make bench  the benchmarks"
	@echo "make docs   the documentation as a site: site/index.html"

demo: $(VENV)/.installed
	$(BIN)/llmdiff demo

serve: $(VENV)/.installed
	@$(BIN)/python -m infra.service.manage start

stop: $(VENV)/.installed
	@$(BIN)/python -m infra.service.manage stop

test: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup --durations 20

check: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.installed
	for script in benchmarks/*.py; do $(BIN)/python $$script || exit 1; done

# The generated pages first; then any warning of mkdocs, such as a link to nothing, is an error.
docs: $(VENV)/.installed
	$(BIN)/python docs/generate.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "site/index.html"

# The pins of constraints.txt were tested with Python 3.11, so nothing else is tried in silence.
$(VENV)/.installed: pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) not found: install Python 3.11 (Debian 12: apt install python3.11-venv), or name one with 'make PYTHON=/path/to/python3.11'" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if v == (3, 11) else f"expected Python 3.11, which constraints.txt was tested with; found {v[0]}.{v[1]}")'
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { echo "$(PYTHON) has no venv module: on Debian, apt install python3.11-venv" >&2; exit 1; }
	@echo "making $(VENV): some 200 packages, a few minutes, once"
	@$(PYTHON) -m venv --clear $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,docs,ray,servers]'
	@touch $@

clean:
	rm -rf $(VENV) build site *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
