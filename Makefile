PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)

.PHONY: setup demo test test-data test-pacs test-browser test-all evidence benchmark lint format

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

test-browser: setup  ## the report in Chromium, which it installs (Debian) where it is missing
	@command -v chromium >/dev/null || $(SUDO) apt-get install --yes --no-install-recommends chromium
	$(BIN)/python -m pytest -m browser

test-all: setup  ## everything but what needs a model hub
	BIOATT_DATA_REQUIRED=1 $(BIN)/python -m pytest -m 'not hub and not pacs and not browser'

EVIDENCE := docs/evidence/fast_weights
HELD_OUT := CRLM-CT-1004 CRLM-CT-1006

evidence: setup  ## judge the shipped weights on real series; BIOATT_DATA must name the data
	mkdir -p $(EVIDENCE)
	for prior in compact uniform random; do \
	  $(BIN)/bioatt evaluate $(BIOATT_DATA)/ct runs/evaluation_$$prior --validate $(HELD_OUT) --set cache_dir=runs/cache \
	    prior=$$(test $$prior = random && echo random:0 || echo $$prior) || exit 2; \
	  cp runs/evaluation_$$prior/evaluation.json $(EVIDENCE)/evaluation_$$prior.json; \
	done
	cd bundle && ../$(BIN)/python -m scripts.judge_series $(abspath $(BIOATT_DATA))/ct ../$(EVIDENCE) --work ../runs/evidence
	cd bundle && ../$(BIN)/python -m scripts.model_card ../$(EVIDENCE) --name $(HELD_OUT)

benchmark: setup  ## measure the speed of this machine; leave it alone meanwhile
	$(BIN)/bioatt benchmark --output runs/benchmark --page docs/evidence/performance.md

lint: setup  ## ruff, on code and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: setup  ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
