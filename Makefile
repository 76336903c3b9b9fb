PYTHON ?= python3.11
TINY := outputs/tiny

.PHONY: setup demo test lint train-setup page page-test

setup: .venv/ready

# The CPU build of torch comes first, so that nothing pulls in the one for CUDA.
.venv/ready: pyproject.toml
	$(PYTHON) -m venv .venv
	.venv/bin/pip install -q torch==2.13.0
	.venv/bin/pip install -q -e '.[dev]'
	touch $@

demo: setup
	.venv/bin/python tests/build_tiny_folders.py $(TINY)
	.venv/bin/python examples/infer_s2s.py --model-path $(TINY)/Fun-Audio-Chat-Tiny \
	  --tts-path $(TINY)/Fun-CosyVoice3-Tiny --greedy --max-new-tokens 20

test: setup
	.venv/bin/python -m pytest -q

lint: setup
	.venv/bin/ruff check .
	.venv/bin/mypy funaudiochat

# llamafactory itself would pull in torchaudio and torchvision, which break on a CPU torch.
train-setup: setup
	.venv/bin/pip install -q -r requirements-train.txt
	.venv/bin/pip install -q --no-deps llamafactory==0.9.5

# The web demo's page, which the server serves: needs node 20.19 or newer.
page: web_demo/client/dist/index.html

PAGE_SOURCES := $(shell find web_demo/client/src web_demo/client/public -type f)

web_demo/client/dist/index.html: web_demo/client/node_modules/.package-lock.json $(PAGE_SOURCES) \
  web_demo/client/index.html web_demo/client/vite.config.ts
	cd web_demo/client && npm run build

web_demo/client/node_modules/.package-lock.json: web_demo/client/package-lock.json
	cd web_demo/client && npm ci
	touch $@

page-test: page
	cd web_demo/client && npm test
