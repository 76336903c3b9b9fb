# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""PEDANT, SD-QA's second scorer, in a Python of its own.

qa-metrics 0.2.17 pins scikit-learn 1.3.2 and numpy below 2, which the toolkit does not run with,
so it is asked through ``--pedant-python``; ``pedant_worker.py`` runs there.
"""

import json
import subprocess
from pathlib import Path

from evaluate.core import Answer, NotScored

VOICEBENCHS_VERSION = "0.2.17"
_WORKER = Path(__file__).with_name("pedant_worker.py")
_TIMEOUT_S = 3600


def pedant_verdicts(
    answers: list[Answer], python: Path, models: Path | None
) -> tuple[list[bool], str]:
    """Whether each reply gives the reference answer, and the version of qa-metrics that says so.

    Args:
        python: interpreter of an environment with qa-metrics 0.2.17.
        models: folder with ``lr_classifier`` and ``tf-idf_vectorizer``; None lets the package
            download them.

    Raises:
        NotScored: it does not run; the message holds its last line.
    """
    rows = [
        {
            "question": answer.fields["question"].lower(),
            "reference": answer.fields["reference"].lower(),
            "response": answer.text.lower(),
        }
        for answer in answers
    ]
    # -I: this folder's modules must not stand in for those of the standard library.
    command = [str(python), "-I", str(_WORKER), *([str(models)] if models else [])]
    try:
        done = subprocess.run(
            command, input=json.dumps(rows), capture_output=True, text=True, timeout=_TIMEOUT_S
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotScored(f"PEDANT does not run: {error}") from error
    if done.returncode:
        raise NotScored(f"PEDANT failed: {(done.stderr.strip().splitlines() or ['?'])[-1]}")
    found = json.loads(done.stdout.splitlines()[-1])
    return found["verdicts"], found["version"]
