# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""The processor equals recorded results; saved folders keep the published layout."""

import base64
import io
import json
import shutil

import numpy as np
import pytest
import soundfile
import soxr
import torch
from safetensors.torch import load_file
from transformers import AutoProcessor

from funaudiochat.errors import AudioError, CheckpointError, FunAudioChatError
from funaudiochat.processing_funaudiochat import _CHAT_TEMPLATE as CHAT_TEMPLATE
from funaudiochat.processing_funaudiochat import FunAudioChatProcessor
from funaudiochat.register import register_funaudiochat
from tests.helpers.golden import CASES, TINY_A, load_model

FEATURES = json.loads((CASES / "h1_features" / "case.json").read_text())
RECORDED = json.loads((CASES / "h2_processor" / "case.json").read_text())
RESULTS = {case["label"]: case for case in RECORDED["results"]}
BLANK = "<|audio_bos|><|AUDIO|><|audio_eos|>"


def load_processor() -> FunAudioChatProcessor:
    register_funaudiochat()
    return AutoProcessor.from_pretrained(TINY_A)


def waveform_of(seconds: float, k: int) -> np.ndarray:
    """Return the recorded test waveform of a case."""
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


# The reference drops an audio under one speech token (40 ms) from the prompt; it is refused here.
ROWS = [row for row in FEATURES["rows"] if row["seconds"] >= 0.04]
# Log mels reach 8 decades below the loudest bin: power 1e-8, amplitude 1e-4 of it. A float32 FFT
# is exact to about log2(400) * 2**-24 = 5e-7 of the loudest amplitude, so down there to 0.5 %: in
# log10 of the power, divided by 4, that is 1.1e-3 at worst. FFT libraries order their sums by what
# the processor has (AVX-512 differs by 1.1e-4 from the recorded values), so two may be that far
# apart near the floor. From 2 decades above it on, the same reasoning leaves 1.1e-4.
NEAR_FLOOR, ABOVE_FLOOR = 1.1e-3, 1.1e-4


def assert_same_mel(mel, recorded):
    """Compare log mels [.., F] within what float32 Fourier transforms may differ by."""
    torch.testing.assert_close(mel, recorded, atol=NEAR_FLOOR, rtol=0)
    above = recorded > recorded.min() + 0.5
    torch.testing.assert_close(mel[above], recorded[above], atol=ABOVE_FLOOR, rtol=0)
    assert (mel - recorded).abs().mean() < 1e-5


@pytest.mark.parametrize("row", ROWS, ids=lambda row: str(row["seconds"]))
def test_features_and_placeholders_equal_recorded(row):
    processor = load_processor()
    waveform = waveform_of(row["seconds"], row["k"])
    result = processor(text=BLANK, audio=[waveform], return_tensors="pt")
    valid = row["inference"]["valid_frames"]
    first = result["input_features"][0, :, :valid]
    for name in ("mean", "std", "min", "max"):
        assert getattr(first, name)().item() == pytest.approx(row["inference"][name], abs=1e-4)
    assert int(result["feature_attention_mask"][0, :3000].sum()) == valid
    expected = row["processor"]
    assert list(result["speech_ids"].shape) == expected["speech_ids_shape"]
    assert int(result["speech_attention_mask"].sum()) == expected["speech_valid"]
    assert int((result["input_ids"] == 387).sum()) == expected["placeholders"]
    if expected["input_ids"]:
        assert result["input_ids"][0].tolist() == expected["input_ids"]


def test_mel_equals_recorded_in_inference_and_training():
    processor, recorded = load_processor(), load_file(CASES / "h1_features/outputs.safetensors")
    rows = {row["seconds"]: row["k"] for row in FEATURES["rows"]}
    for seconds in (0.5, 1.0):
        waveform = waveform_of(seconds, rows[seconds])
        inference = processor(text=BLANK, audio=[waveform], return_tensors="pt").input_features[0]
        training = processor(
            text=BLANK, audio=[waveform], audio_padding="longest", return_tensors="pt"
        ).input_features[0]
        frames = round(seconds * 100)
        assert_same_mel(inference[:, :frames], recorded[f"inference_{seconds}"])
        assert_same_mel(training, recorded[f"training_{seconds}"])
    for seconds in (3.21, 31.0):
        waveform = waveform_of(seconds, rows[seconds])
        result = processor(text=BLANK, audio=[waveform], return_tensors="pt").input_features[0]
        index = recorded[f"frame_index_{seconds}"]
        assert_same_mel(result[:, index], recorded[f"frames_{seconds}"])


@pytest.mark.parametrize(
    "row", [row for row in ROWS if row["seconds"] <= 30], ids=lambda row: str(row["seconds"])
)
def test_training_features_equal_recorded(row):
    result = load_processor()(
        text=BLANK,
        audio=[waveform_of(row["seconds"], row["k"])],
        audio_padding="longest",
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
    waveforms = [waveform_of(seconds, rows[seconds]) for seconds in (0.5, 1.0)]
    result = processor(
        text=[BLANK, BLANK], audio=waveforms, audio_padding="longest", return_tensors="pt"
    )
    mask = result["feature_attention_mask"]
    assert mask.tolist() == recorded["batch_mask_training"].tolist()
    assert_same_mel(result["input_features"], recorded["batch_features_training"])
    filters = torch.as_tensor(processor.feature_extractor.mel_filters).float()
    torch.testing.assert_close(filters, recorded["mel_filters"].float(), atol=1e-6, rtol=0)


@pytest.mark.parametrize("padding", ["longest", "max_length"])
@pytest.mark.parametrize("samples", [0, 1, 200, 480, 639])
def test_audio_under_one_speech_token_is_refused(samples, padding):
    with pytest.raises(AudioError, match="no samples|too short"):
        load_processor()(text=BLANK, audio=[np.ones(samples) / 2], audio_padding=padding)


def test_every_way_to_give_an_audio_gives_the_same_inputs(tmp_path):
    processor, waveform = load_processor(), waveform_of(0.5, 1)
    integers = np.round(waveform * 32767).astype(np.int16)
    scaled = integers / np.float32(32768)
    soundfile.write(tmp_path / "a.wav", integers, 16000)
    content, fields = (tmp_path / "a.wav").read_bytes(), {"sampling_rate": 16000}
    expected = processor(text=BLANK, audio=[scaled], return_tensors="pt")
    for entry in (
        integers, integers[None], (integers, 16000), torch.from_numpy(scaled), scaled.tolist(),
        tmp_path / "a.wav", content, io.BytesIO(content), {"path": str(tmp_path / "a.wav")},
        json.dumps({"path": str(tmp_path / "a.wav")}), {"bytes": content, "path": None},
        {"array": scaled, **fields, "path": None}, {"array": scaled, **fields, "path": "gone.wav"},
    ):  # fmt: skip
        found = processor(text=BLANK, audio=[entry], return_tensors="pt")
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[key], value) for key, value in expected.items()), entry
    faster = {"array": soxr.resample(scaled, 16000, 48000), "sampling_rate": 48000, "path": "x"}
    found = processor(text=BLANK, audio=[faster], return_tensors="pt")
    assert torch.equal(found["input_ids"], expected["input_ids"])
    assert (found["input_features"] - expected["input_features"]).abs().mean() < 1e-3


def test_floats_that_hold_integers_are_refused_with_their_peak():
    with pytest.raises(AudioError, match="peaks at 16384"):
        load_processor()(text=BLANK, audio=[np.sin(np.arange(16000.0)).round() * 16384])


@pytest.mark.parametrize("decode_calls, entry", [
    (1, {"path": "a.wav"}), (1, {"path": "a.wav", "token": "[AU0001]"}),
    (0, {"path": "a.wav", "token": "<|audio_bos|>[AU0001]"}),
])  # fmt: skip
def test_an_audio_file_is_decoded_once_a_call(decode_calls, entry, tmp_path, monkeypatch):
    soundfile.write(tmp_path / "a.wav", waveform_of(0.5, 1), 16000)
    monkeypatch.chdir(tmp_path)
    opened = []
    counted = soundfile.SoundFile.__init__

    def count(self, *args, **kwargs):
        opened.append(1)
        counted(self, *args, **kwargs)

    monkeypatch.setattr(soundfile.SoundFile, "__init__", count)
    load_processor()(text=BLANK, audio=[entry])
    assert len(opened) == decode_calls


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_side_of_text_padding_leaves_the_audio_on_the_left(side):
    register_funaudiochat()
    texts, waveforms = [BLANK, f"a longer text {BLANK}"], [waveform_of(0.2, 0), waveform_of(0.9, 1)]
    expected = load_processor()(text=texts, audio=waveforms, return_tensors="pt")
    processor = AutoProcessor.from_pretrained(TINY_A, padding_side=side)
    for padding in ("max_length", "longest"):
        found = processor(text=texts, audio=waveforms, audio_padding=padding, return_tensors="pt")
        frames = found["input_features"].shape[2]
        mask = expected["feature_attention_mask"][:, :frames]
        assert torch.equal(found["feature_attention_mask"], mask)
        assert torch.equal(found["speech_ids"], expected["speech_ids"])
        assert torch.equal(found["speech_attention_mask"], expected["speech_attention_mask"])
    padded = found["attention_mask"][0]
    assert not padded.all() and padded[0 if side == "right" else -1]


def part_forms(path):
    content = path.read_bytes()
    encoded = base64.b64encode(content).decode()
    samples, rate_hz = soundfile.read(path, dtype="float32")
    return [
        {"type": "audio", "audio": samples}, {"type": "audio", "audio": (samples, rate_hz)},
        {"type": "audio", "audio": {"array": samples, "sampling_rate": rate_hz, "path": None}},
        {"type": "audio", "audio": str(path)}, {"type": "audio", "audio": content},
        {"type": "audio", "path": path}, {"type": "audio", "path": str(path)},
        {"type": "audio", "url": path.as_uri()}, {"type": "audio", "audio_url": str(path)},
        {"type": "audio_url", "audio_url": {"url": f"data:audio/wav;base64,{encoded}"}},
        {"type": "input_audio", "input_audio": {"data": encoded, "format": "wav"}},
    ]  # fmt: skip


def test_contents_of_parts_become_text_and_audios(tmp_path):
    processor, path = load_processor(), tmp_path / "a question.wav"
    soundfile.write(path, waveform_of(0.5, 1), 16000, subtype="FLOAT")
    plain = [
        {"role": "system", "content": "short"},
        {"role": "user", "content": f"{BLANK}\nAnswer."},
        {"role": "assistant", "content": "yes"},
        {"role": "user", "content": BLANK},
    ]
    text = processor.apply_chat_template(plain, add_generation_prompt=True)
    waveform = waveform_of(0.5, 1)
    expected = processor(text=text, audio=[waveform, waveform], return_tensors="pt")
    for part in part_forms(path):
        listed = [
            {"role": "system", "content": [{"type": "text", "text": "short"}]},
            {"role": "user", "content": [part, {"type": "text", "text": "Answer."}]},
            {"role": "assistant", "content": "yes"}, {"role": "user", "content": [part]},
        ]  # fmt: skip
        before = [dict(message) for message in listed]
        for template in (None, CHAT_TEMPLATE):
            assert processor.apply_chat_template(
                listed, template, add_generation_prompt=True
            ) == processor.apply_chat_template(plain, template, add_generation_prompt=True)
        found = processor.apply_chat_template(
            listed,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            padding=True,
        )
        assert listed == before and found.keys() == expected.keys()
        for key, value in expected.items():
            assert torch.equal(found[key], value), (key, part)
        ids = processor.apply_chat_template(listed, add_generation_prompt=True, tokenize=True)
        assert ids == expected["input_ids"].tolist()
    conversations = [listed, [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]]
    found = processor.apply_chat_template(
        conversations, tokenize=True, return_dict=True, return_tensors="pt"
    )
    assert len(found["input_ids"]) == 2 and len(found["speech_ids"]) == 2


@pytest.mark.parametrize("part, message", [
    ({"type": "image", "image": "a.png"}, "text and audio parts"), (3, "text and audio parts"),
    ({"text": "no type"}, "text and audio parts"), ({"type": "text"}, "has no text"),
    ({"type": "audio"}, "needs 'audio', 'path' or 'url'"),
    ({"type": "audio", "url": "https://example.org/a.wav"}, "download it"),
    ({"type": "audio", "url": "data:audio/wav;base64,?"}, "not base64"),
])  # fmt: skip
def test_parts_of_another_kind_are_refused(part, message):
    with pytest.raises(FunAudioChatError, match=message):
        load_processor().apply_chat_template([{"role": "user", "content": [part]}])


@pytest.mark.parametrize("text", [None, 3, [], [None]])
def test_what_is_no_text_is_refused(text):
    with pytest.raises(FunAudioChatError, match="one text or a list of texts"):
        load_processor()(text=text)


def test_audio_past_30_s_is_encoded_like_audio_of_its_own():
    processor, model = load_processor(), load_model()
    waveform = waveform_of(63.0, 2)
    whole = processor(text=BLANK, audio=[waveform], return_tensors="pt")
    assert whole["feature_attention_mask"].sum() == 6300

    def encode(inputs):
        mask = inputs["feature_attention_mask"].bool()
        with torch.no_grad():
            return model.continuous_audio_tower(
                inputs["input_features"].transpose(0, 1)[:, mask],
                mask.sum(1),
                speech_maxlen=inputs["speech_ids"].shape[1],
            ).last_hidden_state[0]

    pieces = [waveform[:480000], waveform[480000:960000], waveform[960000:]]
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
    waveforms = [waveform_of(0.2, 0), waveform_of(0.45, 1)]
    result = processor(text=[BLANK, f"hi {BLANK}"], audio=waveforms, return_tensors="pt")
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
        "processor_config.json",
        "preprocessor_config.json",
        "tokenizer.json",
        "vocab.json",
        "merges.txt",
        "added_tokens.json",
        "special_tokens_map.json",
        "chat_template.jinja",
        "speech_tokenizer/tokenizer.json",
        "speech_tokenizer/tokenizer_config.json",
    ):
        assert (tmp_path / name).exists(), name
    saved, published = (
        json.loads((folder / "processor_config.json").read_text()) for folder in (tmp_path, TINY_A)
    )
    assert saved == published
    saved, published = (
        json.loads((folder / "preprocessor_config.json").read_text())
        for folder in (tmp_path, TINY_A)
    )
    assert {**saved, **published} == saved
    assert saved.keys() - published.keys() <= {"processor_class"}
    tokenizer_config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert tokenizer_config["tokenizer_class"] == "Qwen2Tokenizer"
    for folder in ("", "speech_tokenizer"):
        for file in ("tokenizer_config.json", "special_tokens_map.json"):
            mine, theirs = (
                json.loads((base / folder / file).read_text()) for base in (tmp_path, TINY_A)
            )
            named = {mine.get("eos_token"), mine.get("pad_token")}
            extra = theirs.get("additional_special_tokens", [])
            assert set(mine.get("additional_special_tokens", [])) == set(extra) - named
    again = AutoProcessor.from_pretrained(tmp_path)
    for text, ids in RECORDED["text_tokenizer"].items():
        assert again.tokenizer(text).input_ids == ids
    assert again.speech_tokenizer("[AU0007]").input_ids == [7]
    assert again.audio_group_size == 5


def test_bad_waveforms_are_refused_with_cause_and_remedy():
    processor = load_processor()
    for bad, message in (
        (np.zeros((2, 3, 16000)), "shape"),
        (np.array([0.0, np.nan] * 400), "NaN"),
        ("question.wav", "JSON object"),
        ({"text": "hello"}, "neither 'token' nor 'path'"),
    ):
        with pytest.raises(AudioError, match=message):
            processor(text=BLANK, audio=[bad])
    with pytest.raises(AudioError, match="44100 Hz"):
        processor(text=BLANK, audio=[np.zeros(44100)], sampling_rate=44100)


def test_a_folder_without_speech_tokenizer_is_named(tmp_path):
    shutil.copytree(TINY_A, tmp_path / "model", ignore=shutil.ignore_patterns("speech_tokenizer"))
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
    shutil.copytree(TINY_A, tmp_path / "model")
    path = tmp_path / "model" / name
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: value, "chunk_length": 0}))
    with pytest.raises(CheckpointError, match=f"{name} is wrong: .*{field} is"):
        FunAudioChatProcessor.from_pretrained(tmp_path / "model")


@pytest.mark.parametrize("name", ["tokenizer.json", "preprocessor_config.json"])
def test_damaged_processor_files_are_one_clear_error(tmp_path, name):
    shutil.copytree(TINY_A, tmp_path / "model")
    (tmp_path / "model" / name).write_bytes(b'{"cut off')
    with pytest.raises(CheckpointError, match="download"):
        FunAudioChatProcessor.from_pretrained(tmp_path / "model")


@pytest.mark.parametrize("samples", [640, 799, 16_001, 479_600, 479_999, 480_000])
@pytest.mark.parametrize("loudness", [0.0, 1e-4, 0.1])
def test_frames_beyond_the_audio_are_those_of_thirty_computed_seconds(samples, loudness):
    processor = load_processor()
    draw = np.random.default_rng(samples)
    waveform = (draw.standard_normal(samples) * loudness).astype(np.float32)
    expected = processor.feature_extractor(
        [waveform], sampling_rate=16_000, return_attention_mask=True, return_tensors="pt"
    )
    result = processor(text=BLANK, audio=[waveform], return_tensors="pt")
    torch.testing.assert_close(
        result["input_features"], expected["input_features"], atol=1e-5, rtol=0
    )
    assert torch.equal(result["feature_attention_mask"], expected["attention_mask"])
