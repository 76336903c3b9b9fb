# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""A tiny folder that vLLM can serve, and spoken questions to ask it."""

import json
import shutil
from pathlib import Path
from random import Random

import soundfile
import soxr
import torch

from funaudiochat.configuration_funaudiochat import FunAudioChatConfig
from funaudiochat.modeling_funaudiochat import FunAudioChatForConditionalGeneration
from tests.helpers import ROOT
from tests.helpers.golden import TINY_A
from training.nano.domain import Domain

QUESTIONS = ROOT / "outputs" / "serving" / "questions"
_HEAD_DIM = 32  # the attention of vLLM's CPU build refuses tiny_a's 24
_SPREAD = 0.2  # weights wide enough that the scores of two texts differ by more than rounding


def build_tiny_model(folder: Path) -> Path:
    """The golden folder's tokenizers with random weights of a size vLLM's CPU build takes.

    Its generation_config.json has settings that a server would take from it unless told otherwise.
    """
    shutil.copytree(TINY_A, folder, dirs_exist_ok=True)
    config = FunAudioChatConfig.from_pretrained(TINY_A)
    config.text_config.head_dim = _HEAD_DIM
    torch.manual_seed(0)
    model = FunAudioChatForConditionalGeneration(config)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=_SPREAD)
    settings = json.loads((TINY_A / "generation_config.json").read_text())
    sampled = {"do_sample": True, "temperature": 0.8, "top_p": 0.9, "repetition_penalty": 1.2}
    model.generation_config.update(**settings, **sampled)
    model.save_pretrained(folder)
    return folder


def speak_questions(folder: Path, count: int) -> list[Path]:
    """Speak unseen wordings of Nano's domain at 16 kHz with the package ``hibari-tts``."""
    from training.nano.voices import ANSWER_HZ, hibari

    folder.mkdir(parents=True, exist_ok=True)
    domain, paths = Domain(), []
    for index in range(count):
        path = folder / f"{index:02d}.wav"
        if not path.is_file():
            text = domain.dialogue("test_paraphrase", index).messages[0].text
            waveform = hibari()(text, speed=1.0, seed=Random(index).randrange(2**31))
            soundfile.write(path, soxr.resample(waveform, ANSWER_HZ, 16000), 16000)
            path.with_suffix(".txt").write_text(text + "\n")
        paths.append(path)
    return paths
