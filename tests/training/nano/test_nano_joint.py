# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Rows of the joint model's stages, the encoder's training, and the model they begin with."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from funaudiochat.audio import save_wav
from funaudiochat.modeling_funaudiochat import FunAudioChatForConditionalGeneration
from funaudiochat.processing_funaudiochat import FunAudioChatProcessor
from training.nano.new_model import begin, new_model
from training.nano.rows import dialogue_rows, make_rows, say_rows
from training.nano.train_encoder import BLANKED_BANDS, WIDEST_BAND, EncoderTrainer, blank_bands
from utils.constant import AUDIO_TEMPLATE, DEFAULT_S2M_PROMPT, DEFAULT_S2T_PROMPT

CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Rome"}}\n</tool_call>'
CODES = {"It is sunny in Rome.": [5, 6560, 7], "Two.": [1, 2]}


def user(text: str) -> dict:
    return {"role": "user", "text": text, "audio": "q.wav", "spoken": True}


def assistant(text: str, spoken: bool = True) -> dict:
    return {"role": "assistant", "text": text, "spoken": spoken}


FOLLOW_UP = {
    "id": "train-1",
    "tools": False,
    "messages": [
        user("One plus one?"),
        assistant("Two."),
        user("Say it again."),
        assistant("Two."),
    ],
}
TOOL = {
    "id": "train-2",
    "tools": True,
    "messages": [
        user("What is the weather in Rome?"),
        assistant(CALL, spoken=False),
        {"role": "tool", "text": '{"sky": "sunny"}', "spoken": False},
        assistant("It is sunny in Rome."),
    ],
}


def of_kind(record: dict, kind: str, work: Path) -> list[dict]:
    return [row for name, row in dialogue_rows(record, CODES, work) if name == kind]


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("work")
    (folder / "dialogues").mkdir()
    save_wav(folder / "q.wav", np.zeros(16480), 16000)  # 1.03 s
    lines = "".join(json.dumps(record) + "\n" for record in (FOLLOW_UP, TOOL))
    (folder / "dialogues" / "train.jsonl").write_text(lines)
    answers = [
        {"voice": voice, "part": part, "text": text, "codes": codes}
        for text, codes in CODES.items()
        for voice, part in (("heart", "train"), ("joe", "train"))
    ]
    answers.append({"voice": "heart", "part": "test", "text": "Held out.", "codes": [3]})
    (folder / "answers.jsonl").write_text("".join(json.dumps(a) + "\n" for a in answers))
    new_model(folder)
    return folder


@pytest.mark.parametrize("record", [FOLLOW_UP, TOOL])
def test_every_placeholder_has_its_audio(record, work):
    for _, row in dialogue_rows(record, CODES, work):
        contents = "".join(message["content"] for message in row["messages"])
        assert contents.count(AUDIO_TEMPLATE) == len(row["audio"])


def test_a_spoken_answer_is_ten_delay_codes_then_its_codes_and_history_is_text(work):
    first, second = of_kind(FOLLOW_UP, "talk", work)
    assert first["system"] == second["system"] == DEFAULT_S2M_PROMPT
    roles = [message["role"] for message in second["messages"]]
    assert roles == ["user", "assistant", "user", "assistant"]
    assert second["messages"][1]["content"] == "Two."
    question, _, answer = map(json.loads, second["audio"])
    assert question["token"] == "<|audio_pad|>" * 25 and question["text"] == ""
    assert answer["token"] == "<|audio_bos|>" * 10 + "[AU0001][AU0002]"
    assert answer["text"] == "Two."


def test_a_tool_is_called_from_a_prompt_that_offers_it_and_its_result_is_spoken(work):
    (call,) = of_kind(TOOL, "ask_tools", work)
    assert '"name": "get_weather", "description"' in call["system"]
    assert call["messages"][-1]["content"] == CALL
    (spoken,) = of_kind(TOOL, "talk", work)
    assert spoken["system"] == DEFAULT_S2M_PROMPT
    result = '<tool_response>\n{"sky": "sunny"}\n</tool_response>'
    assert spoken["messages"][2] == {"role": "user", "content": result}
    assert spoken["messages"][1]["content"] == CALL


def test_answers_without_codes_are_not_spoken(work):
    record = {**FOLLOW_UP, "messages": [user("Hello."), assistant("Nobody said this.")]}
    assert of_kind(record, "talk", work) == [] and len(of_kind(record, "ask", work)) == 1


def test_rows_of_all_stages_leave_out_what_is_held_out(work):
    make_rows(work)
    info = json.loads((work / "rows" / "dataset_info.json").read_text())
    text = "".join((work / "rows" / entry["file_name"]).read_text() for entry in info.values())
    assert list(info) == ["text", "prealign", "stage1", "stage2"]
    assert "Held out." not in text and "[AU6560]" in text
    assert [kind for kind, _ in say_rows("Two.", [1])] == ["say", "say_aloud"]


def test_the_new_model_reads_rows_and_writes_what_it_reads(work):
    processor = FunAudioChatProcessor.from_pretrained(work / "models" / "new")
    for text in (DEFAULT_S2T_PROMPT, CALL, "Größe 42, 你好!\n"):
        assert processor.tokenizer.decode(processor.tokenizer(text)["input_ids"]) == text
    ids = processor.speech_tokenizer("<|audio_bos|>[AU6560]<|audio_pad|>")["input_ids"]
    assert ids == [6561, 6560, 6563]
    model = FunAudioChatForConditionalGeneration.from_pretrained(work / "models" / "new")
    audio = model.config.audio_config
    assert (audio.bos_token_id, audio.pad_token_id) == (6561, 6563)
    assert len(processor.tokenizer) <= model.get_input_embeddings().num_embeddings
    text_ids = processor.tokenizer.convert_tokens_to_ids
    assert model.config.audio_token_index == text_ids("<|AUDIO|>")
    assert model.config.text_config.sil_index == text_ids("<|sil|>")


def test_training_begins_with_the_text_model_and_the_encoder_that_heard_phones(work):
    torch.manual_seed(3)
    trainer = EncoderTrainer(4)
    torch.save({"model": trainer.state_dict()}, work / "encoder.pt")
    begin(work, work / "models" / "new")
    made, text = (
        FunAudioChatForConditionalGeneration.from_pretrained(work / "models" / name)
        for name in ("begin", "new")
    )
    encoder = trainer.encoder.state_dict()
    for name, value in made.continuous_audio_tower.state_dict().items():
        assert torch.equal(value, encoder[name]), name
    for name, value in text.language_model.state_dict().items():
        assert torch.equal(made.language_model.state_dict()[name], value), name


def test_phones_are_read_the_same_alone_and_in_a_padded_batch():
    torch.manual_seed(0)
    model = EncoderTrainer(4).eval()
    mel, lengths = torch.randn(2, 128, 230), torch.tensor([230, 97])
    together = model.read(mel, lengths)
    for row, length in enumerate(lengths.tolist()):
        alone = model.read(mel[row : row + 1, :, :length], lengths[row : row + 1])
        count = int(alone[2])
        assert count == int(together[2][row])
        for batch, single in zip(together[:2], alone[:2], strict=True):
            torch.testing.assert_close(batch[row, :count], single[0, :count], atol=1e-4, rtol=0)


def test_the_encoder_learns_phones_through_the_mean_of_five():
    torch.manual_seed(0)
    model = EncoderTrainer(4)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    tones = torch.randn(4, 128)
    order = torch.tensor([[0, 1, 2, 3], [3, 1, 0, 2]])
    mel = tones[order].repeat_interleave(30, dim=1).transpose(1, 2)
    batch = (mel, torch.tensor([120, 120]), order.flatten() + 1, torch.tensor([4, 4]))
    first = [loss.item() for loss in model.losses(*batch)]
    for _ in range(60):
        optimizer.zero_grad()
        sum(model.losses(*batch)).backward()
        optimizer.step()
    last = [loss.item() for loss in model.losses(*batch)]
    assert all(after < 0.2 * before for before, after in zip(first, last, strict=True))


def test_blanked_bands_are_few_and_whole():
    torch.manual_seed(0)
    mel = torch.randn(8, 128, 50)
    changed = (blank_bands(mel) - mel).abs().amax(2) > 0.5
    assert changed.any() and int(changed.sum(1).max()) <= BLANKED_BANDS * WIDEST_BAND
