#!/usr/bin/env bash
# Train by a config: CONFIG_FILE=configs/sft.yaml bash run_shell/run.sh [key=value ...]
# Environment: CONFIG_FILE, LOG_DIR, NPROC_PER_NODE, NNODES, NODE_RANK, MASTER_ADDR, MASTER_PORT.
set -euo pipefail
cd "$(dirname "$0")/.."
CONFIG_FILE=${CONFIG_FILE:-configs/sft.yaml}
LOG_DIR=${LOG_DIR:-logs}
mkdir -p "$LOG_DIR"
log="$LOG_DIR/$(basename "$CONFIG_FILE" .yaml)_node${NODE_RANK:-0}.log"
PYTHONPATH="$(cd .. && pwd)${PYTHONPATH:+:$PYTHONPATH}" \
  "${PYTHON:-python}" -m training.launch "$CONFIG_FILE" "$@" 2>&1 | tee "$log"
