# The whole of set-up, test and measurement. Everything goes into .venv, models and bundles, which git ignores.
# PYTHON is used once, to make .venv; any CPython from 3.10 on with pip will do (an export needs 3.11).

PYTHON ?= python3
BIN := .venv/bin
# The oldest runtime that a device has (JetPack 6): a test answers with it.
OLDEST := onnxruntime==1.23.2
MODELS := models/SmolLM2-135M-Instruct.Q4_1.gguf models/all-MiniLM-L6-v2
.DEFAULT_GOAL := help
.PHONY: help setup demo test check bench bench-agent bench-hub bench-export soak chaos fuzz fuzz-wire models clean

help:
	@echo "make setup    make .venv and install edgefleet into it with every version that was tested"
	@echo "make demo     from a checkpoint to an answer over MQTT, on the node that gives it soonest"
	@echo "make test     all tests but those that need a GPU"
	@echo "make check    ruff, mypy --strict, import-linter"
	@echo "make bench    measure everything against its peers (compiles llama.cpp once: needs a C++ compiler)"
	@echo "make bench-agent   of that, the agent alone: llama.cpp, onnxruntime-genai and PyTorch on the same weights"
	@echo "make bench-hub     of that, the hub alone: what it adds to a round trip, how many questions it routes, 5,000 nodes"
	@echo "make bench-export  measure every optimization of the exporter, and write the tables of docs/exporting.md"
	@echo "make soak     ask one node 30,000 questions and watch its memory"
	@echo "make chaos    half an hour of faults: kill, stop, cut and replay, and judge what became of 10,000 questions"
	@echo "make fuzz     2,000 bundles changed at random: none may bring the agent down, none that was signed may open"
	@echo "make fuzz-wire     200,000 malformed messages for the cores of hub and node"
	@echo "make models   fetch the models that demo, test and bench use"
	@echo "make clean    remove .venv, bundles, builds and caches; models stay"

setup: .venv/.setup

# A stamp file, so that a second call does nothing and a changed requirement is installed.
.venv/.setup: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 10) and \
	  "$(PYTHON) is Python %d.%d, edgefleet needs 3.10 or newer: make PYTHON=/path/to/python3.11" % v[:2])'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@# the extra tensorrt is empty but on x86-64 Linux, by the markers in pyproject.toml
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[exporter,tensorrt,agent,hub,postgres,otel,dev]'
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --upgrade --target .venv/oldest-onnxruntime $(OLDEST)
	@touch $@

.venv/.bench: .venv/.setup
	@command -v c++ > /dev/null || { \
	  echo "make bench compiles llama.cpp and finds no C++ compiler: install one (Debian: apt-get install g++)" >&2; \
	  exit 1; }
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench]'
	@touch $@

models: $(MODELS)

$(MODELS): | .venv/.setup
	$(BIN)/python benchmarks/model.py models

demo: setup models
	$(BIN)/python demo/demo.py

test: setup models
	$(BIN)/pytest -m "not gpu" -n 2

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict
	$(BIN)/lint-imports

bench: .venv/.bench models
	$(BIN)/python benchmarks/run.py

bench-agent: .venv/.bench models
	$(BIN)/python benchmarks/bench_agent.py

bench-hub: setup
	$(BIN)/python benchmarks/bench_hub.py

bench-export: setup models
	$(BIN)/python benchmarks/exporting.py

# A half-hour of questions to one node; SOAK=DIR takes another bundle.
SOAK ?= bundles/smollm2-desktop-cpu
soak: setup models
	test -d $(SOAK) || $(BIN)/edge-export --model models/SmolLM2-135M-Instruct.Q4_1.gguf --profile desktop-cpu --output $(SOAK)
	$(BIN)/python benchmarks/soak.py --bundle $(SOAK)

# CHAOS takes other options, such as CHAOS="--seed 7 --seconds 300 --questions 2000 --faults 60".
CHAOS ?= --seconds 1800 --questions 10000 --faults 150
chaos: setup
	$(BIN)/python benchmarks/chaos.py $(CHAOS)

# FUZZ takes another number.
FUZZ ?= 2000
fuzz: setup
	FUZZ_BUNDLES=$(FUZZ) $(BIN)/pytest -s -p no:cacheprovider tests/end_to_end/test_fuzzed_bundles.py

fuzz-wire: setup
	$(BIN)/python benchmarks/fuzz_wire.py

clean:
	rm -rf .venv bundles build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
