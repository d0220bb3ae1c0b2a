PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
LABEL := .venv-label
DEPLOY := .venv-deploy
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)

.PHONY: setup demo test test-data test-pacs test-label test-deploy test-browser test-all coverage evidence pages weights baselines study benchmark gpu lint format reference image dist zoo

setup: $(READY)  ## make .venv and install the project in it (about 6 GB, 5 minutes)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("BioAtt needs Python 3.11 or newer, this is " + sys.version.split()[0]) if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[dev]' --constraint constraints.txt
	touch $(READY)

demo: setup  ## make a small low-dose series, denoise it, print the quality
	$(BIN)/bioatt demo demo_output

test: setup  ## the fast suite, in two processes: no network, no data but what it makes
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

test-data: setup  ## the tests on real CT; BIOATT_DATA must name the data
	BIOATT_DATA_REQUIRED=1 $(BIN)/python -m pytest -m data

test-pacs: setup  ## a round trip with Orthanc, which it installs (Debian) where it is missing
	@for program in Orthanc storescu dciodvfy; do command -v $$program >/dev/null || missing=yes; done; \
	if [ -n "$$missing" ]; then $(SUDO) apt-get install --yes --no-install-recommends orthanc dcmtk dicom3tools; fi
	$(BIN)/python -m pytest -m pacs

test-label: setup $(LABEL)/.ready  ## the bundle in MONAI Label's own app, in an environment of its own
	$(BIN)/python -m pytest -m label

test-browser: setup  ## the report in Chromium, which it installs (Debian) where it is missing
	@command -v chromium >/dev/null || $(SUDO) apt-get install --yes --no-install-recommends chromium
	$(BIN)/python -m pytest -m browser

$(LABEL)/.ready: deploy/label/requirements.txt deploy/label/constraints.txt
	$(PYTHON) -m venv $(LABEL)
	$(LABEL)/bin/python -m pip install --quiet --upgrade pip wheel 'setuptools<81'
	$(LABEL)/bin/python -m pip install --quiet torch torchvision numpy ninja packaging --constraint deploy/label/constraints.txt
	SAM2_BUILD_CUDA=0 $(LABEL)/bin/python -m pip install --quiet --no-build-isolation \
	  --requirement deploy/label/requirements.txt --constraint deploy/label/constraints.txt
	touch $@

test-deploy: setup $(DEPLOY)/.ready  ## the MONAI Deploy application, in an environment of its own
	$(BIN)/python -m pytest -m deploy

$(DEPLOY)/.ready: deploy/app/requirements.txt
	$(PYTHON) -m venv $(DEPLOY)
	$(DEPLOY)/bin/python -m pip install --quiet --upgrade pip
	$(DEPLOY)/bin/python -m pip install --quiet --requirement deploy/app/requirements.txt
	touch $@

test-all: setup  ## everything but what needs a model hub or programs of its own
	BIOATT_DATA_REQUIRED=1 $(BIN)/python -m pytest -m 'not hub and not pacs and not label and not deploy and not browser'

coverage: setup  ## the fast suite again, and which lines of bundle/scripts it runs
	$(BIN)/python -m pytest --cov --cov-report=term

BUILDER := $(firstword $(foreach one,podman docker buildah,$(if $(shell command -v $(one)),$(one))))
BASE := python:3.11-slim
IMAGE := bioatt
PIP_OPTIONS :=

image:  ## a container image by podman, docker or buildah; BASE names an image with Python 3.11 or newer
	@[ -n "$(BUILDER)" ] || { echo "error: podman, docker or buildah is needed; install one" >&2; exit 2; }
	$(BUILDER) build $(BUILD_OPTIONS) --build-arg BASE=$(BASE) --build-arg PIP_OPTIONS="$(PIP_OPTIONS)" \
	  --file deploy/container/Containerfile --tag $(IMAGE) .

DATE = SOURCE_DATE_EPOCH=$(shell git log -1 --format=%ct)  # of the commit, so that the same code gives the same wheel

dist: setup  ## dist/: sdist, the wheel made of it, the bill of materials (CycloneDX) of what it installs, SHA256SUMS
	rm -rf dist
	$(DATE) $(BIN)/python -m build --no-isolation .
	$(BIN)/python deploy/release/clean_environment.py dist/*.whl runs/clean
	$(PYTHON) -m venv runs/sbom && runs/sbom/bin/python -m pip install --quiet cyclonedx-bom --constraint constraints.txt
	$(DATE) runs/sbom/bin/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible \
	  --output-file dist/bioatt-$$(runs/clean/bin/bioatt --version | cut -d ' ' -f 2).cdx.json runs/clean/bin/python
	cd dist && sha256sum * > SHA256SUMS

zoo: setup  ## dist/zoo/: what MONAI's model zoo and its hub take; WEIGHTS_URL names where the zoo fetches the weights
	$(BIN)/python deploy/release/make_zoo.py bundle dist/zoo $(if $(WEIGHTS_URL),--weights-url $(WEIGHTS_URL))

RESULTS := docs/evidence/results

OLD := runs/0.3.2
OLD_FILES := $(addprefix $(OLD)/,model.pt $(addprefix prior/,open_clip_config.json open_clip_model.safetensors tokenizer.json tokenizer_config.json))

evidence: setup $(OLD_FILES)  ## measure the shipped weights, write pages and model card; BIOATT_DATA must name the data; an hour; installs BM3D, which is not for commercial use
	$(BIN)/python -m pip install --quiet --constraint constraints.txt bm3d
	PYTHONPATH=bundle $(BIN)/python -m studies.evidence $(BIOATT_DATA) $(RESULTS) --work runs/evidence --pages \
	  --old $(OLD)/model.pt --old-prior local-dir:$(OLD)/prior --bm3d $(EVIDENCE_OPTIONS)
	PYTHONPATH=bundle $(BIN)/python -m studies.model_card $(RESULTS)

$(OLD_FILES): $(OLD)/%:  # what 0.3.2 shipped
	mkdir -p $(@D) && git show 54ddd63:bundle/models/$* > $@

# SETTINGS: more of the training's own, e.g. "--train#trainer#max_epochs 1 --steps_per_epoch 2" to see that it works.
SETTINGS :=
SHIPPED := -m monai.bundle run training --dataset_dir $(abspath $(BIOATT_DATA)) --cache_dir ../runs/cache \
  --config_file "['configs/train.json','configs/shipped.json','configs/resume.json'

pages: setup  ## write the evidence pages, README, model card and metadata again, from the result files alone
	PYTHONPATH=bundle $(BIN)/python -m studies.evidence . $(RESULTS) --parts --pages
	PYTHONPATH=bundle $(BIN)/python -m studies.prior_study page $(RESULTS)/priors docs/evidence/priors.md
	PYTHONPATH=bundle $(BIN)/python -m studies.model_card $(RESULTS)

weights: runs/weights/first/model.pt  ## train the shipped weights again, in runs/weights; BIOATT_DATA must name the data; hours, goes on after a stop
	cd bundle && ../$(BIN)/python $(SHIPPED),'configs/refined.json']" --output_dir ../runs/weights $(SETTINGS)

runs/weights/first/model.pt: | setup
	cd bundle && ../$(BIN)/python $(SHIPPED)]" --output_dir ../runs/weights/first $(SETTINGS)

BASELINE := runs/baselines/redcnn32
FIRST := runs/baselines/first

baselines: $(BASELINE)/model.pt $(FIRST)/model.pt  ## train RED-CNN with 32 maps as the shipped weights (hours on a CPU, minutes on a GPU; goes on after a stop), measure it
	$(MAKE) evidence EVIDENCE_OPTIONS="--parts baselines --baseline 'network, first training=$(FIRST)/model.pt' \
	  --baseline 'RED-CNN, 32 maps=$(BASELINE)/model.pt:network_redcnn32.json'"

$(BASELINE)/model.pt: | setup
	cd bundle && ../$(BIN)/python $(SHIPPED),'configs/network_redcnn32.json','../studies/evidence/redcnn32.json']" \
	  --output_dir ../$(BASELINE)

$(FIRST)/model.pt:  # what 0.4.0 shipped: the first of both trainings
	mkdir -p $(@D) && cp $(RESULTS)/curve.csv $(@D)/ && git show fcfd3c9:bundle/models/model.pt > $@

study: setup  ## run the remaining parts of the study "do priors help?"; BIOATT_DATA must name the data; a day on a CPU, minutes on a GPU
	PYTHONPATH=bundle $(BIN)/python -m studies.prior_study pack $(BIOATT_DATA)/ct $(BIOATT_DATA)/ct_patients runs/study/pack \
	  --work runs/study/cache
	PYTHONPATH=bundle $(BIN)/python -m studies.prior_study models runs/study/pack --page docs/evidence/prior_models.md
	PYTHONPATH=bundle $(BIN)/python -m studies.prior_study run runs/study/pack $(RESULTS)/priors
	PYTHONPATH=bundle $(BIN)/python -m studies.prior_study page $(RESULTS)/priors docs/evidence/priors.md
	PYTHONPATH=bundle $(BIN)/python -m studies.model_card $(RESULTS)

benchmark: setup  ## measure the speed of this machine; leave it alone meanwhile; BENCHMARK_OPTIONS=--only-cohort for a list alone
	PYTHONPATH=bundle $(BIN)/python -m studies.benchmark runs/benchmark docs/evidence/performance.md --processes 2 \
	  --cohort-page docs/cohort.md $(BENCHMARK_OPTIONS)

gpu: setup  ## a short stay at a GPU: measure, then train with the time left; nine minutes; see studies/gpu.sh
	PYTHON=$(abspath $(BIN))/python DATA=$(BIOATT_DATA) studies/gpu.sh runs/gpu

lint: setup  ## ruff, on code and format; black as the model zoo runs it
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/black --check --quiet bundle

format: setup  ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

reference: setup  ## write docs/reference and docs/rooms.svg again, from parser, configs and code
	$(BIN)/python docs/make_reference.py
	$(BIN)/python docs/make_rooms.py
