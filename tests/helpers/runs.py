# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Short ways to run a model over a subset, to read its rows, and to make up answers."""

import json
from dataclasses import asdict

import pytest

from evaluate.benchmarks import select
from evaluate.records import load_predictions, subset_folder
from evaluate.run import InferOptions, infer
from evaluate.verdict import Answer
from tests.helpers import ROOT

GOLDEN = ROOT / "tests" / "golden" / "scorers"


def ask(name, model, mini, run, **options):
    """Run a model over a subset of the mini data."""
    ((benchmark, subset),) = select(name)
    return infer(benchmark, subset, model, InferOptions(mini, run, **options))


def rows(run, name):
    """Return the rows of a subset without what differs from run to run."""
    ((benchmark, subset),) = select(name)
    found = load_predictions(subset_folder(run, benchmark.name, subset.name))
    return [{**asdict(row), "seconds": None} for row in found]


def answer(text="", benchmark="b", subset="s", id_="0", **fields):
    """Return an answer with these fields of its item."""
    return Answer(benchmark, subset, id_, fields, "", text, text)


def cases(name):
    """Return the recorded cases of a scorer as test parameters."""
    recorded = json.loads((GOLDEN / f"{name}.json").read_text(encoding="utf-8"))["cases"]
    return [pytest.param(c["input"], c["expected"], id=c["id"]) for c in recorded]
