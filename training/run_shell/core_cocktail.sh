#!/usr/bin/env bash
# The whole recipe: [init,] pre-alignment, stage 1, merge, stage 2[, preference training].
#   bash run_shell/core_cocktail.sh [key=value ...]       fields for every training stage
# Environment:
#   MODEL                     joint checkpoint to begin with, or
#   LLM, AUDIO_ENCODER, HEAD  folders to make it of (`funaudiochat init`; CODES: of the codebook)
#   CONFIG_DIR                folder of the stages' configs (configs)
#   SAVES                     folder of what they make (saves)
#   ALPHA                     weight of stage 1 in the merge (0.5)
#   PAIRS                     data set of pairs; with it, preference training follows stage 2
# and what run.sh knows. The same command resumes: a finished stage is left
# alone, a stopped one continues from its last checkpoint. To repeat from a stage on, delete its
# folder in SAVES and those after it. Several nodes need SAVES in a folder they share.
set -euo pipefail
cd "$(dirname "$0")/.."
CONFIG_DIR=${CONFIG_DIR:-configs}
SAVES=${SAVES:-saves}
PYTHON=${PYTHON:-python}
export PYTHON
export PYTHONPATH="$(cd .. && pwd)${PYTHONPATH:+:$PYTHONPATH}"

wait_for() {  # a folder that the first node makes
  for _ in $(seq 1 1440); do
    [ -e "$SAVES/$1/.finished" ] && return
    sleep 5
  done
  echo "$1 was not made by the first node within two hours" >&2
  exit 1
}

make_folder() {  # NAME COMMAND...: run by the first node, whole or not at all
  local name=$1
  shift
  if [ ! -e "$SAVES/$name/.finished" ] && [ "${NODE_RANK:-0}" = 0 ]; then
    echo "== $name"
    rm -rf "$SAVES/$name"
    "$PYTHON" -m funaudiochat.cli "$@" --out "$SAVES/$name"
    touch "$SAVES/$name/.finished"
  fi
  wait_for "$name"
}

train() {  # NAME MODEL FIELD...
  local name=$1 model=$2 fresh=() checkpoint
  shift 2
  if [ ! -e "$SAVES/$name/.finished" ]; then
    echo "== $name"
    for checkpoint in "$SAVES/$name"/checkpoint-*; do  # what was stopped while it was written
      [ -e "$checkpoint/trainer_state.json" ] || rm -rf "$checkpoint"
    done
    compgen -G "$SAVES/$name/checkpoint-*" > /dev/null || fresh=(overwrite_output_dir=true)
    CONFIG_FILE="$CONFIG_DIR/$name.yaml" bash run_shell/run.sh \
      "model_name_or_path=$model" "output_dir=$SAVES/$name" "${fresh[@]}" "$@"
    [ "${NODE_RANK:-0}" != 0 ] || touch "$SAVES/$name/.finished"
  fi
  wait_for "$name"
}

if [ -n "${LLM:-}" ]; then
  make_folder init init --llm "$LLM" --audio-encoder "${AUDIO_ENCODER:?}" --head "${HEAD:?}" \
    --codes "${CODES:-6561}"
  MODEL=$SAVES/init
fi
train prealign "${MODEL:?give MODEL, or LLM, AUDIO_ENCODER and HEAD}" "$@"
train core_cocktail_stage1 "$SAVES/prealign" "$@"
make_folder merged merge --trained "$SAVES/core_cocktail_stage1" --base "$SAVES/prealign" \
  --alpha "${ALPHA:-0.5}"
train core_cocktail_stage2 "$SAVES/merged" "$@"
if [ -n "${PAIRS:-}" ]; then
  train dpo "$SAVES/core_cocktail_stage2" "$@" "dataset=$PAIRS" packing=false neat_packing=false
fi
