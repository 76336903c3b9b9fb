# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Examples and the command line as a user runs them, on tiny folders."""

import importlib.util
import json
import shutil

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file, save_file

from funaudiochat.audio import load_audio
from funaudiochat.cosyvoice3.voices import speaker_vector
from funaudiochat.voice_chat import VoiceChat
from tests.helpers import ROOT
from tests.helpers.commands import CLI, run
from tests.helpers.cosyvoice3_folders import build_cosyvoice3_folder
from tests.helpers.golden import TINY_A
from tests.helpers.onnx_folders import build_campplus


@pytest.fixture(scope="module")
def tts(tmp_path_factory):
    folder = build_cosyvoice3_folder(tmp_path_factory.mktemp("models") / "tts")
    save_file({"anna": torch.linspace(-1, 1, 192)}, folder / "voices.safetensors")
    return folder


def test_s2t_example_prints_the_answer(tmp_path):
    done = run(
        ROOT / "examples/infer_s2t.py",
        "--model-path",
        TINY_A,
        "--instruction",
        "Hello",
        cwd=tmp_path,
    )
    chat = VoiceChat.from_pretrained(TINY_A, device="cpu")
    question = ROOT / "examples/question.wav"
    assert done.stdout == chat.ask(text="Hello", audio=question, speech=False).text + "\n"
    assert "deprecated" not in done.stderr


def test_s2s_example_writes_playable_audio_of_the_answers_length(tmp_path, tts):
    question = ROOT / "examples/question.wav"
    done = run(
        ROOT / "examples/infer_s2s.py",
        "--model-path",
        TINY_A,
        "--tts-path",
        tts,
        "--audio",
        question,
        question,
        "--output",
        "out",
        "--voice",
        "anna",
        "--greedy",
        "--seed",
        1,
        "--max-new-tokens",
        12,
        cwd=tmp_path,
    )
    for number in (1, 2):
        waveform, rate = soundfile.read(tmp_path / "out" / f"answer_{number}.wav")
        assert rate == 24000 and len(waveform) and len(waveform) % 960 == 0
        assert f"answer_{number}.wav: {len(waveform) / 24000:.2f} s" in done.stdout


def test_function_calling_example_speaks_the_result_of_the_call(tmp_path):
    done = run(
        ROOT / "examples/infer_function_calling.py",
        "--model-path",
        ROOT / "pretrained_models/Fun-Audio-Chat-Nano",
        "--tts-path",
        ROOT / "pretrained_models/Fun-CosyVoice3-Nano",
        cwd=tmp_path,
    )
    opened, call, closed, answer = done.stdout.splitlines()
    assert (opened, closed) == ("<tool_call>", "</tool_call>")
    called = json.loads(call)
    assert called["name"] == "get_weather" and set(called["arguments"]) == {"city"}
    assert called["arguments"]["city"] in answer
    assert "sunny" in answer and "twenty degrees" in answer
    waveform, rate = soundfile.read(tmp_path / "outputs/tool_answer.wav")
    assert rate == 24000 and len(waveform) / rate > 1.5 and np.abs(waveform).max() > 0.1


def test_commands_answer_and_summarise(tmp_path, tts):
    question = ROOT / "examples/question.wav"
    done = run(
        *CLI,
        "s2s",
        question,
        "--model-path",
        TINY_A,
        "--tts-path",
        tts,
        "--greedy",
        "--max-new-tokens",
        12,
        cwd=tmp_path,
    )
    assert "real-time factor" in done.stdout and "answer_1.wav" in done.stdout
    assert soundfile.info(tmp_path / "outputs/answer_1.wav").samplerate == 24000
    text, seconds = run(*CLI, "s2t", question, "--model-path", TINY_A, cwd=tmp_path).stdout.rsplit(
        "\n", 2
    )[:2]
    chat = VoiceChat.from_pretrained(TINY_A, device="cpu")
    assert text == chat.ask(audio=question, speech=False).text
    assert seconds.endswith(" s") and float(seconds[:-2]) > 0


def test_chat_takes_text_and_files_and_survives_bad_ones(tmp_path, tts):
    (tmp_path / "bad.wav").write_bytes(b"RIFF")
    long_text = "long " * 60 + "v1.0"
    lines = ["hello", "bad.wav", long_text, f"{ROOT}/examples/question.wav", "/reset", "/quit"]
    done = run(
        *CLI,
        "chat",
        "--model-path",
        TINY_A,
        "--tts-path",
        tts,
        "--max-new-tokens",
        6,
        cwd=tmp_path,
        stdin="\n".join(lines) + "\n",
    )
    assert done.stdout.count("bad.wav is not an audio file") == 1
    written = sorted(path.name for path in (tmp_path / "outputs").iterdir())
    assert written == ["answer_1.wav", "answer_2.wav", "answer_3.wav"]
    assert [f"outputs/{name}" in done.stdout for name in written] == [True] * 3


def test_bad_input_is_one_line_with_a_remedy(tmp_path, tts):
    question = ROOT / "examples/question.wav"
    for command in (["s2t", "nowhere.wav"], ["s2s", question, "nowhere.wav"]):
        missing = run(*CLI, *command, "--model-path", "nowhere", cwd=tmp_path, code=1)
        assert missing.stderr == "error: audio file not found: nowhere.wav\n"
    no_folder = run(*CLI, "s2t", question, "--model-path", "nowhere", cwd=tmp_path, code=1)
    assert "funaudiochat download" in no_folder.stderr
    swapped = run(
        ROOT / "examples/infer_s2s.py",
        "--model-path",
        tts,
        "--tts-path",
        TINY_A,
        cwd=tmp_path,
        code=1,
    )
    assert "error: " in swapped.stderr and "swapped?" in swapped.stderr
    voice = run(
        ROOT / "examples/infer_s2s.py",
        "--model-path",
        TINY_A,
        "--tts-path",
        tts,
        "--voice",
        "x",
        cwd=tmp_path,
        code=1,
    )
    assert "available: anna" in voice.stderr
    (tmp_path / "taken").touch()
    no_place = run(
        *CLI,
        "s2s",
        question,
        "--model-path",
        TINY_A,
        "--tts-path",
        tts,
        "--output",
        "taken",
        cwd=tmp_path,
        code=1,
    )
    assert "error: " in no_place.stderr and "taken" in no_place.stderr


def test_silence_is_answered_with_one_warning(tmp_path):
    soundfile.write(tmp_path / "silence.wav", [0.0] * 16000, 16000)
    done = run(*CLI, "s2t", "silence.wav", "--model-path", TINY_A, cwd=tmp_path)
    assert done.stderr.count("is all silence") == 1
    assert "warning: silence.wav is all silence" in done.stderr


def test_voices_are_listed_and_a_missing_network_is_named(tmp_path, tts):
    assert run(*CLI, "voices", "list", "--tts-path", tts, cwd=tmp_path).stdout.split() == ["anna"]
    done = run(
        *CLI,
        "voices",
        "add",
        "ben",
        ROOT / "examples/question.wav",
        "--tts-path",
        tts,
        cwd=tmp_path,
        code=1,
    )
    assert "campplus.onnx" in done.stderr


@pytest.mark.slow
def test_a_voice_is_added_to_the_folder_and_then_listed_and_spoken_with(tmp_path, tts):
    folder, question = tmp_path / "tts", ROOT / "examples/question.wav"
    shutil.copytree(tts, folder)
    build_campplus(folder / "campplus.onnx")
    done = run(*CLI, "voices", "add", "ben", question, "--tts-path", folder, cwd=tmp_path)
    assert done.stdout.startswith("ben -> ")
    voices = load_file(folder / "voices.safetensors")
    assert torch.equal(voices["anna"], torch.linspace(-1, 1, 192))
    prompt = load_audio(question, 16000)
    assert torch.equal(voices["ben"], speaker_vector(prompt, folder / "campplus.onnx"))
    listed = run(*CLI, "voices", "list", "--tts-path", folder, cwd=tmp_path).stdout.split()
    assert {"anna", "ben"} <= set(listed)
    run(
        *CLI,
        "s2s",
        question,
        "--model-path",
        TINY_A,
        "--tts-path",
        folder,
        "--voice",
        "ben",
        "--max-new-tokens",
        3,
        cwd=tmp_path,
    )


def test_doctor_names_what_is_missing_and_what_to_do(tmp_path):
    done = run(*CLI, "doctor", cwd=tmp_path, code=1)
    assert "torch" in done.stdout and "GiB of memory" in done.stdout
    assert "-> funaudiochat download" in done.stdout
    for name, use in (("accelerate", "device_map"), ("bitsandbytes", "8-bit")):
        line = next(line for line in done.stdout.splitlines() if line.startswith(name))
        assert importlib.util.find_spec(name) or f"pip install {name}" in line and use in line


def test_doctor_finds_broken_packages_that_stop_transformers(tmp_path):
    packages, names = tmp_path / "packages", ("torchaudio", "torchvision", "torchcodec")
    for name in names:
        (packages / name).mkdir(parents=True)
        (packages / name / "__init__.py").write_text(f"raise OSError('lib{name}.so')")
        (packages / f"{name}-2.0.dist-info").mkdir()
        (packages / f"{name}-2.0.dist-info" / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {name}\nVersion: 2.0\n"
        )
    # Whatever of transformers fails to import beside them, the doctor must not need it.
    (packages / "transformers").mkdir()
    (packages / "transformers" / "__init__.py").write_text("raise RuntimeError('torchvision')")
    done = run(*CLI, "doctor", cwd=tmp_path, code=1, path=str(packages))
    for name in names:
        assert f"2.0, broken: OSError: lib{name}.so" in done.stdout
        assert f"-> pip uninstall {name}" in done.stdout
