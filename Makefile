PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: setup demo test test-data test-all evidence lint format

setup: $(READY)  ## make .venv and install the project in it (about 6 GB, 5 minutes)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("BioAtt needs Python 3.11 or newer, this is " + sys.version.split()[0]) if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[dev]' --constraint constraints.txt
	touch $(READY)

demo: setup  ## make a small low-dose series, denoise it, print the quality
	$(BIN)/bioatt demo demo_output

test: setup  ## the fast suite: no network, no data but what it makes
	$(BIN)/python -m pytest

test-data: setup  ## the tests on real CT; BIOATT_DATA must name the data
	BIOATT_DATA_REQUIRED=1 $(BIN)/python -m pytest -m data

test-all: setup  ## everything but what needs a model hub
	BIOATT_DATA_REQUIRED=1 $(BIN)/python -m pytest -m 'not hub'

evidence: setup  ## judge the shipped weights on real series; BIOATT_DATA must name the data
	cd bundle && ../$(BIN)/python -m scripts.judge_series $(abspath $(BIOATT_DATA))/ct ../docs/evidence/first_weights --work ../runs/evidence

lint: setup  ## ruff, on code and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: setup  ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
