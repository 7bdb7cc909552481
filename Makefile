# Two commands do everything on a fresh machine (Python, a C compiler, make):
#
#   make demo     train and detect defects on the real images that ship with the package
#   make test     the tests, at every SIMD level of this processor
#
# Both set up .venv first, once. `make help` lists the rest.

PYTHON ?= python3
VENV   ?= .venv
ARGS   ?=

BIN     := $(VENV)/bin
PIP     := $(BIN)/python -m pip --disable-pip-version-check --quiet
SOURCES := setup.py $(shell find csrc -name '*.c' -o -name '*.h' -o -name '*.inc')
LOADED   = import diffusionad._core as core

# A sanitized build of its own, imported before the one in the tree.
ASAN     := $(VENV)/sanitize
ASAN_ENV  = PYTHONPATH=$(abspath $(ASAN))/lib PYTHONSAFEPATH=1 PYTHONMALLOC=malloc \
	DIFFUSIONAD_NUM_THREADS=2 \
	LD_PRELOAD="$$($${CC:-gcc} -print-file-name=libasan.so) \
	    $$($${CC:-gcc} -print-file-name=libstdc++.so.6)" \
	ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 \
	UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test sanitize lint docs notebooks package clean

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

demo: $(VENV)/.core ## train on the bundled images, evaluate, write heat maps (ARGS=--help)
	$(BIN)/diffusionad demo $(ARGS)

# The other levels leave out the tests marked slow, and use one thread.
test: $(VENV)/.core $(VENV)/.with-test ## the tests (ARGS go to pytest)
	DIFFUSIONAD_NUM_THREADS=2 $(BIN)/pytest $(ARGS)
	@set -e; levels=$$($(BIN)/python -c '$(LOADED); \
	    print(*[x for x in core.simd_levels() if x != core.simd_level()])'); \
	for level in $$levels; do \
	    echo "SIMD level $$level"; \
	    DIFFUSIONAD_ISA=$$level DIFFUSIONAD_NUM_THREADS=1 $(BIN)/pytest -m "not slow" $(ARGS); \
	done

sanitize: $(VENV)/.core $(VENV)/.with-test ## the tests but the slow ones under AddressSanitizer and UBSan
	DIFFUSIONAD_SANITIZE=1 $(BIN)/python setup.py --quiet build \
	    --build-base $(ASAN)/build --build-lib $(ASAN)/lib
	@cd $(ASAN) && $(ASAN_ENV) $(abspath $(BIN))/python -c '$(LOADED); print(core.__file__)'
	$(ASAN_ENV) $(BIN)/pytest -m "not slow" $(ARGS)

lint: $(VENV)/.core $(VENV)/.with-dev ## clang-format, ruff, mypy, and the stubs against the core
	$(BIN)/clang-format --dry-run --Werror $$(find csrc -name '*.c' -o -name '*.h' -o -name '*.inc')
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m mypy.stubtest --mypy-config-file pyproject.toml diffusionad._core

docs: $(VENV)/.core $(VENV)/.with-docs ## the documentation as HTML: build/docs/index.html
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going --fresh-env -c docs . build/docs

notebooks: $(VENV)/.core $(VENV)/.with-notebooks ## execute every notebook (ARGS=--store: keep the outputs)
	$(BIN)/python notebooks/execute.py $(ARGS)

package: $(VENV)/.core $(VENV)/.with-package ## build sdist and wheel, use the wheel in an environment of its own
	VENV=$(abspath $(VENV)) .ci/wheel

clean: ## remove .venv and everything that was built
	rm -rf $(VENV) build dist *.egg-info diffusionad/_core*.so
	find . -name __pycache__ -prune -exec rm -rf {} +
	rm -rf .pytest_cache .mypy_cache .ruff_cache

# ---- set-up: each stamp is older than what would change it --------------------------------------

# The checks come first because pip would bury the same words in a page of output.
$(BIN)/python:
	@fail() { echo "$$*" >&2; exit 1; }; \
	command -v $(PYTHON) >/dev/null || \
	    fail "no $(PYTHON): install Python 3.10 or newer, or name it: make PYTHON=python3.12"; \
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	    fail "Python 3.10 or newer is needed, $(PYTHON) is $$($(PYTHON) -V 2>&1): make PYTHON=..."; \
	$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || \
	    fail "$(PYTHON) has no venv module: install python3-venv"; \
	header=$$($(PYTHON) -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h; \
	test -f "$$header" || fail "no Python headers, $$header: install python3-dev"; \
	cc=$${CC:-$$($(PYTHON) -c 'import sysconfig; print(sysconfig.get_config_var("CC") or "cc")')}; \
	command -v $${cc%% *} >/dev/null || fail "no C compiler, $${cc%% *}: install gcc, or set CC"; \
	echo '#include <omp.h>' | $$cc -fopenmp -x c -c - -o /dev/null 2>/dev/null || \
	    fail "$${cc%% *} does not compile C with OpenMP: install gcc and libc6-dev"
	@echo "Setting up $(VENV): once, about a minute"
	@$(PYTHON) -m venv --upgrade-deps $(VENV)

# Built without pip's isolation, whose changing paths would compile everything anew each time.
$(VENV)/.installed: pyproject.toml setup.py | $(BIN)/python
	@$(PIP) install "setuptools>=77" numpy scipy-openblas32
	@PYTHONWARNINGS=ignore $(PIP) install --no-build-isolation --editable .
	@touch $@

$(VENV)/.core: $(SOURCES) $(VENV)/.installed
	@$(BIN)/python setup.py --quiet build_ext --inplace
	@touch $@

$(VENV)/.with-%: pyproject.toml $(VENV)/.installed
	@PYTHONWARNINGS=ignore $(PIP) install --no-build-isolation --editable '.[$*]'
	@touch $@
