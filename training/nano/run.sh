#!/usr/bin/env bash
# Train Nano from nothing to the published folders; every step resumes where it was stopped.
# What it needs and how long it takes: training/nano/README.md
#
#   OPEN_TEXT="FILE..."   sentences to hear and to read aloud, one a line (optional)
#   REAL_SPEECH=FOLDER    recordings of people with their texts (optional)
#   HEAD=FOLDER           joint model whose head is taken over, and the published speech tokenizer
#                         and detokenizer with it, so that none of them is trained (optional)
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${PYTHON:-.venv/bin/python}
models=training/nano/work/models

# A training step frees and takes the same large blocks again and again; giving them back to the
# system in between costs up to two thirds of the time.
export MALLOC_MMAP_THRESHOLD_=4294967296 MALLOC_TRIM_THRESHOLD_=17179869184 MALLOC_ARENA_MAX=1
export GLIBC_TUNABLES=glibc.malloc.hugetlb=1
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}

finished() { [ -f "$models/$1/model.safetensors" ]; }
# stage NAME [PROCESSES]
stage() {
  finished "$1" ||
    NPROC_PER_NODE=${2:-1} "$python" -m training.launch "training/nano/configs/$1.yaml"
}

# The speech that the ears learn from, and all that is asked and answered.
# shellcheck disable=SC2086  # several files
"$python" -m training.nano.speech --jobs "$(nproc)" ${OPEN_TEXT:+--text $OPEN_TEXT} \
  ${REAL_SPEECH:+--real-speech "$REAL_SPEECH"}
# shellcheck disable=SC2086
"$python" -m training.nano.data --jobs "$(nproc)" ${OPEN_TEXT:+--text $OPEN_TEXT}
# The voice.
[ -n "${HEAD:-}" ] || "$python" -m training.nano.train_tokenizer
"$python" -m training.nano.encode
if [ -z "${HEAD:-}" ]; then
  "$python" -m training.nano.train_vocoder
  "$python" -m training.nano.train_flow
  "$python" -m training.nano.export
fi
# The language model, the ears, and the head.
"$python" -m training.nano.rows
finished new || "$python" -m training.nano.new_model --audio-encoder packaged
stage questions 2
stage text 2
"$python" -m training.nano.train_ears --llm models/text --steps 1100
finished begin || "$python" -m training.nano.new_model --llm models/text \
  --ears ears_words_best.pt ${HEAD:+--head "$HEAD"}
stage prealign 2
# Both together (Core-Cocktail).
stage stage1 2
finished merged || "$python" -m funaudiochat.cli merge \
  --trained "$models/stage1" --base "$models/text" --alpha 0.8 --out "$models/merged"
stage stage2 2
"$python" -m training.nano.export_model
"$python" -m training.nano.score --before "$models/text"
"$python" -m training.nano.score_strangers ${REAL_SPEECH:+--real-speech "$REAL_SPEECH"}
