# Set up and test Zoetrope. Needs make and Python 3.11 or newer. `make help` lists the targets.
#
# PYTHON=...     interpreter to create .venv with
# PIP_FLAGS=...  additional pip options, such as an --extra-index-url with the small CPU build of PyTorch, which is
#                enough for the demo
# GPU_DAY=...    options of `make gpu-day`, such as '--call 1 --out back'
# WORKERS=...    processes that run the tests of `make test`; 3 even on two cores, because many tests wait for others

WORKERS := 3
VENV := .venv
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install --disable-pip-version-check --quiet -c constraints-cpu.txt

REPLICATE_2 := replicate==2.0.0b4 distro==1.9.0  # and its only dependency that is not installed anyway
# Generators of clients, and what of theirs is not installed anyway, or in another version.
GENERATORS := gapic-generator==1.44.0 grpc-google-iam-v1==0.14.6 inflection==0.5.1 libcst==1.9.0 \
    openapi-python-client==0.29.1 pypandoc-binary==1.17 ruamel.yaml==0.19.1 typer==0.27.0

AIPERF := aiperf==0.13.0

# A Chromium with its libraries and fonts, for machines that have none; unpacked as on the machines that it was made for.
UNPACK_CHROMIUM := 'import("@sparticuz/chromium").then(found => found.default.executablePath())'

unexport PYTHONDONTWRITEBYTECODE  # the tests start hundreds of processes, which import faster from bytecode

.DEFAULT_GOAL := help
.PHONY: help install demo unit test bench-smoke bench-report aiperf k8s-check soak lint image image-tools docs gpu-day \
    promtool redis clean distclean
.DELETE_ON_ERROR:

help: ## list the targets
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

install: $(VENV)/.installed ## create .venv and install the service

demo: $(VENV)/.installed ## generate out/demo.mp4 with a temporary service
	@$(BIN)/python -m zoetrope.serving.cli.demo

unit: $(VENV)/.installed-test ## run the tests that start no process: under 3 minutes
	$(BIN)/python -m pytest -n logical --maxprocesses 4 -m unit

test: lint ## run all checks that a change must pass
	$(BIN)/python -m pytest -n $(WORKERS)

bench-smoke: $(VENV)/.installed-test ## run every benchmark small and check its results: under 5 minutes on two cores
	$(BIN)/python -m zoetrope.benchmarks.smoke

bench-report: $(VENV)/.installed ## make out/benchmarks.html of all committed results
	$(BIN)/python -m zoetrope.benchmarks.report

k8s-check: $(VENV)/.installed-test ## check all that k8s/ holds, without a cluster; `make test` does it too
	$(BIN)/python -m pytest -m "not long" $(wildcard tests/serving/kubernetes tests/serving/cli/test_k8s.py tests/k8s)
	@for overlay in k8s/overlays/*; do $(BIN)/python -m zoetrope.serving.cli k8s check $$overlay || exit 1; done

soak: $(VENV)/.installed-test ## run the long tests: lost ranks, leaders and nodes, racks, and all faults under load
	$(BIN)/python -m pytest -m "long or hypothesis" --hypothesis-profile random
	$(BIN)/python -m tests.serving.soak.run
	$(BIN)/python -m tests.serving.soak.run --postgres --s3 --gateways 2
	$(BIN)/python -m tests.serving.soak.restarts
	$(BIN)/python -m tests.serving.soak.restarts --postgres

lint: $(VENV)/.installed-test ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

image: $(VENV)/.installed-test ## build the image's CPU target without Docker and make a clip in it; as root, see image-tools
	$(BIN)/python -m zoetrope.k8s.image.local build
	$(BIN)/python -m zoetrope.k8s.image.local try

image-tools: ## install what make image needs beside Python, on Debian, as root
	apt-get install --yes --no-install-recommends buildah golang-github-containers-common mmdebstrap runc umoci

docs: $(VENV)/.installed-docs ## build the documentation site into out/site; needs no network once installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet
	@echo "out/site/index.html"

gpu-day: ## run the GPU day here, or rehearse it: make gpu-day GPU_DAY=--dry-run; needs no .venv
	@PYTHON=$(or $(PYTHON),$(wildcard $(BIN)/python),python3) benchmarks/gpu_day.sh $(GPU_DAY)

aiperf: $(VENV)/.installed-aiperf ## install NVIDIA's AIPerf into .venv/aiperf; a long test measures a service with it

promtool: ## install Prometheus, whose promtool tries the alerts; for Debian, as root
	apt-get install --yes --no-install-recommends prometheus

redis: ## install Redis, which the long tests start for Ray's head; for Debian, as root
	apt-get install --yes --no-install-recommends redis-server

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
	        "install one (on Debian: apt install python3.11-venv) or choose one with make PYTHON=/path/to/python" >&2; \
	    exit 1; \
	fi; \
	echo "creating $(VENV) with $$($$python --version)"; \
	$$python -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

$(VENV)/.installed: $(VENV)/pyvenv.cfg pyproject.toml constraints-cpu.txt
	@echo "installing; the first time takes a few minutes"
	$(PIP_INSTALL) $(PIP_FLAGS) -e '.[serve]'
	@touch $@

$(VENV)/.installed-docs: $(VENV)/pyvenv.cfg pyproject.toml constraints-cpu.txt  # the site needs no torch and no Ray
	$(PIP_INSTALL) $(PIP_FLAGS) -e '.[docs]'
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed $(VENV)/.installed-node
	$(PIP_INSTALL) $(PIP_FLAGS) -e '.[test]'
	rm -rf $(VENV)/replicate-2  # both major versions of this SDK are tested; the second is installed apart
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps --target $(VENV)/replicate-2 $(REPLICATE_2)
	rm -rf $(VENV)/generators
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps --target $(VENV)/generators $(GENERATORS)
	@touch $@

$(VENV)/.installed-aiperf: $(VENV)/pyvenv.cfg  # an environment of its own: it pins other versions
	rm -rf $(VENV)/aiperf && $(BIN)/python -m venv $(VENV)/aiperf
	$(VENV)/aiperf/bin/python -m pip install --disable-pip-version-check --quiet $(AIPERF)
	@touch $@

$(VENV)/.installed-node: $(VENV)/pyvenv.cfg tests/node/package.json tests/node/package-lock.json  # clients for Node, a browser
	@if command -v npm >/dev/null; then \
	    mkdir -p $(VENV)/node && cp tests/node/package*.json $(VENV)/node && \
	    npm --prefix $(VENV)/node ci --ignore-scripts --silent && \
	    mkdir -p $(VENV)/chromium && cd $(VENV)/node && TMPDIR=$(abspath $(VENV))/chromium \
	    AWS_LAMBDA_JS_RUNTIME=nodejs20.x node -e $(UNPACK_CHROMIUM) && \
	    sed -i 's#/opt/fonts#$(abspath $(VENV))/chromium/fonts#' ../chromium/fonts/fonts.conf; \
	else echo "npm was not found: tests of clients for Node, and those in a browser if no Chromium is installed, are skipped"; fi
	@touch $@
