# make demo | bench | test | test-real | test-soak | test-install | lint | readme        (make help tells more)
VENV   ?= .venv
PYTHON ?= python3.11
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

# Processes of `make test`, each with a broker of its own; a file of tests is never divided.
WORKERS ?= 2

export HF_HUB_OFFLINE = 1

.PHONY: help demo bench test test-real test-soak test-install lint readme system-packages
help:
	@echo "make demo          two simulated users edit gemma3-270m's drafts, and it learns from each of them (a few minutes)"
	@echo "make test          every test but those of test-real, test-soak and bench, against a real Kafka broker (installs what it needs)"
	@echo "make test-real     the real model: the demo with its controls, and real edits where they are (about 45 minutes)"
	@echo "make test-soak     memory stays flat: 10,000 users on a tiny model for CORLLD_SOAK_MINUTES (30)"
	@echo "make test-install  the daemon from its wheel, with all it needs in an empty environment (downloads about 6 GB)"
	@echo "make bench         every figure of corlld bench against its bar, with a real Kafka broker (about an hour)"
	@echo "make lint          ruff, mypy --strict, import rules"
	@echo "make readme        rewrites the README's tables by what the program tells of itself"
	@echo "VENV=$(VENV) is the virtual environment that is made and used"

$(STAMP): pyproject.toml deploy/constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing corlld and what it needs into $(VENV): about 6 GB, a few minutes"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c deploy/constraints.txt -e '.[dev]'
	touch $@

system-packages:
	deploy/install-test-packages.sh

demo: $(STAMP)
	$(BIN)/corlld demo

test: system-packages $(STAMP)
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -m "not real and not soak and not bench"

bench: system-packages $(STAMP)
	$(BIN)/python -m pytest -m bench -s --timeout 14400 tests/bench

test-real: system-packages $(STAMP)
	$(BIN)/python -m pytest -m real --timeout 5400

test-soak: $(STAMP)
	$(BIN)/python -m pytest -m soak

test-install: $(STAMP)
	CORLLD_TEST_INSTALL="dependencies too" $(BIN)/python -m pytest tests/integration/test_installed.py --timeout 3600

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

readme: $(STAMP)
	$(BIN)/python deploy/readme.py README.md
