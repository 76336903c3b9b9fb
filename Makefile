PYTHON ?= python3.11

.PHONY: setup test lint

setup:
	$(PYTHON) -m venv .venv
	.venv/bin/pip install -q torch==2.13.0
	.venv/bin/pip install -q -e '.[dev]'

test:
	.venv/bin/python -m pytest -q

lint:
	.venv/bin/ruff check .
	.venv/bin/mypy funaudiochat
