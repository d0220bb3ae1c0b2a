PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)

.PHONY: setup demo test test-data test-pacs test-all evidence benchmark lint format

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

test-pacs: setup  ## a round trip with Orthanc, which it installs (Debian) where it is missing
	@for program in Orthanc storescu dciodvfy; do command -v $$program >/dev/null || missing=yes; done; \
	if [ -n "$$missing" ]; then $(SUDO) apt-get install --yes --no-install-recommends orthanc dcmtk dicom3tools; fi
	$(BIN)/python -m pytest -m pacs

test-all: setup  ## everything but what needs a model hub
	BIOATT_DATA_REQUIRED=1 $(BIN)/python -m pytest -m 'not hub and not pacs'

RESULTS := docs/evidence/results

evidence: setup  ## measure the shipped weights, write pages and model card; BIOATT_DATA must name the data; about half an hour
	cd bundle && ../$(BIN)/python -m scripts.evidence $(abspath $(BIOATT_DATA)) ../$(RESULTS) --work ../runs/evidence --pages $(EVIDENCE_OPTIONS)
	cd bundle && ../$(BIN)/python -m scripts.model_card ../$(RESULTS)

benchmark: setup  ## measure the speed of this machine; leave it alone meanwhile
	$(BIN)/bioatt benchmark --output runs/benchmark --page docs/evidence/performance.md

lint: setup  ## ruff, on code and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: setup  ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
