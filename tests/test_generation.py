# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Decoding equals recorded ids, and every row of a batch equals its single run."""

import gc
import random
from dataclasses import dataclass, replace

import pytest
import torch
from transformers import AutoTokenizer, GenerationConfig
from transformers.utils import ModelOutput

from funaudiochat import choices, cuda_graph, decoder_kernel, decoder_stack
from funaudiochat import generation_funaudiochat as generation
from funaudiochat.events import SpeechTokens, TextDelta
from funaudiochat.generation_funaudiochat import generate, prefill, step, stream
from funaudiochat.generation_options import GenerationOptions
from tests.helpers.golden import TINY_A, load_case, load_model, names, options_of
from tests.helpers.operation_recording import record

# f10 and f11 recorded what the original does to a row after its own end, f12 what padding does
# to its head.
BATCHES = [n for n in names("f1") if n[:3] in ("f10", "f11", "f12")] + ["e4_s2t_batch_leftpad"]
EXACT = [n for n in names("e") + names("f") if n[:3] not in ("f10", "f11", "f12")]


def load_tokenizer():
    return AutoTokenizer.from_pretrained(TINY_A)


@pytest.mark.parametrize("name", EXACT)
def test_ids_equal_recorded(name):
    case, inputs, outputs = load_case(name)
    before = {key: value.clone() for key, value in inputs.items()}
    rows, speech = generate(load_model(), inputs, options_of(case))
    new = rows[:, inputs["input_ids"].shape[1] :]
    assert new.tolist() == outputs["generated_ids"].tolist()
    assert [codes.tolist() for codes in speech] == outputs["audio_ids"].tolist()
    assert all(torch.equal(inputs[key], value) for key, value in before.items())


@dataclass
class Watched:
    """What reaches the choices of a run, and what is chosen."""

    raw_text: list[torch.Tensor]  # [B, 400] before any processor
    choices: list[tuple[torch.Tensor, torch.Tensor]]

    def of_width(self, width: int, rows: int) -> list[torch.Tensor]:
        return [scores for scores, _ in self.choices if scores.shape == (rows, width)]


def watch(model, monkeypatch) -> Watched:
    seen, draw, greedy = Watched([], []), choices._drawn, choices._best

    def recording(choose):
        def choosing(scores, *noise):
            chosen = choose(scores, *noise)
            seen.choices.append((scores, chosen))
            return chosen

        return choosing

    monkeypatch.setattr(choices, "_drawn", recording(draw))
    monkeypatch.setattr(choices, "_best", recording(greedy))
    monkeypatch.setattr(decoder_kernel, "kernel", lambda: None)  # which chooses by itself
    model.language_model.lm_head.register_forward_hook(
        lambda module, args, output: seen.raw_text.append(output)
    )
    return seen


@pytest.mark.parametrize("name", [n for n in EXACT if n[:2] != "e4"] + names("g"))
def test_scores_equal_recorded(name, monkeypatch):
    """What reaches each choice, and the tokens the head chose, discarded or not."""
    case, inputs, outputs = load_case(name)
    options = options_of(case)
    options = replace(options, max_new_tokens=min(16, options.max_new_tokens))
    model = load_model()
    seen = watch(model, monkeypatch)
    torch.manual_seed(case.get("manual_seed", 0))
    generate(model, inputs, options)
    codes = seen.of_width(129, 1)
    text = seen.raw_text if options.text_greedy else seen.of_width(400, 1)
    for found, key in ((text, "text_scores"), (codes, "crq_scores")):
        if found:
            expected = outputs[key][0]
            actual = torch.cat(found)[: len(expected)]
            assert len(actual) == min(len(expected), len(found))
            if options.do_sample and found is not seen.raw_text:
                actual = actual.softmax(-1)  # recorded at the draw
            torch.testing.assert_close(actual, expected, atol=1e-3, rtol=0)
    chosen = [code.item() for scores, code in seen.choices if scores.shape == (1, 129)]
    recorded = outputs.get("crq_tokens_all", torch.empty(1, 0, dtype=torch.long))[0].tolist()
    assert chosen == recorded[: len(chosen)]
    if "outer_scores" in outputs:
        actual = torch.stack(seen.of_width(129, 5))
        expected = outputs["outer_scores"].view(-1, *actual.shape[1:])[: len(actual)]
        torch.testing.assert_close(actual[: len(expected)], expected, atol=1e-3, rtol=0)


def single(inputs: dict, row: int) -> dict:
    """One row of a batch without its padding, with its own audios."""
    kept = inputs["attention_mask"][row].bool()
    one = {key: inputs[key][row : row + 1, kept] for key in ("input_ids", "attention_mask")}
    opened = (inputs["input_ids"] == 388).sum(1).tolist()
    audios = slice(sum(opened[:row]), sum(opened[: row + 1]))
    return one | {key: value[audios] for key, value in inputs.items() if key not in one}


def assert_rows_equal_single_runs(inputs, options):
    model = load_model()
    rows, speech = generate(model, inputs, options)
    for index in range(len(rows)):
        alone, alone_speech = generate(model, single(inputs, index), options)
        steps = alone.shape[1] - int(inputs["attention_mask"][index].sum())
        prompt = inputs["input_ids"].shape[1]
        assert rows[index, prompt : prompt + steps].tolist() == alone[0, -steps:].tolist()
        assert speech[index].tolist() == alone_speech[0].tolist()


@pytest.mark.parametrize("penalty", [None, 1.3])
@pytest.mark.parametrize("name", BATCHES)
def test_batch_rows_equal_single_runs(name, penalty):
    case, inputs, _ = load_case(name)
    options = replace(options_of(case), repetition_penalty=penalty, text_greedy=False)
    assert_rows_equal_single_runs(inputs, options)


def own_steps(ids: list[int], codes: list[int], ends=(382, 380), end_code=126) -> int:
    """Steps of a recorded row before it ends, or before its speech does."""
    groups = [codes[i : i + 5] for i in range(0, len(codes), 5)]
    spoken = groups.index([end_code] * 5) + 2 if [end_code] * 5 in groups else len(ids)
    ended = [step for step, token in enumerate(ids, 1) if token in ends]
    return min([spoken, *ended])


@pytest.mark.parametrize("name", BATCHES)
def test_batch_rows_equal_recorded_up_to_their_own_end(name, monkeypatch):
    case, inputs, outputs = load_case(name)
    model = load_model()
    seen = watch(model, monkeypatch)
    rows, speech = generate(model, inputs, options_of(case))
    text = seen.raw_text if case["sp_gen_kwargs"]["text_greedy"] else seen.of_width(400, 2)
    scores = {"text_scores": torch.stack(text, 1)}
    if "crq_scores" in outputs:
        scores["crq_scores"] = torch.stack(seen.of_width(129, 2), 1)
    new = rows[:, inputs["input_ids"].shape[1] :]
    for row, recorded in enumerate(outputs["generated_ids"].tolist()):
        codes, padded = outputs["audio_ids"][row].tolist(), not inputs["attention_mask"][row].all()
        if padded and codes:
            continue  # padding entered the original's head
        steps = own_steps(recorded, codes)
        assert steps > 2
        assert new[row, :steps].tolist() == recorded[:steps]
        spoken = 5 * (steps - 1) if codes else 0
        assert speech[row][:spoken].tolist() == codes[:spoken]
        for key in scores:
            count = min(steps * (1 if key == "text_scores" else 5), outputs[key].shape[1])
            torch.testing.assert_close(
                scores[key][row, :count], outputs[key][row, :count], atol=1e-3, rtol=0
            )


def test_rows_padded_on_the_right_equal_single_runs():
    """What the processor gives for a batch of texts, unless its tokenizer is told otherwise."""
    _, inputs, _ = load_case("f12_s2s_batch_leftpad_quirk")
    kept = inputs["attention_mask"].argsort(dim=1, descending=True, stable=True)
    right = inputs | {key: inputs[key].gather(1, kept) for key in ("input_ids", "attention_mask")}
    assert not right["attention_mask"][:, -1].all()
    assert_rows_equal_single_runs(
        right, GenerationOptions(12, (382, 380), 380, force_text_abos=True)
    )


def test_padded_rows_with_one_and_two_audios_equal_single_runs():
    _, inputs, _ = load_case("c3_forward_batch_leftpad")
    assert (inputs["input_ids"] == 388).sum(1).tolist() == [2, 1]
    options = GenerationOptions(
        20,
        (382, 380),
        380,
        repetition_penalty=1.2,
        no_repeat_ngram_size=2,
        min_new_tokens=12,
        force_text_abos=True,
    )
    assert_rows_equal_single_runs(inputs, options)


def test_interleaved_conversations_equal_what_each_gives_alone():
    first, second = load_case("f1_s2s_greedy"), load_case("f2_s2s_reppen12")
    model = load_model()
    options = [options_of(first[0]), options_of(second[0])]
    states = [prefill(model, case[1], o) for case, o in zip((first, second), options, strict=True)]
    for _ in range(12):
        for state, option in zip(states, options, strict=True):
            step(model, state, option)
    for state, case in zip(states, (first, second), strict=True):
        assert state.token_ids[0, -12:].tolist() == case[2]["generated_ids"][0, :12].tolist()
        assert state.speech[0].tolist() == case[2]["audio_ids"][0, : 11 * 5].tolist()


def test_training_after_generating_gives_the_recorded_loss():
    case, inputs, _ = load_case("f1_s2s_greedy")
    model = load_model()
    generate(model, inputs, options_of(case))
    train_case, train_inputs, _ = load_case("d1_train_batch")
    loss = model(**train_inputs).loss.item()
    assert loss == pytest.approx(train_case["losses"]["loss"], rel=1e-5)


def test_text_only_answer_never_runs_the_head():
    case, inputs, _ = load_case("e1_s2t_greedy")
    model = load_model()
    del model.audio_invert_tower
    rows, speech = generate(model, inputs, options_of(case))
    assert rows.shape[1] > inputs["input_ids"].shape[1]
    assert speech[0].numel() == 0


@pytest.mark.parametrize("name", names("g"))
def test_sampled_ids_equal_recorded_for_the_same_order_of_draws(name):
    case, inputs, outputs = load_case(name)
    torch.manual_seed(case["manual_seed"])
    rows, speech = generate(load_model(), inputs, options_of(case))
    new = rows[:, inputs["input_ids"].shape[1] :]
    assert new.tolist() == outputs["generated_ids"].tolist()
    assert [codes.tolist() for codes in speech] == outputs["audio_ids"].tolist()


@pytest.mark.parametrize("name", ["e1_s2t_greedy", "e2_s2t_reppen", "f2_s2s_reppen12"])
def test_model_generate_takes_the_known_names_and_returns_the_pair(name):
    case, inputs, outputs = load_case(name)
    model = load_model()
    model.sp_gen_kwargs.update(case["sp_gen_kwargs"])
    rows, speech = model.generate(**inputs, **case["kwargs"], num_beams=1, length_penalty=1.0)
    assert rows[:, inputs["input_ids"].shape[1] :].tolist() == outputs["generated_ids"].tolist()
    assert speech.tolist() == outputs["audio_ids"].tolist()


def test_generate_without_settings_uses_the_checkpoints_own():
    case, inputs, outputs = load_case("e1_s2t_greedy")
    model = load_model()
    model.sp_gen_kwargs.update(case["sp_gen_kwargs"])
    rows, _ = model.generate(**inputs)
    assert rows[:, inputs["input_ids"].shape[1] :].tolist() == outputs["generated_ids"].tolist()


def test_the_forced_start_takes_the_first_id_whether_or_not_speech_is_wanted():
    _, inputs, _ = load_case("e1_s2t_greedy")
    options = GenerationOptions(3, (382,), 380, disable_speech=True, force_text_abos=True)
    rows, speech = generate(load_model(), inputs, options)
    assert rows[0, inputs["input_ids"].shape[1]] == 388 and speech[0].numel() == 0
    assert not load_model().sp_gen_kwargs["force_text_abos"]


def test_a_checkpoint_without_head_answers_in_text_and_says_that_it_cannot_speak():
    case, inputs, outputs = load_case("e1_s2t_greedy")
    model = load_model()
    model.config.audio_config.enable_audio_invert_tower = False
    del model.audio_invert_tower
    with pytest.raises(ValueError, match="no refined head"):
        model.generate(**inputs, **case["kwargs"])
    model.sp_gen_kwargs.update(case["sp_gen_kwargs"])
    rows, _ = model.generate(**inputs, **case["kwargs"])
    assert rows[:, inputs["input_ids"].shape[1] :].tolist() == outputs["generated_ids"].tolist()


def test_inputs_that_are_none_are_as_good_as_absent():
    ids = torch.arange(7)[None]
    model = load_model()
    absent, none = (
        model.generate(input_ids=ids, max_new_tokens=3, **more)[0]
        for more in ({}, {"input_features": None, "speech_ids": None, "attention_mask": None})
    )
    assert torch.equal(absent, none)
    with pytest.raises(ValueError, match="no tokens"):
        model.generate(input_ids=ids[:, :0], max_new_tokens=3)
    with pytest.raises(ValueError, match="needs input_ids"):
        model.generate(max_new_tokens=3)


def test_generate_refuses_what_it_does_not_do():
    _, inputs, _ = load_case("e1_s2t_greedy")
    model = load_model()
    with pytest.raises(ValueError, match="beam search"):
        model.generate(**inputs, num_beams=3)
    with pytest.raises(ValueError, match="temprature"):
        model.generate(**inputs, temprature=0.5)


@pytest.mark.parametrize(
    "setting", [{"typical_p": 0.5}, {"suppress_tokens": [3]}, {"num_return_sequences": 2}]
)
def test_settings_that_would_be_ignored_are_refused(setting):
    config = GenerationConfig(eos_token_id=1, do_sample=True, **setting)
    with pytest.raises(ValueError, match=f"{next(iter(setting))}|one answer per row"):
        GenerationOptions.from_config(config)


def test_lengths_may_count_the_prompt():
    _, inputs, _ = load_case("e1_s2t_greedy")
    prompt, model = inputs["input_ids"].shape[1], load_model()
    model.generation_config.max_new_tokens = None
    model.sp_gen_kwargs.update(disable_speech=True)
    rows, _ = model.generate(**inputs, max_length=prompt + 3)
    assert rows.shape[1] == prompt + 3
    with pytest.raises(ValueError, match="leave no room"):
        model.generate(**inputs, max_length=prompt)


@pytest.mark.parametrize("setting", ["min_new_tokens", "min_length"])
def test_a_least_length_holds_back_the_end(setting):
    case, inputs, outputs = load_case("f6_s2s_text_eos_first")
    assert outputs["generated_ids"].shape[1] < 30
    model, prompt = load_model(), inputs["input_ids"].shape[1]
    model.sp_gen_kwargs.update(case["sp_gen_kwargs"])
    length = 30 + (prompt if setting == "min_length" else 0)
    rows, _ = model.generate(**inputs, **case["kwargs"], **{setting: length})
    assert rows.shape[1] >= prompt + 30
    assert not torch.isin(rows[:, prompt : prompt + 29], torch.tensor([380, 382])).any()


def test_choices_read_nothing_back_to_the_host(way, monkeypatch):
    """A step reads once what it chose, however many tokens; its flags are on the host."""
    case, inputs, _ = load_case("f2_s2s_reppen12")
    model, options = load_model(), options_of(case)
    state = prefill(model, inputs, options)
    for _ in range(3):
        step(model, state, options)
    reads = []
    for name in ("tolist", "item", "__bool__", "__int__", "__float__", "cpu", "numpy"):
        original = getattr(torch.Tensor, name)

        def counted(self, *args, original=original, name=name):
            reads.append((name, self.dtype, *self.shape))
            return original(self, *args)

        monkeypatch.setattr(torch.Tensor, name, counted)
    step(model, state, options)
    flags = ("tolist", torch.bool, 1)
    assert reads == [flags, flags, ("cpu", torch.long, 1, 6)]


@pytest.mark.parametrize("name", ["f2_s2s_reppen12", "f10_s2s_batch_equal", "three lengths"])
@pytest.mark.parametrize("sampled", [False, True])
def test_captured_positions_choose_what_separate_operations_choose(name, sampled, monkeypatch):
    """One, two and three rows, which a CPU records and replays as a GPU does."""
    monkeypatch.setattr(decoder_kernel, "kernel", lambda: None)
    monkeypatch.setattr(decoder_stack, "SPARE_POSITIONS", 8)  # caches move on the way
    case, inputs, _ = load_case("f12_s2s_batch_leftpad_quirk" if name == "three lengths" else name)
    if name == "three lengths":
        inputs = {"input_ids": inputs["input_ids"][[0, 1, 0], :40].contiguous()}
        inputs["attention_mask"] = (torch.arange(40) >= torch.tensor([[0], [5], [11]])).long()
        inputs["input_ids"] = inputs["input_ids"] % 300
    options = replace(
        options_of(case), max_new_tokens=12, do_sample=sampled, text_greedy=not sampled
    )
    recordings = []

    def recorded(function, device):
        recordings.append(record(function, device))
        return recordings[-1]

    def reply():
        count = len(inputs["input_ids"])
        own = [torch.Generator().manual_seed(row) for row in range(count)]
        return generate(load_model(), inputs, options, own)

    rows, speech = reply()
    monkeypatch.setattr(cuda_graph, "available", lambda device: True)
    monkeypatch.setattr(cuda_graph, "record", recorded)
    captured_rows, captured_speech = reply()
    assert torch.equal(captured_rows, rows)
    assert [x.tolist() for x in captured_speech] == [x.tolist() for x in speech]
    # Once for each room of the caches, not once a step.
    assert sum(each.replays for each in recordings) > 4 * len(recordings) > 0


def test_positions_that_cannot_be_captured_run_one_by_one(monkeypatch, caplog):
    monkeypatch.setattr(decoder_kernel, "kernel", lambda: None)
    case, inputs, _ = load_case("f1_s2s_greedy")
    options = replace(options_of(case), max_new_tokens=8)
    rows, speech = generate(load_model(), inputs, options)

    def fails(function, device):
        raise cuda_graph.CaptureError("a CUDA graph could not be captured (no driver)")

    monkeypatch.setattr(cuda_graph, "available", lambda device: True)
    monkeypatch.setattr(cuda_graph, "record", fails)
    again, spoken = generate(load_model(), inputs, options)
    assert torch.equal(again, rows) and torch.equal(spoken[0], speech[0])
    # One for the backbone and one for the head.
    assert caplog.text.count("(no driver): decoding launches every operation by itself") == 2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_decodes_and_streams_the_same(dtype):
    case, inputs, _ = load_case("f12_s2s_batch_leftpad_quirk")
    model, options = load_model().to(dtype), options_of(case)
    rows, speech = generate(model, inputs, options)
    assert rows.dtype == torch.long and all(len(codes) % 5 == 0 for codes in speech)
    one = single(inputs, 0)
    events = list(stream(model, load_tokenizer(), prefill(model, one, options), options))
    codes = torch.cat([e.tokens for e in events if isinstance(e, SpeechTokens)])
    assert codes.tolist() == generate(model, one, options)[1][0].tolist()


@pytest.mark.parametrize("name", ["f2_s2s_reppen12", "f12_s2s_batch_leftpad_quirk"])
def test_eager_attention_decodes_the_same(name):
    case, inputs, _ = load_case(name)
    options = replace(options_of(case), max_new_tokens=12)
    (rows, speech), (eager_rows, eager_speech) = (
        generate(load_model(attention), inputs, options) for attention in ("sdpa", "eager")
    )
    assert torch.equal(rows, eager_rows)
    assert [c.tolist() for c in speech] == [c.tolist() for c in eager_speech]


class Recorder:
    def __init__(self):
        self.calls = []

    def put(self, value):
        self.calls.append(value)

    def end(self):
        self.calls.append("end")


def test_a_live_consumer_gets_prompt_ids_and_groups_in_order():
    case, inputs, outputs = load_case("f1_s2s_greedy")
    recorder = Recorder()
    generate(load_model(), inputs, options_of(case), streamer=recorder)
    prompt, *calls, end = recorder.calls
    assert prompt.tolist() == inputs["input_ids"].tolist() and end == "end"
    groups = [call for call in calls if call.dim() == 2]
    assert torch.cat(groups, dim=1).tolist() == outputs["audio_ids"].tolist()
    assert len(calls) - len(groups) == outputs["generated_ids"].shape[1]


@pytest.mark.parametrize("name", ["f1_s2s_greedy", "f3_s2s_finish_midway", "e3_s2t_two_turns"])
def test_streamed_pieces_and_groups_join_to_what_generate_gives(name):
    case, inputs, _ = load_case(name)
    model, tokenizer, options = load_model(), load_tokenizer(), options_of(case)
    rows, speech = generate(model, inputs, options)
    events = list(stream(model, tokenizer, prefill(model, inputs, options), options))
    text = "".join(e.text for e in events if isinstance(e, TextDelta))
    codes = [e.tokens for e in events if isinstance(e, SpeechTokens)]
    new = rows[0, inputs["input_ids"].shape[1] :]
    assert text == tokenizer.decode(new, skip_special_tokens=True)
    assert (torch.cat(codes).tolist() if codes else []) == speech[0].tolist()


def test_streamed_text_never_holds_half_a_character():
    tokenizer, model = load_tokenizer(), load_model()
    case, inputs, _ = load_case("e1_s2t_greedy")
    wanted = tokenizer("你好，今天天气怎么样？😀").input_ids
    options = replace(options_of(case), max_new_tokens=len(wanted))

    class Says(torch.nn.Module):  # makes the backbone spell the wanted bytes
        def forward(self, hidden):
            scores = torch.zeros(len(hidden), 400)
            scores[:, wanted[Says.step]] = 1.0
            Says.step += 1
            return scores

    Says.step = 0
    model.language_model.lm_head = Says()
    pieces = [e.text for e in stream(model, tokenizer, prefill(model, inputs, options), options)]
    assert "".join(pieces) == "你好，今天天气怎么样？😀"
    assert len(pieces) > 5 and not any("\ufffd" in piece for piece in pieces)


def test_cancelled_streams_leave_nothing_behind():
    case, inputs, _ = load_case("f1_s2s_greedy")
    model, tokenizer, options = load_model(), load_tokenizer(), options_of(case)

    def cancelled() -> int:
        events = stream(model, tokenizer, prefill(model, inputs, options), options)
        next(events)
        events.close()
        gc.collect()
        return sum(isinstance(o, torch.Tensor) for o in gc.get_objects())

    first = cancelled()
    assert [cancelled() for _ in range(10)] == [first] * 10


def test_the_head_makes_five_passes_a_step_and_none_for_text_alone():
    case, inputs, _ = load_case("f1_s2s_greedy")
    model, options, length = load_model(), options_of(case), inputs["input_ids"].shape[1]
    widths: list[int] = []
    model.audio_invert_tower.input_matching.register_forward_hook(
        lambda _, __, out: widths.append(out[0].numel() // out.shape[-1])
    )
    state = prefill(model, inputs, options)
    assert widths == []
    step(model, state, options)
    assert widths == [5 * length - 4, 1, 1, 1, 1]
    step(model, state, options)
    assert widths[5:] == [1] * 5
    widths.clear()
    generate(model, inputs, replace(options, disable_speech=True))
    assert widths == []


def test_what_follows_a_rows_end_is_padding_in_text_and_speech():
    case, inputs, _ = load_case("f10_s2s_batch_equal")
    model, count = load_model(), 0
    end, length = case["kwargs"]["eos_token_id"][0], inputs["input_ids"].shape[1]

    def ends_the_first_row(_, __, scores):
        nonlocal count
        count += 1
        scores[..., case["kwargs"]["eos_token_id"]] = -1e4
        if count == 4:
            scores[0, ..., end] = 1e4

    model.language_model.lm_head.register_forward_hook(ends_the_first_row)
    model.sp_gen_kwargs.update(case["sp_gen_kwargs"])
    settings = {**case["kwargs"], "max_new_tokens": 8, "pad_token_id": 7}
    rows, codes = model.generate(**inputs, **settings)
    ended = rows[0, length + 3 :].tolist()
    assert ended == [end, 7, 7, 7, 7] and 7 not in rows[1:, length + 3 :]
    pad = model.config.audio_config.pad_token_id
    assert codes.shape[1] == 5 * 7
    assert (codes[0, : 5 * 3] != pad).all() and (codes[0, 5 * 3 :] == pad).all()
    assert (codes[1:] != pad).all()


def test_a_prompt_that_ends_by_opening_speech_speaks_from_its_first_step():
    case, inputs, _ = load_case("f1_s2s_greedy")
    model, options = load_model(), replace(options_of(case), text_greedy=True)
    forced, _ = generate(model, inputs, options)
    length = inputs["input_ids"].shape[1]
    opened = {
        **inputs,
        "input_ids": forced[:, : length + 1],
        "attention_mask": torch.ones_like(forced[:, : length + 1]),
    }
    assert opened["input_ids"][0, -1] == model.config.text_config.audio_bos_index
    options = replace(options, force_text_abos=False)
    state = prefill(model, opened, options)
    out = step(model, state, options)
    assert out.text_ids.item() == forced[0, length + 1] and len(out.groups[0]) == 5
    assert all(step(model, state, options).groups[0] is not None for _ in range(2))


def test_banned_words_act_on_text_and_not_on_speech():
    case, inputs, outputs = load_case("f1_s2s_greedy")
    banned = outputs["generated_ids"][0, 1:3].tolist()
    code = outputs["audio_ids"][0, 0].item()
    options = replace(options_of(case), bad_words_ids=((banned[0],), (code,)))
    rows, speech = generate(load_model(), inputs, options)
    assert banned[0] not in rows[0, inputs["input_ids"].shape[1] :].tolist()
    assert speech[0][0].item() == code


def test_interleaved_batches_equal_what_each_gives_alone():
    first, second = load_case("f10_s2s_batch_equal"), load_case("f1_s2s_greedy")
    model = load_model()
    runs = [(case[1], options_of(case[0])) for case in (first, second)]
    alone = [generate(model, inputs, options) for inputs, options in runs]
    states = [prefill(model, inputs, options) for inputs, options in runs]
    for _ in range(10):
        for state, (_, options) in zip(states, runs, strict=True):
            step(model, state, options)
    for state, (rows, speech) in zip(states, alone, strict=True):
        assert torch.equal(state.token_ids, rows[:, : state.token_ids.shape[1]])
        for row, whole in zip(state.speech, speech, strict=True):
            assert torch.equal(row, whole[: len(row)])


@pytest.mark.parametrize("name", ["f1_s2s_greedy", "f2_s2s_reppen12"])
def test_an_engine_driving_the_head_gets_the_recorded_tokens(name):
    """The contract of engines: state handed in and out of attributes, a sampler of their own."""
    case, inputs, outputs = load_case(name)
    model, options = load_model(), options_of(case)
    head, audio = model.audio_invert_tower, model.config.audio_config
    _, processor = options.processors(0, torch.device("cpu"))
    state = prefill(model, inputs, replace(options, disable_speech=True))

    def sampling_step(self, logits):
        now = [token.view(1, 1) for token in self.crq_generate_tokens]
        logits = self.crq_logits_processor(torch.cat([self.crq_speech_ids, *now], 1), logits)
        return logits.argmax(-1), logits

    head.sampling_step = sampling_step.__get__(head)
    kept = {"crq_audio_embeds": None, "crq_past_key_values": None}
    spoken = torch.empty(1, 0, dtype=torch.long)
    for position, text in enumerate(outputs["generated_ids"][0].tolist()):
        for attribute, value in kept.items():
            setattr(head, attribute, value)
        head.crq_do_sample, head.crq_logits_processor = False, processor
        head.crq_speech_ids = spoken
        head.crq_generate_forward(
            inputs_embeds=state.hidden + state.text_embeds,
            attention_mask=None,
            position_ids=None,
            return_dict=True,
        )
        codes = head.crq_generate_tokens.reshape(1, 5)
        kept = {name: getattr(head, name) for name in kept}
        head.crq_release()
        if position:  # speech is open from the forced start on
            if (codes == audio.eos_token_id).any():
                codes = torch.full_like(codes, audio.eos_token_id)
            spoken = torch.cat([spoken, codes], 1)
        embeds = model.get_input_embeddings()(torch.tensor([[text]]))
        with torch.no_grad():
            inputs_embeds = embeds
            if position:
                inputs_embeds = (embeds + model.audio_tower(codes).last_hidden_state) / 2
            state.hidden = state.positions.advance(inputs_embeds[:, 0])[:, None]
        state.text_embeds = embeds
    assert spoken.tolist() == outputs["audio_ids"].tolist()


def test_forms_of_the_result_that_cannot_be_had_are_refused():
    _, inputs, _ = load_case("e1_s2t_greedy")
    with pytest.raises(ValueError, match="output_scores"):
        load_model().generate(**inputs, output_scores=True)


@pytest.mark.parametrize("name", ["e1_s2t_greedy", "f6_s2s_text_eos_first"])
def test_a_call_may_set_the_speech_switches_and_ask_for_a_dictionary(name):
    case, inputs, outputs = load_case(name)
    model = load_model()
    # The call's switches win over all of these, and leave them as they are.
    defaults = {key: not value for key, value in case["sp_gen_kwargs"].items()}
    model.sp_gen_kwargs.update(defaults)
    result = model.generate(
        **inputs, **case["kwargs"], **case["sp_gen_kwargs"], return_dict_in_generate=True
    )
    assert isinstance(result, ModelOutput)
    new = result.sequences[:, inputs["input_ids"].shape[1] :]
    assert new.tolist() == outputs["generated_ids"].tolist()
    if "audio_ids" in outputs:
        assert result["speech_ids"].tolist() == outputs["audio_ids"].tolist()
    assert all(model.sp_gen_kwargs[key] == value for key, value in defaults.items())


def test_a_config_without_end_ids_takes_the_checkpoints():
    case, inputs, outputs = load_case("e1_s2t_greedy")
    model = load_model()
    model.sp_gen_kwargs.update(case["sp_gen_kwargs"])
    rows, _ = model.generate(**inputs, generation_config=GenerationConfig(max_new_tokens=5))
    new = rows[:, inputs["input_ids"].shape[1] :]
    assert new.tolist() == outputs["generated_ids"][:, :5].tolist()


def test_placeholders_without_audio_are_refused():
    _, inputs, _ = load_case("e1_s2t_greedy")
    with pytest.raises(ValueError, match="no audio was given"):
        load_model().generate(input_ids=inputs["input_ids"], max_new_tokens=3)


def test_a_least_length_holds_back_the_end_of_greedy_text():
    case, inputs, outputs = load_case("f6_s2s_text_eos_first")
    model, prompt = load_model(), inputs["input_ids"].shape[1]
    model.sp_gen_kwargs.update({**case["sp_gen_kwargs"], "text_greedy": True})
    rows, _ = model.generate(**inputs, **case["kwargs"], min_new_tokens=30)
    assert rows.shape[1] >= prompt + 30


JOINED = {
    "f1_s2s_greedy": {},
    "f2_s2s_reppen12": {},
    "f3_s2s_finish_midway": {},
    "e1_s2t_greedy": {},
    "e2_s2t_reppen": {"do_sample": True, "temperature": 0.8},
    "f6_s2s_text_eos_first": {"do_sample": True, "top_p": 0.9, "repetition_penalty": 1.2},
    "f10_s2s_batch_equal": {"do_sample": True, "top_k": 20},  # two rows
    "f12_s2s_batch_leftpad_quirk": {"text_greedy": True, "do_sample": True},  # of two lengths
}


@pytest.mark.parametrize("seed", range(2))
def test_states_that_meet_and_part_between_steps_equal_their_single_runs(seed, way, monkeypatch):
    """Greedy and sampled, spoken and written, whatever their lengths and settings."""
    monkeypatch.setattr(decoder_stack, "SPARE_POSITIONS", 4)  # caches grow at different times
    model, order = load_model(), random.Random(seed)
    runs = []
    for name, settings in JOINED.items():
        case, inputs, _ = load_case(name)
        runs.append((inputs, replace(options_of(case), max_new_tokens=14, **settings)))

    def begun(run):
        inputs, options = run
        own = [torch.Generator().manual_seed(seed + row) for row in range(len(inputs["input_ids"]))]
        return prefill(model, inputs, options, own), options

    def running(state, options):
        return state.step_count < options.max_new_tokens and not bool(state.ended.all())

    alone = [begun(run) for run in runs]
    for state, options in alone:
        while running(state, options):
            step(model, state, options)
    waiting, joined = order.sample(range(len(runs)), len(runs)), {}
    met = 0
    while waiting or any(running(*run) for run in joined.values()):
        if waiting and order.random() < 0.4:
            index = waiting.pop()
            joined[index] = begun(runs[index])
        ready = [run for run in joined.values() if running(*run) and order.random() < 0.8]
        order.shuffle(ready)
        met = max(met, len(ready))
        generation.step_together(model, ready)
    assert met >= 4
    for index, (wanted, _) in enumerate(alone):
        state, _ = joined[index]
        assert torch.equal(state.token_ids, wanted.token_ids)
        assert [x.tolist() for x in state.speech] == [x.tolist() for x in wanted.speech]


def test_an_error_of_one_state_leaves_the_others_their_step():
    model = load_model()
    runs = []
    for name in ("f1_s2s_greedy", "f2_s2s_reppen12", "e1_s2t_greedy"):
        case, inputs, _ = load_case(name)
        runs.append((prefill(model, inputs, options_of(case)), options_of(case)))
    runs[1][0].speech_processors.append(lambda ids, scores: 1 / 0)
    runs[1] = (runs[1][0], replace(runs[1][1], no_repeat_ngram_size=9))  # not for the kernel
    first, broken, last = generation.step_together(model, runs)
    assert isinstance(broken, ZeroDivisionError)
    assert len(first.text_ids) == len(last.text_ids) == 1
    case, inputs, outputs = load_case("f1_s2s_greedy")
    rest = [generation.step_together(model, [runs[0], runs[2]])[0] for _ in range(3)]
    ids = [out.text_ids.item() for out in (first, *rest)]
    assert ids == outputs["generated_ids"][0, :4].tolist()


def test_replies_whose_steps_are_taken_together_give_the_events_of_each_alone():
    model, tokenizer = load_model(), load_tokenizer()

    def replies():
        found = []
        for name in ("f1_s2s_greedy", "f3_s2s_finish_midway", "e1_s2t_greedy", "e3_s2t_two_turns"):
            case, inputs, _ = load_case(name)
            options = options_of(case)
            found.append(stream(model, tokenizer, prefill(model, inputs, options), options))
        return found

    def plain(event):
        return event.text if isinstance(event, TextDelta) else event.tokens.tolist()

    wanted = [[plain(event) for event in reply] for reply in replies()]
    together, events = replies(), [[] for _ in wanted]
    for turn in range(10**4):
        running = [i for i, reply in enumerate(together) if not reply.ended]
        if not running:
            break
        if turn == 5:  # one of them may also be read by itself
            events[0].append(plain(next(together[0])))
        found = generation.next_events([together[i] for i in running])
        for index, new in zip(running, found, strict=True):
            events[index] += map(plain, new)
    assert events == wanted
