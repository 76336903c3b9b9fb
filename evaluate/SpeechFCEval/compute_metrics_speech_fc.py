# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

r"""Score prediction files in the format of the reference's SpeechFCEval.

    python evaluate/SpeechFCEval/compute_metrics_speech_fc.py \
        --model fun-audio-chat-s2t --dataset SpeechFC-BFCL-Single [--result_dir result]
    python evaluate/SpeechFCEval/compute_metrics_speech_fc.py --predict_file FILE

A file holds JSON lines and is named ``RESULT_DIR/MODEL/DATASET/predict-MODEL-DATASET.json``. The
rows with their verdicts are written to ``record-...`` beside it. Such files can be written from a
run with ``funaudiochat eval export --format speechfc``.
"""

import argparse
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from evaluate.benchmarks.speech_fc import SETS, check
from evaluate.exchange import read_rows
from evaluate.records import write_json_lines
from evaluate.scorers.tool_calls import MalformedCall, read_calls
from funaudiochat.errors import FunAudioChatError


def set_of(name: str) -> str:
    """Find the set that a name contains, treating ``-`` and ``_`` as equal.

    Raises:
        FunAudioChatError: the name contains none.
    """
    plain = name.replace("-", "_").lower()
    for known in SETS:
        if known.lower() in plain:
            return known
    raise FunAudioChatError(
        f"{name} contains none of the set names {', '.join(SETS)}; pass --dataset"
    )


def record(row: dict[str, Any], rules: str) -> dict[str, Any]:
    """Add the verdict to a row, in the reference's fields."""
    reply = str(row.get("predict") or "")
    verdict = check(rules, row, reply)
    try:
        calls = [{call.name: call.arguments} for call in read_calls(reply)]
    except MalformedCall:
        calls = []
    return {
        **row,
        "valid_flag": verdict.valid,
        "error_type": verdict.error_type,
        "error_reasons": [] if verdict.valid else [verdict.error_type],
        "ground_truth_result": row.get("ground_truth"),
        "model_predict_result": calls,
        "model_predict_raw": reply,
    }


def score_file(path: Path, dataset: str) -> tuple[float, int, Counter[str]]:
    """Score a file and write its record file.

    Returns:
        The accuracy in per cent, the number of rows, and the counts of each kind of verdict.

    Raises:
        FunAudioChatError: the file cannot be read or is empty, or the set is unknown.
    """
    rules = SETS[set_of(dataset)][1]
    records = [record(row, rules) for row in read_rows(path)]
    if not records:
        raise FunAudioChatError(f"{path} contains no predictions")
    target = path.with_name(path.name.replace("predict-", "record-", 1))
    if target == path:
        target = path.with_name(f"record-{path.name}")
    write_json_lines(target, records)
    share = sum(row["valid_flag"] for row in records) / len(records)
    # The reference rounds ACEBench's accuracy to three decimals before converting to per cent.
    accuracy = 100 * round(share, 3) if rules == "acebench" else 100 * share
    return round(accuracy, 2), len(records), Counter(row["error_type"] for row in records)


def main() -> None:
    """Parse the command line, score the file and print the accuracy."""
    parser = argparse.ArgumentParser(description="Score SpeechFCEval prediction files.")
    parser.add_argument("--model", help="name of the model in the file's path")
    parser.add_argument("--dataset", help="name of the set, such as SpeechFC-BFCL-Single")
    parser.add_argument("--result_dir", type=Path, default=Path("result"))
    parser.add_argument("--predict_file", type=Path, help="path of a file at another location")
    args = parser.parse_args()
    path, dataset = args.predict_file, args.dataset
    if path is None:
        if not args.model or not dataset:
            parser.error("pass --model and --dataset, or --predict_file")
        path = args.result_dir / args.model / dataset / f"predict-{args.model}-{dataset}.json"
    accuracy, count, kinds = score_file(path, dataset or path.stem)
    for kind, number in kinds.most_common():
        print(f"{kind}: {number}")
    print(f"accuracy: {accuracy:.2f} % of {count}")


if __name__ == "__main__":
    try:
        main()
    except FunAudioChatError as error:
        sys.exit(f"error: {error}")
