# Every target makes .venv first, so that one command is enough on a new machine.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: report browser notebooks test test-deep test-gpu check micro bench gpu clean

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed and $(PYTHON) is " + sys.version.split()[0] + "; name another with: make PYTHON=/path/to/python3 ...")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --disable-pip-version-check -q -c constraints.txt -e '.[dev]'
	@touch $@

# The grid goes on where it was stopped and redoes no finished cell; the page is made anew from its tables. Where a cell
# failed, which exit code 1 says, there is a page of the others, and it says so.
report: .venv/installed
	$(BIN)/python -m experiments.grid --preset quick --out runs/quick || test $$? -eq 1
	$(BIN)/python -m experiments.report --grid runs/quick --out report

# For the test that opens the report; without a browser that test is skipped.
browser:
	@command -v chromium || command -v chromium-browser || command -v google-chrome || \
	  { test "$$(id -u)" = 0 || { echo "make browser installs chromium by apt-get, which only root may: sudo make browser" >&2; exit 1; }; \
	    apt-get update -q && apt-get install -y -q --no-install-recommends chromium; }

# Each from a fresh kernel; outputs are committed, so that they read on the web.
notebooks: .venv/installed
	$(BIN)/jupyter nbconvert --to notebook --execute --inplace --ExecutePreprocessor.record_timing=False notebooks/*.ipynb

# The tests start dozens of processes, each of which would otherwise recompile every source.
test test-deep: export PYTHONDONTWRITEBYTECODE :=

# Tensors of some megabytes come and go. Without these thresholds the C library gets their memory from the system anew
# each time, which takes a fifth of a probe's time. The tests that run alone measure without them.
KEPT := MALLOC_MMAP_THRESHOLD_=33554432 MALLOC_TRIM_THRESHOLD_=1073741824

test: .venv/installed
	$(KEPT) $(BIN)/python -m pytest -n 2 --dist worksteal -m "not alone"
	$(BIN)/python -m pytest -m alone

test-deep: .venv/installed
	$(KEPT) $(BIN)/python -m pytest -n 2 --dist worksteal -m "not alone" --hypothesis-profile=deep
	$(BIN)/python -m pytest -m alone

test-gpu: .venv/installed
	@$(BIN)/python -c 'import sys, torch; sys.exit(None if torch.cuda.is_available() else "make test-gpu runs the kernels compiled and torch " + torch.__version__ + " finds no CUDA device here; make test runs them in the interpreter")'
	$(BIN)/python -m pytest tests/vmp/scan

check: .venv/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

micro: .venv/installed
	$(BIN)/python -m experiments.micro

bench: .venv/installed
	$(BIN)/pip install --disable-pip-version-check -q -c constraints.txt -e '.[bench]'
	$(BIN)/python -m experiments.bench scan
	$(BIN)/python -m experiments.bench reduce
	$(BIN)/python -m experiments.bench model
	$(BIN)/python -m experiments.bench report

# Under 8 minutes on one GPU. mamba_ssm is timed beside ours where it is installed: CONTRIBUTING.md says how. Exit code 1
# says that a step did not come to its end; the report names it.
gpu: .venv/installed
	$(BIN)/python -m experiments.bench gpu || test $$? -eq 1
	$(BIN)/python -m experiments.bench report

clean:
	rm -rf .venv report runs/quick build *.egg-info
