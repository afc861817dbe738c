# All commands set everything up by themselves; nothing but Python 3.11 or 3.12 is needed.
PYTHON ?= $(shell for p in python3.12 python3.11 python3; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null && { echo $$p; break; }; done)
BIN := .venv/bin
PYTEST_ARGS ?= -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

.PHONY: install quickstart test fuzz lint docs results check-wheel clean

install: .venv/installed  # .venv with the tested versions, and nothing else

quickstart: .venv/installed
	$(BIN)/alm quickstart --out quickstart

test: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PYTEST_ARGS)  # tiny models: threads would only wait for each other

FUZZ_SECONDS ?= 60

fuzz: .venv/installed  # every tests/fuzz_*.py for FUZZ_SECONDS
	OMP_NUM_THREADS=1 $(BIN)/python tests/fuzzing.py $(FUZZ_SECONDS)

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: .venv/installed  # the site in site/index.html; strict: a dead link is an error
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev,docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict
	$(BIN)/python docs/site_links.py site

results: .venv/installed  # docs/results-regenerated.md: what is cheap to measure, measured again
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.results

check-wheel: .venv/installed  # build wheel and sdist, and use the wheel without the checkout
	$(BIN)/python benchmarks/check_wheel.py

# The marker is written last: an interrupted installation is repeated.
.venv/installed: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11 or 3.12 found; install one or run make PYTHON=/path/to/python"; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev,serve]'
	touch $@

clean:
	rm -rf .venv quickstart site
