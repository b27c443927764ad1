# make demo   reconstruct the example scene; needs Python >= 3.11 and nothing else
# make test   install what the tests need, and run them
# make check  lint, format, types, direction of imports
# make fuzz   100,000 damaged files through every reader: an hour; FUZZ_ARGS="--mutations 2000" for less
# make faults  let every write, rename and sync of every command fail, one at a time: a quarter of an hour
# make site   build the documentation as a site in build/site; fails on a broken link
# make release  build the source distribution and the wheel in dist/, check them, and try the wheel outside the checkout
# make docs   write docs/cli.md, the reference of all commands, from their help
# make bench  reconstruct the scenes in $VGGSFM_BENCH, also with COLMAP's SIFT, and compare with their truth: an hour;
#             BENCH_ARGS="--scenes fox --bags full,3 --only vggsfm" for a part, BENCH_ARGS=--timing for wall time
# make bench-ba  bundle adjustment three ways on the same problems: time, memory, cost; needs nothing
# make bench-sequence  a rendered walk of 300 frames with a loop: time, memory, drift; BENCH_ARGS="--frames 1000"
# make bench-v2  time and memory of the v2 tracker against a naive one; random weights, needs nothing
# make ablate  each learned stage against its classical counterpart; needs what the trainings wrote, see ablate.py
# make figures  the tables of README.md and of the model card, from the records in benchmarks/
# make eval-tracks  measure tracks on rendered scenes and, if $VGGSFM_BENCH is set, on its surveyed scenes

# The pin keeps pip from fetching a newer torch with gigabytes of CUDA libraries; TORCH= takes any.
TORCH ?= 2.13.0
THESEUS := theseus-ai==0.2.3 torchlie==0.1.0 torchkin==0.1.1
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
	$$p -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)

VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
PINS := $(if $(TORCH),torch==$(TORCH))

.PHONY: setup demo test check fuzz faults docs site release bench bench-ba bench-sequence bench-v2 ablate figures eval-tracks clean

setup: $(VENV)/.test $(VENV)/.dev

demo: $(VENV)/.package
	$(BIN)/python examples/demo.py

test: $(VENV)/.test
	$(BIN)/python -m pytest $(PYTEST_ARGS)

check: $(VENV)/.test $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest --quiet tests/test_architecture.py

fuzz: $(VENV)/.test
	PYTHONPATH=tests $(BIN)/python tests/fuzz.py --mutations 100000 --commands 1000 $(FUZZ_ARGS)

faults: $(VENV)/.test
	VGGSFM_FAULTS=all $(BIN)/python -m pytest tests/test_faults.py

docs: $(VENV)/.package
	$(BIN)/python docs/generate.py

site: $(VENV)/.site
	$(BIN)/mkdocs build --strict

release: $(VENV)/.release
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/twine check --strict dist/*
	@set -e; trial=$$(mktemp -d); trap 'rm -rf "$$trial"' EXIT; wheel=$$(ls "$$PWD"/dist/*.whl); \
	$(BIN)/python -m venv "$$trial/venv"; \
	"$$trial/venv/bin/python" -m pip install --quiet --disable-pip-version-check "$$wheel" $(PINS); \
	cd "$$trial"; \
	venv/bin/vggsfm --help > /dev/null; \
	venv/bin/vggsfm doctor

bench: $(VENV)/.package
	$(BIN)/python benchmarks/run.py $(BENCH_ARGS)

bench-ba: $(VENV)/.test
	$(BIN)/python benchmarks/ba.py

bench-sequence: $(VENV)/.package
	$(BIN)/python benchmarks/sequence.py $(BENCH_ARGS)

bench-v2: $(VENV)/.package
	PYTHONPATH=tests $(BIN)/python benchmarks/v2.py

ablate: $(VENV)/.test
	$(BIN)/python benchmarks/ablate.py $(ABLATE_ARGS)

figures: $(VENV)/.test
	$(BIN)/python benchmarks/figures.py

eval-tracks: $(VENV)/.test
	$(BIN)/vggsfm evaluate tracks --out benchmarks

clean:
	rm -rf build dist demo_output .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -exec rm -rf {} +

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "Python >= 3.11 with venv is needed; name one: make PYTHON=/path/to/python" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.package: pyproject.toml | $(BIN)/python
	$(PIP) --editable . $(PINS)
	@touch $@

$(VENV)/.test: Makefile $(VENV)/.package
	$(PIP) --editable '.[test,theseus]' $(PINS) setuptools wheel
	$(PIP) --no-build-isolation --no-deps $(THESEUS)
	@touch $@

$(VENV)/.dev: $(VENV)/.package
	$(PIP) --editable '.[dev]' $(PINS)
	@touch $@

$(VENV)/.site: $(VENV)/.package
	$(PIP) --editable '.[site]' $(PINS)
	@touch $@

$(VENV)/.release: $(VENV)/.package
	$(PIP) --editable '.[release]' $(PINS)
	@touch $@
