# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Merging a trained checkpoint with its base."""

import json
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from funaudiochat.errors import CheckpointError
from funaudiochat.modeling_funaudiochat import FunAudioChatForConditionalGeneration
from tests.helpers.golden import TINY_A
from training.merge import PREFIX, merge


@pytest.fixture
def trained(tmp_path):
    folder = tmp_path / "trained"
    shutil.copytree(TINY_A, folder)
    weights = load_file(folder / "model.safetensors")
    weights = {key: value + 0.25 for key, value in weights.items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def weights_of(folder):
    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_the_language_model_is_mixed_and_the_rest_is_kept(trained, tmp_path, alpha):
    report = merge(trained, TINY_A, tmp_path / "out", alpha)
    base, tuned, out = (weights_of(f) for f in (TINY_A, trained, tmp_path / "out"))
    for key, value in out.items():
        if not key.startswith(PREFIX):
            assert torch.equal(value, tuned[key])
        elif alpha in (0, 1):
            assert torch.equal(value, tuned[key] if alpha else base[key])
        else:
            expected = alpha * tuned[key] + (1 - alpha) * base[key]
            torch.testing.assert_close(value, expected, atol=1e-6, rtol=0)
    assert set(report.merged) == {key for key in out if key.startswith(PREFIX)}
    assert len(report.merged) + len(report.kept) == len(out)
    assert report.largest_change == pytest.approx(0.25 * (1 - alpha), abs=1e-6)
    FunAudioChatForConditionalGeneration.from_pretrained(tmp_path / "out")


def test_a_plain_text_model_with_tied_projection_is_a_base(trained, tmp_path):
    base = {
        key.removeprefix(PREFIX): value
        for key, value in weights_of(TINY_A).items()
        if key.startswith(PREFIX) and "lm_head" not in key
    }
    (tmp_path / "text").mkdir()
    save_file(base, tmp_path / "text" / "model.safetensors")
    merge(trained, tmp_path / "text", tmp_path / "out", 0.0)
    out = weights_of(tmp_path / "out")
    embedding = out[PREFIX + "model.embed_tokens.weight"]
    assert torch.equal(embedding, base["model.embed_tokens.weight"])
    if PREFIX + "lm_head.weight" in out:
        assert torch.equal(out[PREFIX + "lm_head.weight"], embedding)


def test_what_does_not_fit_is_refused(trained, tmp_path):
    with pytest.raises(CheckpointError, match="three different folders"):
        merge(trained, trained, tmp_path / "out")
    with pytest.raises(ValueError, match="between 0 and 1"):
        merge(trained, TINY_A, tmp_path / "out", 1.5)
    other = tmp_path / "other"
    shutil.copytree(trained, other)
    with pytest.raises(CheckpointError, match="hold the same language model"):
        merge(trained, other, tmp_path / "out")
    (other / "vocab.json").write_text(json.dumps({"a": 0}))
    with pytest.raises(CheckpointError, match="different vocabularies"):
        merge(trained, other, tmp_path / "out")
    (other / "vocab.json").unlink()
    weights = weights_of(other)
    key = PREFIX + "model.norm.weight"
    save_file({**weights, key: weights[key][:-1]}, other / "model.safetensors")
    with pytest.raises(CheckpointError, match="model.norm.weight has shape"):
        merge(trained, other, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_memory_is_that_of_a_shard_whatever_the_size(tmp_path):
    """Twelve shards of 16 MB each are merged by a process that grows by less than four of them."""
    shard_bytes, shards = 16 << 20, 12
    for folder, value in (("trained", 1.0), ("base", 2.0)):
        (tmp_path / folder / "speech_tokenizer").mkdir(parents=True)
        names = {
            f"{PREFIX}w{n}": f"model-{n:05d}-of-{shards:05d}.safetensors" for n in range(shards)
        }
        for key, name in names.items():
            save_file({key: torch.full((shard_bytes // 4,), value)}, tmp_path / folder / name)
        index = tmp_path / folder / "model.safetensors.index.json"
        index.write_text(json.dumps({"weight_map": names}))
    script = f"""
import resource, sys
from pathlib import Path
import torch, training.merge
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
folder = Path({str(tmp_path)!r})
report = training.merge.merge(folder / "trained", folder / "base", folder / "out")
assert len(report.merged) == {shards} and report.largest_change == 0.5
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) * 1024 < 4 * shard_bytes
    out = load_file(tmp_path / "out" / f"model-00003-of-{shards:05d}.safetensors")
    assert torch.equal(out[f"{PREFIX}w3"], torch.full((shard_bytes // 4,), 1.5))


def test_logs_of_the_training_stay_behind(trained, tmp_path):
    (trained / "trainer_state.json").write_text("{}")
    (trained / "model.fp32.safetensors").write_bytes(b"another precision, not read by loaders")
    merge(trained, TINY_A, tmp_path / "out")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert "config.json" in names and not names & {"trainer_state.json", "model.fp32.safetensors"}
