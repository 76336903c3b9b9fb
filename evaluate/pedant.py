# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""PEDANT, the second scorer of SD-QA, in an environment of its own.

qa-metrics 0.2.17 pins scikit-learn 1.3.2 and numpy below 2, which conflicts with the toolkit. It is
therefore run by the interpreter given with ``--pedant-python``, in ``pedant_worker.py``.
"""

from pathlib import Path

from evaluate.isolated import run_isolated
from evaluate.verdict import Answer

VOICEBENCH_VERSION = "0.2.17"
_TIMEOUT_S = 3600


def pedant_verdicts(
    answers: list[Answer], python: Path, models: Path | None
) -> tuple[list[bool], str]:
    """Decide for each answer whether it gives the reference answer.

    Args:
        answers: answers with the fields ``question`` and ``reference``.
        python: interpreter of an environment with qa-metrics 0.2.17.
        models: folder with ``lr_classifier`` and ``tf-idf_vectorizer``; None lets the package
            download them.

    Returns:
        The decisions, and the version of qa-metrics that made them.

    Raises:
        NotScored: PEDANT cannot be run; the message says why.
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
