# Zoetrope from a fresh machine: needs Python 3.11 or newer and make. `make help` lists the targets.
#
# PYTHON=...     the interpreter to make .venv with
# PIP_FLAGS=...  more options for pip, such as an --extra-index-url that holds the small CPU build of PyTorch, which is
#                all the demo needs

VENV := .venv
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install --disable-pip-version-check --quiet -c constraints-cpu.txt

REPLICATE_2 := replicate==2.0.0b4 distro==1.9.0  # with what it needs and nothing else here does

.DEFAULT_GOAL := help
.PHONY: help install demo test soak lint clean distclean
.DELETE_ON_ERROR:

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

install: $(VENV)/.installed ## make .venv and install what the service needs

demo: $(VENV)/.installed ## make out/demo.mp4 with a service of its own
	@$(BIN)/python -m serving.demo

test: lint ## run everything that a change has to pass
	$(BIN)/python -m pytest -n logical --maxprocesses 4

soak: $(VENV)/.installed-test ## the tests that take long: lost ranks, leaders and nodes, racks, everything that fails under load
	$(BIN)/python -m pytest -m long
	$(BIN)/python -m tests.serving.soak
	$(BIN)/python -m tests.serving.soak --postgres --s3 --gateways 2
	$(BIN)/python -m tests.serving.soak_restarts
	$(BIN)/python -m tests.serving.soak_restarts --postgres

lint: $(VENV)/.installed-test ## style and types
	$(BIN)/ruff check .
	$(BIN)/mypy

clean: ## remove outputs and caches
	rm -rf out build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +

distclean: clean ## remove .venv too
	rm -rf $(VENV)

$(VENV)/pyvenv.cfg:
	@python=; for candidate in $(PYTHON) python3.11 python3; do \
	    if $$candidate -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	        python=$$candidate; break; \
	    fi; \
	done; \
	if [ -z "$$python" ]; then \
	    echo "error: no Python 3.11 or newer with the modules venv and ensurepip was found (tried $(PYTHON) python3.11 python3);" \
	        "install one (on Debian: apt install python3.11-venv) or name one with make PYTHON=/path/to/python" >&2; \
	    exit 1; \
	fi; \
	echo "making $(VENV) with $$($$python --version)"; \
	$$python -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

$(VENV)/.installed: $(VENV)/pyvenv.cfg pyproject.toml constraints-cpu.txt
	@echo "installing; the first time takes some minutes"
	$(PIP_INSTALL) $(PIP_FLAGS) -e .
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(PIP_INSTALL) $(PIP_FLAGS) -e '.[test]'
	rm -rf $(VENV)/replicate-2  # both releases of one SDK are tested; this one lives beside the other packages
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps --target $(VENV)/replicate-2 $(REPLICATE_2)
	@touch $@
