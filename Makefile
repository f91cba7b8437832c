# make demo    set up, profile the image example slow and cured, and compare
# make test    set up, lint, check types, and run the tests
# make scenarios    run each labelled training that `make test` judges from its recording alone
# make bench   measure what the profiler itself costs, and what the rules' promises are worth
# make docs    write docs/rules from the rules' own texts
#
# Needs make and Python 3.10 or newer; everything else goes into .venv.

PYTHON ?= python3
PIP_FLAGS ?=

BIN := .venv/bin
INSTALLED := .venv/installed
DEMO := reports/demo-slow reports/demo-cured

.PHONY: demo test scenarios bench docs lint browser clean

demo: $(INSTALLED)
	@rm -rf $(DEMO)
	$(BIN)/prof attach --name demo-slow examples/images/train.py --preprocess heavy
	$(BIN)/prof attach --name demo-cured examples/images/train.py --preprocess cached
	@$(BIN)/python examples/compare.py $(DEMO)

# what is judged by its times runs by itself
test: lint browser
	$(BIN)/python -m pytest -m "not slow and not alone" -n 2 --dist loadfile
	$(BIN)/python -m pytest -m "(slow or alone) and not exhaustive"

scenarios: $(INSTALLED)
	$(BIN)/python -m pytest -m exhaustive

bench: $(INSTALLED)
	$(BIN)/python -m benchmarks

docs: $(INSTALLED)
	$(BIN)/python -m profiler.rules.docs docs/rules

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m profiler.rules.docs docs/rules --check

$(INSTALLED): pyproject.toml constraints.txt setup.py profiler/capture/_interval.c profiler/capture/_looks.c profiler/record/trace/_scan.c profiler/record/trace/_text.h
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 10) or sys.exit("Python 3.10 or newer is needed; choose one with: make PYTHON=python3.11")'
	@test -x $(BIN)/python -a -x $(BIN)/pip || $(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --disable-pip-version-check --quiet $(PIP_FLAGS) -c constraints.txt -e '.[dev]'
	@touch $@

# the browser tests drive Debian's chromium; without it they are skipped and say so
browser:
	@if command -v chromium >/dev/null && command -v chromedriver >/dev/null; then exit 0; fi; \
	if ! command -v apt-get >/dev/null; then echo "no chromium and no apt-get: the browser tests will be skipped"; exit 0; fi; \
	if [ "$$(id -u)" = 0 ]; then as_root=; elif sudo -n true 2>/dev/null; then as_root=sudo; \
	else echo "no chromium, and no right to install it: the browser tests will be skipped"; exit 0; fi; \
	$$as_root apt-get update -qq && \
	$$as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium chromium-driver >/dev/null \
	|| echo "chromium could not be installed: the browser tests will be skipped"

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache examples/data $(DEMO)
