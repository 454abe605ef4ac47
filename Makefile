# Set-up is part of every target: `make demo` and `make test` work on a fresh clone.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
# One thread: on shared machines two were measured far slower than one.
export OMP_NUM_THREADS ?= 1
export MPLBACKEND ?= Agg

.PHONY: demo test lint bench clean

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[plot,persist,test]"
	touch $@

demo: $(VENV)/.installed  ## train on poisoned digits, with and without defence
	$(BIN)/python examples/demo.py

lint: $(VENV)/.installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

test: lint  ## the whole test suite, slow tests included
	$(BIN)/python -m pytest

bench: $(VENV)/.installed  ## short versions of the benchmarks (about ten minutes)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[bench]"
	$(BIN)/python benchmarks/bench_fit.py
	$(BIN)/python benchmarks/bench_transport.py --quick
	$(BIN)/python benchmarks/bench_graph.py --quick
	$(BIN)/python benchmarks/defence_table.py --quick

clean:
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .mypy_cache
