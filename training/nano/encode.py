# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Tokenize every spoken answer.

    python -m training.nano.encode

Adds speech tokens by the exported tokenizer to every line of ``answers.jsonl``: ``codes`` (25 a
second) and ``row_codes``, cut or filled to the whole groups that training rows hold. Tokens of
another tokenizer are replaced: the tokenizer's hash is kept beside the manifest.
"""

import argparse
import hashlib
import json
import logging
from pathlib import Path

import numpy as np
from onnxruntime import InferenceSession, SessionOptions
from torch import Tensor, from_numpy

from training.nano.data import WORK, read_jsonl, write_jsonl
from training.nano.features import WHISPER_HZ, read_waveform, whisper_mel
from training.nano.train_tokenizer import OUTPUT
from training.speech_tokens import whole_groups

log = logging.getLogger(__name__)


def open_tokenizer(path: Path) -> InferenceSession:
    """Load the exported tokenizer, limited to one thread."""
    options = SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def tokens_of_mel(session: InferenceSession, mel: Tensor) -> list[int]:
    """Return the speech tokens of a Whisper spectrogram [mels, frames]."""
    feats, length = session.get_inputs()
    inputs = {feats.name: mel[None].numpy(), length.name: np.array([mel.shape[1]], np.int32)}
    return session.run(None, inputs)[0].flatten().tolist()


def encode_answer(session: InferenceSession, path: Path) -> dict[str, list[int]]:
    """Return the ``codes`` of an audio file and the ``row_codes`` of its training rows."""

    def tokens_of(waveform: np.ndarray) -> list[int]:
        return tokens_of_mel(session, whisper_mel(from_numpy(waveform)))

    waveform = read_waveform(path, WHISPER_HZ).numpy()
    tokens = tokens_of(waveform)
    return {"codes": tokens, "row_codes": whole_groups(tokens, waveform, tokens_of)}


def main() -> None:
    """Command line; see the module's text."""
    parser = argparse.ArgumentParser(description="Add speech tokens to the answers' manifest.")
    parser.add_argument("--work", type=Path, default=WORK, help="data folder")
    parser.add_argument("--tokenizer", type=Path, default=OUTPUT, help="ONNX file")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    manifest, stamp = args.work / "answers.jsonl", args.work / "answers.tokenizer"
    digest = hashlib.sha256(args.tokenizer.read_bytes()).hexdigest()
    current = stamp.exists() and stamp.read_text() == digest
    session, records = open_tokenizer(args.tokenizer), read_jsonl(manifest)
    for record in records:
        if not (current and "row_codes" in record):
            record.update(encode_answer(session, args.work / record["audio"]))
    write_jsonl(manifest, records)
    stamp.write_text(digest)
    used = {token for record in records for token in record["codes"]}
    log.info("%s", json.dumps({"answers": len(records), "tokens_used": len(used)}))


if __name__ == "__main__":
    main()
