# make demo | superlink-demo | test | check | bench — each creates .venv and installs what it needs. PYTHON=python3.12 chooses the interpreter.
PYTHON ?= python3
BIN := .venv/bin
RUN := OMP_NUM_THREADS=1 $(BIN)

.PHONY: setup demo superlink-demo test check browser bench clean

setup: .venv/dev

.venv/base: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $@

.venv/dev: pyproject.toml constraints.txt  # all that .venv/base has too, in one installation
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch .venv/base $@

demo: .venv/base
	$(RUN)/fedsim run configs/quickstart/feddm_digits.yaml

superlink-demo: .venv/base
	$(RUN)/fedsim run configs/quickstart/feddm_digits.yaml engine.name=superlink engine.security=tls_auth \
	  participation.per_node=5 method.iterations=30 controls.upload_real_subset=false

test: .venv/dev
	$(RUN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

check: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

browser: .venv/dev
	$(RUN)/python -m pytest -m browser tests/report

bench: .venv/dev  # half an hour on two idle cores; figures to benchmarks/results/, the page to docs/benchmarks.md
	$(BIN)/python benchmarks/inner_loop.py
	$(BIN)/python benchmarks/gradient_step.py
	$(BIN)/python benchmarks/speed_page.py

clean:
	rm -rf .venv runs .pytest_cache .ruff_cache .hypothesis
