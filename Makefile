# Set-up is part of every target: `make demo` and `make test` work on a fresh clone.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
# One thread: on shared machines two were measured far slower than one.
export OMP_NUM_THREADS ?= 1
export MPLBACKEND ?= Agg

.PHONY: demo test test-oldest coverage mutants audit lint bench docs clean

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

# Left out: what looks at the machine and not at the dependencies (documents, browser,
# benchmarks), and one test for which SciPy 1.12 has no place to look.
test-oldest:  ## tests on the oldest dependencies allowed (6 GB: torch 2.4 with CUDA)
	$(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/python -m pip install --quiet -c constraints-oldest.txt \
		-e ".[plot,persist,test]"
	# The warnings left out are raised inside the old libraries by newer ones.
	.venv-oldest/bin/python -m pytest -q -W ignore::DeprecationWarning \
		-W ignore::PendingDeprecationWarning -W ignore::FutureWarning \
		-W ignore::pytest.PytestRemovedIn10Warning \
		--deselect tests/test_common.py::test_array_api_checks_are_on \
		--ignore tests/benchmarks --ignore tests/test_docs.py \
		--ignore tests/test_report_browser.py tests skvibe

coverage: $(VENV)/.installed  ## the whole suite; fails below 95 % of lines and branches
	$(BIN)/python -m pytest --cov=skvibe --cov-branch --cov-report=term-missing

mutants: $(VENV)/.installed  ## small faults put into the mathematics (hours)
	$(BIN)/python benchmarks/mutants.py --least 0.85

# Strict: what the database does not know fails too, and so does being offline.
audit: $(VENV)/.installed  ## known vulnerabilities of all that is installed
	$(PYTHON) -m venv .venv-audit
	.venv-audit/bin/python -m pip install --quiet pip-audit
	$(BIN)/python -m pip freeze --exclude-editable | sed "s/+[^ ]*$$//" \
		> .venv-audit/installed.txt
	.venv-audit/bin/pip-audit --strict --no-deps --disable-pip \
		-r .venv-audit/installed.txt

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
	rm -rf $(VENV) .venv-oldest .venv-audit build dist docs/_build docs/auto_examples docs/api/generated .pytest_cache .ruff_cache .mypy_cache
