# Two commands do everything: `make demo` and `make test`. Both need Python 3.11 to 3.13, make and pip, and nothing else.

PYTHON ?= python3
VENV ?= .venv
PERDURE = $(VENV)/bin/perdure
RUNS = runs/demo
PIP = $(VENV)/bin/python -m pip --disable-pip-version-check install --quiet

.PHONY: demo test clean

demo: $(VENV)/core-installed
	$(PERDURE) run finetune cw3-v3 --out $(RUNS)/finetune
	$(PERDURE) run er cw3-v3 --out $(RUNS)/er
	$(PERDURE) run packnet cw3-v3 --out $(RUNS)/packnet
	$(PERDURE) video $(RUNS)/finetune
	$(PERDURE) video $(RUNS)/er
	$(PERDURE) video $(RUNS)/packnet
	$(PERDURE) report $(RUNS)/finetune $(RUNS)/er $(RUNS)/packnet --out $(RUNS)

test: $(VENV)/dev-installed
	$(VENV)/bin/ruff check perdure tests tools examples
	$(VENV)/bin/mypy
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n 2 --dist loadfile

# torch comes first and exactly pinned: any other request may bring several GB of CUDA packages
$(VENV)/torch-installed: constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info < (3, 14) else "perdure needs Python 3.11 to 3.13; this is " + sys.version.split()[0] + ": make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) torch==2.13.0
	touch $@

$(VENV)/core-installed: $(VENV)/torch-installed pyproject.toml
	$(PIP) --constraint constraints.txt --editable '.[metaworld]'
	touch $@

$(VENV)/dev-installed: $(VENV)/core-installed
	$(PIP) --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
