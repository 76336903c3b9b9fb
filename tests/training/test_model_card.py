# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""The model card of a run, and its upload."""

import json

import pytest
from huggingface_hub import HfApi, ModelCard, RepoUrl

from funaudiochat.errors import FunAudioChatError
from tests.helpers.tiny_runs import needs_llamafactory, train_here
from training import model_card
from training.launch import config_problems

HUB = {"push_to_hub": True, "hub_model_id": "someone/tiny", "hub_token": "secret"}


@pytest.fixture
def uploads(monkeypatch):
    """Repositories made and folders uploaded, in place of the hub."""
    made: list[dict] = []

    def create_repo(self, repo_id, **options):
        made.append({"token": self.token, **options})
        return RepoUrl(f"https://huggingface.co/{repo_id}")

    def upload_folder(self, **options):
        names = {path.name for path in options["folder_path"].iterdir()}
        made.append({**options, "names": names})

    monkeypatch.setattr(HfApi, "create_repo", create_repo)
    monkeypatch.setattr(HfApi, "upload_folder", upload_folder)
    return made


def finished(folder, **files):
    """Write the state of a run that ended."""
    history = [{"loss": 3.0, "text_loss": 2.0}, {"loss": 1.5, "text_loss": 1.0}, {"train_loss": 2}]
    (folder / "trainer_state.json").write_text(
        json.dumps({"global_step": 7, "log_history": history})
    )
    for name, text in files.items():
        (folder / name).write_text(text)
    return folder


def test_a_card_tells_config_and_losses_and_no_paths_or_tokens(tmp_path):
    config = {"model_name_or_path": str(tmp_path / "Base"), "stage": "sft", "dataset": "own",
              "finetuning_type": "full", "learning_rate": 1e-4, "dataset_dir": str(tmp_path),
              "output_dir": str(tmp_path), "hf_hub_token": "secret", **HUB}  # fmt: skip
    target = model_card.take_hub_target(config)
    assert target == model_card.HubTarget("someone/tiny", True, "secret")
    model_card.write_card(finished(tmp_path), config)
    text = (tmp_path / "README.md").read_text()
    assert "Trained from Base: 7 steps on own." in text and "| `learning_rate` | `0.0001` |" in text
    assert "| `loss` | 1.5 |" in text and "train_loss" not in text
    assert "secret" not in text and str(tmp_path) not in text
    assert ModelCard.load(tmp_path / "README.md").data.tags == ["fun-audio-chat", "sft", "full"]
    (tmp_path / "adapter_config.json").write_text("{}")
    model_card.write_card(tmp_path, config | {"finetuning_type": "lora"})
    assert "merge-lora FOLDER --base Base" in (tmp_path / "README.md").read_text()
    for damaged in ("{", "[]", "{}"):
        (tmp_path / "trainer_state.json").write_text(damaged)
        with pytest.raises(FunAudioChatError, match="no readable trainer_state.json"):
            model_card.write_card(tmp_path, config)


def test_a_failed_upload_says_how_to_repeat_it(tmp_path, monkeypatch):
    def refuse(self, *args, **options):
        raise OSError("no route")

    monkeypatch.setattr(HfApi, "create_repo", refuse)
    with pytest.raises(FunAudioChatError, match=r"no route\).*hf upload someone/tiny"):
        model_card.upload(tmp_path, model_card.HubTarget("someone/tiny"))


def test_what_an_upload_needs_is_asked_before_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr("training.launch.get_token", lambda: None)
    config = {"model_name_or_path": str(tmp_path), "push_to_hub": True}
    told = "\n".join(config_problems(config))
    assert "hub_model_id=USER/NAME" in told and "hf auth login" in told
    assert "push_to_hub" not in "\n".join(config_problems(config | HUB))


@needs_llamafactory
def test_a_run_is_uploaded_when_its_folder_is_complete(sources, start, tmp_path, uploads):
    out = train_here(sources["data"], start, tmp_path / "out", max_steps=1, **HUB)
    repository, folder = uploads
    assert repository["private"] and repository["token"] == "secret"
    assert folder["repo_id"] == "someone/tiny" and folder["folder_path"] == out
    assert {"README.md", "model.safetensors", "preprocessor_config.json"} <= folder["names"]
    assert "checkpoint-*" in folder["ignore_patterns"]
