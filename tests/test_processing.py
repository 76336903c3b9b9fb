# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""The processor equals recorded results; saved folders keep the published layout."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from test_modeling import CASES, GOLDEN, load_model
from transformers import AutoProcessor

from funaudiochat.errors import AudioError, CheckpointError, FunAudioChatError
from funaudiochat.processing_funaudiochat import FunAudioChatProcessor
from funaudiochat.register import register_funaudiochat

FOLDER = GOLDEN / "model" / "models" / "tiny_a"
FEATURES = json.loads((CASES / "h1_features" / "case.json").read_text())
RECORDED = json.loads((CASES / "h2_processor" / "case.json").read_text())
RESULTS = {case["label"]: case for case in RECORDED["results"]}
BLANK = "<|audio_bos|><|AUDIO|><|audio_eos|>"


def load_processor() -> FunAudioChatProcessor:
    register_funaudiochat()
    return AutoProcessor.from_pretrained(FOLDER)


def wave_of(seconds: float, k: int) -> np.ndarray:
    """The recorded test wave, see the case's own text."""
    t = np.arange(round(seconds * 16000)) / 16000
    f1, f2, f3 = 180 + 37 * k, 523.25 + 11 * k, 1400 + 90 * k
    tones = (
        0.30 * np.sin(2 * np.pi * f1 * t)
        + 0.20 * np.sin(2 * np.pi * f2 * t + 0.7)
        + 0.10 * np.sin(2 * np.pi * (f3 + 150 * t) * t)
    )
    swell = 0.5 + 0.5 * np.sin(2 * np.pi * (1.3 + 0.1 * k) * t + 0.3 * k)
    return (tones * swell).astype(np.float32)


def entry(codes: list[int]) -> str:
    return json.dumps({"token": "".join(f"[AU{code:04d}]" for code in codes)})


@pytest.mark.parametrize("row", FEATURES["rows"], ids=lambda row: str(row["seconds"]))
def test_features_and_placeholders_equal_recorded(row):
    processor = load_processor()
    wave = wave_of(row["seconds"], row["k"])
    result = processor(text=BLANK, audio=[wave], return_tensors="pt")
    valid = row["inference"]["valid_frames"]
    first = result["input_features"][0, :, :valid]
    for name in ("mean", "std", "min", "max"):
        assert getattr(first, name)().item() == pytest.approx(row["inference"][name], abs=1e-4)
    assert int(result["feature_attention_mask"][0, :3000].sum()) == valid
    expected = row["processor"]
    if isinstance(expected, dict):
        assert list(result["speech_ids"].shape) == expected["speech_ids_shape"]
        assert int(result["speech_attention_mask"].sum()) == expected["speech_valid"]
        assert int((result["input_ids"] == 387).sum()) == expected["placeholders"]
        if expected["input_ids"]:
            assert result["input_ids"][0].tolist() == expected["input_ids"]
    else:
        assert result["input_ids"][0].tolist() == [388, 389]


def test_mel_equals_recorded_in_inference_and_training():
    processor, recorded = load_processor(), load_file(CASES / "h1_features/outputs.safetensors")
    rows = {row["seconds"]: row["k"] for row in FEATURES["rows"]}
    for seconds in (0.5, 1.0):
        wave = wave_of(seconds, rows[seconds])
        inference = processor(text=BLANK, audio=[wave], return_tensors="pt").input_features[0]
        training = processor(
            text=BLANK, audio=[wave], audio_padding="longest", return_tensors="pt"
        ).input_features[0]
        frames = round(seconds * 100)
        torch.testing.assert_close(
            inference[:, :frames], recorded[f"inference_{seconds}"], atol=1e-4, rtol=0
        )
        torch.testing.assert_close(training, recorded[f"training_{seconds}"], atol=1e-4, rtol=0)
    for seconds in (3.21, 31.0):
        wave = wave_of(seconds, rows[seconds])
        result = processor(text=BLANK, audio=[wave], return_tensors="pt").input_features[0]
        index = recorded[f"frame_index_{seconds}"]
        torch.testing.assert_close(
            result[:, index], recorded[f"frames_{seconds}"], atol=1e-4, rtol=0
        )


@pytest.mark.parametrize(
    "row", [r for r in FEATURES["rows"] if r["seconds"] <= 30], ids=lambda row: str(row["seconds"])
)
def test_training_features_equal_recorded(row):
    result = load_processor()(
        text=BLANK, audio=[wave_of(row["seconds"], row["k"])], audio_padding="longest",
        return_tensors="pt",
    )
    features, expected = result["input_features"], row["training"]
    assert list(features.shape) == expected["features_shape"]
    assert result["feature_attention_mask"].shape[1] == features.shape[2]
    for name in ("mean", "std", "min", "max"):
        assert getattr(features, name)().item() == pytest.approx(expected[name], abs=1e-4)


def test_a_training_batch_and_the_mel_filters_equal_recorded():
    processor, recorded = load_processor(), load_file(CASES / "h1_features/outputs.safetensors")
    rows = {row["seconds"]: row["k"] for row in FEATURES["rows"]}
    waves = [wave_of(seconds, rows[seconds]) for seconds in (0.5, 1.0)]
    result = processor(
        text=[BLANK, BLANK], audio=waves, audio_padding="longest", return_tensors="pt"
    )
    mask = result["feature_attention_mask"]
    assert mask.tolist() == recorded["batch_mask_training"].tolist()
    torch.testing.assert_close(
        result["input_features"], recorded["batch_features_training"], atol=1e-4, rtol=0
    )
    filters = torch.as_tensor(processor.feature_extractor.mel_filters).float()
    torch.testing.assert_close(filters, recorded["mel_filters"].float(), atol=1e-6, rtol=0)


def test_a_batch_without_a_sound_to_take_a_spectrum_of_is_refused():
    with pytest.raises(AudioError, match="201 samples"):
        load_processor()(text=BLANK, audio=[np.zeros(200)], audio_padding="longest")


@pytest.mark.parametrize("text", [None, 3, [], [None]])
def test_what_is_no_text_is_refused(text):
    with pytest.raises(FunAudioChatError, match="one text or a list of texts"):
        load_processor()(text=text)


def test_sound_past_30_s_is_encoded_like_a_sound_of_its_own():
    processor, model = load_processor(), load_model()
    wave = wave_of(63.0, 2)
    whole = processor(text=BLANK, audio=[wave], return_tensors="pt")
    assert whole["feature_attention_mask"].sum() == 6300

    def encode(inputs):
        mask = inputs["feature_attention_mask"].bool()
        with torch.no_grad():
            return model.continuous_audio_tower(
                inputs["input_features"].transpose(0, 1)[:, mask], mask.sum(1),
                speech_maxlen=inputs["speech_ids"].shape[1],
            ).last_hidden_state[0]

    pieces = [wave[:480000], wave[480000:960000], wave[960000:]]
    parts = [encode(processor(text=BLANK, audio=[p], return_tensors="pt")) for p in pieces]
    torch.testing.assert_close(encode(whole), torch.cat(parts), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "label, text, audio",
    [
        ("token-only json entry", "say <|audio_bos|><|AUDIO|><|audio_eos|>", [[1, 2, 3, 4, 5, 6]]),
        ("bare placeholder gets bos and eos", "say <|AUDIO|> now", [[1, 2]]),
        ("only bos around placeholder", "say <|audio_bos|><|AUDIO|> now", [[1, 2]]),
        ("two entries of unequal length", f"{BLANK} and {BLANK}", [[1] * 3, [2] * 7]),
        ("no audio", None, None),
    ],
)
def test_outputs_equal_recorded(label, text, audio):
    processor, recorded = load_processor(), RESULTS[label]
    if text is None:
        text = processor.tokenizer.decode(recorded["input_ids"][0])
    entries = None if audio is None else [entry(codes) for codes in audio]
    result = processor(text=text, audio=entries, return_tensors="pt")
    expected = {key: value for key, value in recorded.items() if key != "label"}
    assert {key: value.tolist() for key, value in result.items()} == expected


def test_batch_of_two_texts_equals_recorded():
    processor, recorded = load_processor(), RESULTS["waves, batch of two texts"]
    waves = [wave_of(0.2, 0), wave_of(0.45, 1)]
    result = processor(text=[BLANK, f"hi {BLANK}"], audio=waves, return_tensors="pt")
    for key in ("input_ids", "attention_mask", "speech_ids", "speech_attention_mask"):
        assert result[key].tolist() == recorded[key]
    assert list(result["input_features"].shape) == recorded["input_features"]
    assert result["feature_exist_mask"].tolist() == recorded["feature_exist_mask"]


def test_a_wrong_number_of_audios_names_both_numbers():
    with pytest.raises(ValueError, match=RESULTS["count mismatch"]["message"].replace("|", r"\|")):
        load_processor()(text="<|AUDIO|> <|AUDIO|>", audio=[entry([1])])


def test_template_and_tokenizers_equal_recorded():
    processor = load_processor()
    messages = RECORDED["conversation"]
    for key, flag in (("chat_text", True), ("no_generation_prompt", False)):
        text = processor.apply_chat_template(messages, add_generation_prompt=flag, tokenize=False)
        assert text == RECORDED["chat"][key]
    for text, ids in RECORDED["text_tokenizer"].items():
        assert processor.tokenizer(text).input_ids == ids
    for text, ids in RECORDED["speech_tokenizer"].items():
        assert processor.speech_tokenizer(text).input_ids == ids
    for ids, text in RECORDED["speech_decode"].items():
        assert processor.speech_tokenizer.decode(json.loads(ids)) == text


def test_saved_folder_has_the_published_layout_and_loads_again(tmp_path):
    processor = load_processor()
    processor.save_pretrained(tmp_path)
    for name in (
        "processor_config.json", "preprocessor_config.json", "tokenizer.json", "vocab.json",
        "merges.txt", "added_tokens.json", "special_tokens_map.json", "chat_template.jinja",
        "speech_tokenizer/tokenizer.json", "speech_tokenizer/tokenizer_config.json",
    ):
        assert (tmp_path / name).exists(), name
    saved, published = (
        json.loads((folder / "processor_config.json").read_text()) for folder in (tmp_path, FOLDER)
    )
    assert saved == published
    saved, published = (
        json.loads((folder / "preprocessor_config.json").read_text())
        for folder in (tmp_path, FOLDER)
    )
    assert {**saved, **published} == saved
    assert saved.keys() - published.keys() <= {"processor_class"}
    tokenizer_config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert tokenizer_config["tokenizer_class"] == "Qwen2Tokenizer"
    for folder in ("", "speech_tokenizer"):
        for file in ("tokenizer_config.json", "special_tokens_map.json"):
            mine, theirs = (
                json.loads((base / folder / file).read_text()) for base in (tmp_path, FOLDER)
            )
            named = {mine.get("eos_token"), mine.get("pad_token")}
            extra = theirs.get("additional_special_tokens", [])
            assert set(mine.get("additional_special_tokens", [])) == set(extra) - named
    again = AutoProcessor.from_pretrained(tmp_path)
    for text, ids in RECORDED["text_tokenizer"].items():
        assert again.tokenizer(text).input_ids == ids
    assert again.speech_tokenizer("[AU0007]").input_ids == [7]
    assert again.audio_group_size == 5


def test_bad_waves_are_refused_with_cause_and_remedy():
    processor = load_processor()
    for bad, message in (
        (np.zeros((2, 16000)), "shape"),
        (np.array([0.0, np.nan] * 400), "NaN"),
        ("question.wav", "JSON object"),
        ({"text": "hello"}, "neither 'token' nor 'path'"),
    ):
        with pytest.raises(AudioError, match=message):
            processor(text=BLANK, audio=[bad])
    with pytest.raises(AudioError, match="44100 Hz"):
        processor(text=BLANK, audio=[np.zeros(44100)], sampling_rate=44100)


def test_a_folder_without_speech_tokenizer_is_named(tmp_path):
    shutil.copytree(FOLDER, tmp_path / "model", ignore=shutil.ignore_patterns("speech_tokenizer"))
    with pytest.raises(CheckpointError, match="speech_tokenizer/"):
        FunAudioChatProcessor.from_pretrained(tmp_path / "model")


@pytest.mark.parametrize(
    "name, field, value",
    [
        ("preprocessor_config.json", "n_samples", 0),
        ("preprocessor_config.json", "hop_length", -160),
        ("speech_tokenizer/tokenizer_config.json", "audio_group_size", 0),
        ("speech_tokenizer/tokenizer_config.json", "audio_group_size", "many"),
        ("processor_config.json", "audio_token", 5),
        ("processor_config.json", "audio_bos_token", None),
        ("processor_config.json", "audio_pad_token", ""),
        ("tokenizer_config.json", "pad_token", None),
    ],
)
def test_wrong_sizes_and_tokens_are_named_with_their_file(tmp_path, name, field, value):
    shutil.copytree(FOLDER, tmp_path / "model")
    path = tmp_path / "model" / name
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: value, "chunk_length": 0}))
    with pytest.raises(CheckpointError, match=f"{name} is wrong: .*{field} is"):
        FunAudioChatProcessor.from_pretrained(tmp_path / "model")


@pytest.mark.parametrize("name", ["tokenizer.json", "preprocessor_config.json"])
def test_damaged_processor_files_are_one_clear_error(tmp_path, name):
    shutil.copytree(FOLDER, tmp_path / "model")
    (tmp_path / "model" / name).write_bytes(b'{"cut off')
    with pytest.raises(CheckpointError, match="download"):
        FunAudioChatProcessor.from_pretrained(tmp_path / "model")
