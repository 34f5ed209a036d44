# Set-up from nothing takes Python 3.11 and make. `make demo` first.
PYTHON ?= python3.11
GPU_PYTHON ?= python3
GPU_TESTS = $(shell find tests/salcore -name '*_gpu.py')
VENV := .venv
RUN := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed
TESTED := $(VENV)/.tested

.PHONY: demo test check unit claims bench gpu soak ui clean

demo: $(INSTALLED)  ## a digits ensemble of 8 members and 4 methods, with its report
	$(RUN) -m jobs.ensemble digits

test: check unit  ## lint, types and all tests

check: $(TESTED)  ## lint and types
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

unit: $(TESTED)  ## the tests: those of the science beside those that wait for Ray, whose dots are shown
	@science=$$(mktemp); \
	$(RUN) -m pytest salcore cluster jobs tests/salcore >$$science 2>&1 & waited=$$!; \
	$(RUN) -m pytest tests/jobs tests/cluster; status=$$?; \
	wait $$waited || status=1; cat $$science; rm $$science; exit $$status

claims: $(TESTED)  ## what the papers found, on small real runs; writes tests/claims/RESULTS.md
	$(RUN) -m tests.claims

bench: $(TESTED)  ## speed, side by side with what one would otherwise run; writes tests/benchmarks/RESULTS.md
	$(RUN) -m tests.benchmarks

gpu:  ## on a machine with a GPU: its tests and benchmarks, by GPU_PYTHON, which needs torch, torchvision, pyarrow, pytest
	PYTHONPATH=. $(GPU_PYTHON) -m pytest -c /dev/null --rootdir . --import-mode importlib --noconftest $(GPU_TESTS)
	PYTHONPATH=. $(GPU_PYTHON) -m tests.benchmarks gpu

soak: $(TESTED)  ## fifty kills of everything a run consists of; must leave the bytes of an undisturbed run
	$(RUN) -m tests.cluster.storm --kills 50 --members 12

ui: $(INSTALLED)  ## the MLflow pages of all runs, on this machine only
	$(VENV)/bin/mlflow ui --host 127.0.0.1 --port 5000 --backend-store-uri sqlite:///$(CURDIR)/runs/mlflow.db

clean:  ## remove the environment; runs stay
	rm -rf $(VENV)

$(INSTALLED): pyproject.toml constraints.txt
	@echo "installing into $(VENV): some 6 GB, two minutes or more"
	test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --constraint constraints.txt --editable .
	touch $@

$(TESTED): $(INSTALLED)
	$(RUN) -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@
