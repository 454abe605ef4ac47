# Set-up is part of every target: `make demo` and `make test` work on a fresh clone.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
# One thread: on shared machines two were measured far slower than one.
export OMP_NUM_THREADS ?= 1
export MPLBACKEND ?= Agg

.PHONY: demo test test-oldest lint bench docs clean

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

test-oldest:  ## the estimators' tests on the oldest scikit-learn that is supported
	$(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/python -m pip install --quiet -c constraints.txt \
		-e ".[plot,persist,test]" "scikit-learn==1.6.*" "numpy<2.3"
	# The warnings left out are raised inside scikit-learn 1.6 by newer SciPy, pytest.
	.venv-oldest/bin/python -m pytest -q -W ignore::DeprecationWarning \
		-W ignore::pytest.PytestRemovedIn10Warning tests/test_common.py \
		tests/test_classifier.py tests/test_composition.py tests/test_filters.py \
		tests/test_model_selection.py tests/test_trigger_filter.py

bench: $(VENV)/.installed  ## short versions of the benchmarks (about ten minutes)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[bench]"
	$(BIN)/python benchmarks/bench_fit.py
	$(BIN)/python benchmarks/bench_transport.py --quick
	$(BIN)/python benchmarks/bench_graph.py --quick
	$(BIN)/python benchmarks/defence_table.py --quick

# Warnings are errors. GALLERY=0 shows the examples without running them (a minute).
GALLERY ?= 1
docs: $(VENV)/.installed  ## the site, docs/_build/html, examples run
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[docs]"
	$(BIN)/python -m sphinx -W --keep-going --quiet -D plot_gallery=$(GALLERY) \
		docs docs/_build/html

clean:
	rm -rf $(VENV) build dist docs/_build docs/auto_examples docs/api/generated .pytest_cache .ruff_cache .mypy_cache
