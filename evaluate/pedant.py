# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""PEDANT, SD-QA's second scorer, in a Python of its own.

qa-metrics 0.2.17 pins scikit-learn 1.3.2 and numpy below 2, which the toolkit does not run with,
so it is asked through ``--pedant-python``; ``pedant_worker.py`` runs there.
"""

from pathlib import Path

from evaluate.core import Answer
from evaluate.isolated import run_isolated

VOICEBENCHS_VERSION = "0.2.17"
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
    found = run_isolated(
        "PEDANT", python, "pedant_worker.py", [str(models)] if models else [], rows, _TIMEOUT_S
    )
    return found["verdicts"], found["version"]
