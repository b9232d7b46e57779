# CAB, the Credential Access Broker. `make` alone lists what there is. Needs Python 3.11 to 3.14 and nothing else.

VENV      := .venv
PYTHON    := $(VENV)/bin/python
CREATED   := $(VENV)/.created
STACK     := $(VENV)/.stack
DEV       := $(VENV)/.dev
TERRAFORM := .cab/venv-terraform/.stamp
FRAMEWORKS := .cab/venv-frameworks/.stamp
DEPLOYED  := .cab/venv-deployed/.stamp

# The first of these that will do.
PYTHONS := python3 python3.13 python3.14 python3.12 python3.11

# Some machines have Python keep no bytecode. Every process that a test starts would then compile everything again.
export PYTHONDONTWRITEBYTECODE :=

# Tests run on as many processes; they wait about as much as they compute, so one more than cores is best on two.
PROCESSES := 3

.DEFAULT_GOAL := help
.PHONY: help demo dev test check format lint types soak drills desk mutants real bench bench-peers simulate dist browser-ready bigquery-ready clean rehearsal

help: ## show this list
	@awk -F':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(STACK) ## three user stories and one attack against a stack of its own, told as they happen
	@$(PYTHON) -m examples.acme.demo

dev: $(STACK) ## start the local stack and keep it up; Ctrl-C stops it
	@$(VENV)/bin/cab dev up $(UP)

test: $(DEV) $(TERRAFORM) $(FRAMEWORKS) $(DEPLOYED) browser-ready bigquery-ready ## run all tests, emulators included
	$(PYTHON) -m pytest -p tests.lanes --processes $(PROCESSES) $(TESTS)

check: lint types test ## what CI runs: format, lint, types, import contracts, tests

format: $(DEV) ## format the code and sort its imports
	$(VENV)/bin/ruff check --select I --fix --quiet
	$(VENV)/bin/ruff format

lint: $(DEV) ## is it formatted, is it free of known mistakes, do imports keep their contracts
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/ruff check
	$(VENV)/bin/lint-imports

types: $(DEV) ## type-check, and a project of a user of the client as strictly as they may
	$(VENV)/bin/mypy
	$(VENV)/bin/basedpyright -p tests/client/project --pythonpath $(PYTHON)

soak: $(DEV) bigquery-ready ## break the refresh of grants, and calls, by the thousand, for the better part of an hour
	@PYTHONPATH=.:shared $(PYTHON) -m tests.soak $(SOAK)

drills: $(DEV) bigquery-ready ## instances end, releases and keys change, a database goes back: under load. A quarter of an hour
	@PYTHONPATH=.:shared $(PYTHON) -m tests.drills $(DRILLS)

DECISIONS := 5000
desk: $(DEV) bigquery-ready ## fifteen questions on 5,000 decisions; how long each takes on a million rows. Half an hour
	CAB_DESK_DECISIONS=$(DECISIONS) $(PYTHON) -m pytest -q tests/contracts/test_audit_desk.py
	@PYTHONPATH=.:shared $(PYTHON) -m tests.million $(DESK)

rehearsal: $(DEV) bigquery-ready ## take each permission and route of Terraform's from a running stack: is it noticed? Half an hour
	@PYTHONPATH=.:shared $(PYTHON) -m tests.e2e.rehearsal $(REHEARSAL)

mutants: $(DEV) ## make small mistakes in critical modules: do the tests notice nine in ten? Half an hour
	@PYTHONPATH=.:shared $(PYTHON) -m tests.mutants $(MUTANTS)

real: $(DEV) browser-ready ## log in at Keycloak and connect to it, in Chromium. Fetches it once: needs Maven and Java 17
	@PYTHONPATH=.:shared $(PYTHON) -m tests.real.keycloak
	$(PYTHON) -m pytest tests/real/try_keycloak.py

bench: $(STACK) ## print the benchmark table
	@$(PYTHON) -m benchmarks $(BENCH)

bench-peers: $(STACK) ## CPU of a token exchange here, at oidc-provider, ZITADEL's library and Keycloak. Fetches them once: needs npm; Go; Maven and Java 17
	@PYTHONPATH=.:shared $(PYTHON) -m benchmarks.peers $(PEERS)

simulate: $(STACK) ## ten million grants and 5,000 exchanges a second in virtual time, by the product's own rules. Some minutes
	@PYTHONPATH=.:shared $(PYTHON) -m benchmarks.simulation $(SIMULATE)

dist: $(STACK) ## build the wheels of the runtime, the tools and the client, and what each installs (CycloneDX), into dist/
	@rm -rf dist && mkdir dist
	@$(PYTHON) -m hatchling build -t wheel -d dist >/dev/null
	@for part in cab_ops cab_client; do (cd shared/$$part && $(abspath $(PYTHON)) -m hatchling build -t wheel -d $(abspath dist) >/dev/null); done
	@version=$$($(PYTHON) -m hatchling version); for bill in cab=runtime cab-call-tool=call_tool cab-tools=runtime cab-client=client; do \
	  $(PYTHON) requirements/sbom requirements/$${bill#*=}.txt $${bill%=*} $$version > dist/$${bill%=*}.cdx.json; done
	@ls dist

clean: ## remove everything that these commands have made
	rm -rf .venv .cab dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis .coverage htmlcov
	find . -name __pycache__ -prune -exec rm -rf {} +

# --- setting up: a stamp file says which requirements a virtual environment holds ---

# Made anew for other locks, so that nothing stays of the older ones.
$(CREATED): requirements/dev.txt requirements/stack.txt requirements/install
	@for candidate in $(PYTHONS); do \
	  if $$candidate -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))' 2>/dev/null; then \
	    $$candidate -m venv --clear $(VENV) || { rm -rf $(VENV); \
	      echo "Python cannot make a virtual environment. On Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }; \
	    touch $@; exit 0; \
	  fi; \
	done; \
	echo "CAB needs Python 3.11 to 3.14; python3 here is $$(python3 --version 2>&1 || echo missing)." >&2; exit 1

$(STACK): pyproject.toml shared/cab_ops/pyproject.toml $(CREATED)
	@echo "Installing the packages of the local stack (a minute, once) ..."
	@sh requirements/install $(PYTHON) requirements/stack.txt . shared/cab_ops
	@touch $@

$(DEV): $(CREATED) | $(STACK)
	@echo "Installing the packages of tests and checks (once) ..."
	@sh requirements/install $(PYTHON) requirements/dev.txt
	@touch $@

$(TERRAFORM): requirements/terraform.txt requirements/install | $(CREATED)
	@$(PYTHON) -m venv --clear .cab/venv-terraform
	@sh requirements/install .cab/venv-terraform/bin/python requirements/terraform.txt
	@touch $@

$(FRAMEWORKS): requirements/frameworks.txt requirements/install | $(CREATED)
	@$(PYTHON) -m venv --clear .cab/venv-frameworks
	@PIP_COMPILE=0 sh requirements/install .cab/venv-frameworks/bin/python requirements/frameworks.txt
	@touch $@

# The Python that Terraform deploys, with what it deploys there: the functions of the tests' stacks run on it. Without Python 3.13 this says
# so in one line, and they run on the Python of the tests, except in CI.
$(DEPLOYED): requirements/call_tool.txt requirements/install | $(STACK)
	@python=$$($(PYTHON) -m cab_dev.processes.pythons 3.13) && $$python -m venv --clear .cab/venv-deployed && \
	  sh requirements/install .cab/venv-deployed/bin/python requirements/call_tool.txt && touch $@ || test -z "$$CAB_REQUIRE_OFFICIAL"

browser-ready:
	@command -v chromium >/dev/null || { \
	  echo "The browser tests need Chromium. On Debian and Ubuntu: apt-get install chromium" >&2; exit 1; }

# Without Python 3.13 this says so in one line; the tests then go without BigQuery, except in CI.
bigquery-ready: $(DEV)
	@$(PYTHON) -m cab_dev.services.bigquery install || test -z "$$CAB_REQUIRE_OFFICIAL"
