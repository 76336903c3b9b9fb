# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Worker that runs in the embedder's environment: embeds texts from standard input.

Arguments: model folder, device, output file of the vectors (float32). It must not import anything
of the toolkit.
"""

import json
import sys
from array import array

_TEXTS_AT_A_TIME = 8
_LONGEST_TOKENS = 4096


def main(folder: str, device: str, vectors: str) -> None:
    """Embed the texts and print the version of transformers."""
    import torch
    import transformers

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    model = transformers.AutoModel.from_pretrained(folder, trust_remote_code=True).to(device).eval()
    texts = json.load(sys.stdin)
    with open(vectors, "wb") as file:
        for start in range(0, len(texts), _TEXTS_AT_A_TIME):
            chunk = texts[start : start + _TEXTS_AT_A_TIME]
            for row in model.encode(chunk, max_length=_LONGEST_TOKENS).float().cpu().tolist():
                array("f", row).tofile(file)
    print(json.dumps({"transformers": transformers.__version__}))


if __name__ == "__main__":
    main(*sys.argv[1:])
