# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Conversations on tiny folders: answers, streaming, history, tools, limits."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import save_file
from transformers import GenerationConfig

from funaudiochat import choices, decoder_kernel, prompt_blocks
from funaudiochat.constants import DEFAULT_S2M_PROMPT, DEFAULT_S2T_PROMPT
from funaudiochat.conversation import Conversation
from funaudiochat.errors import AudioError, CheckpointError, FunAudioChatError, VoiceError
from funaudiochat.events import AudioChunk, ReplyDone, SpeechTokens, TextDelta
from funaudiochat.generation_funaudiochat import generate
from funaudiochat.generation_options import GenerationOptions
from funaudiochat.processing_funaudiochat import FunAudioChatProcessor
from funaudiochat.sampling import Sampling, StopTexts
from funaudiochat.tool_calls import parse_tool_calls
from funaudiochat.turns import Turn
from funaudiochat.voice_chat import VoiceChat
from tests.helpers.cosyvoice3_folders import build_cosyvoice3_folder
from tests.helpers.golden import TINY_A, load_case
from tests.helpers.questions import GREEDY, TOOLS, question


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    tts = build_cosyvoice3_folder(tmp_path_factory.mktemp("models") / "tts")
    generator = torch.Generator().manual_seed(0)
    voices = {name: torch.randn(192, generator=generator) for name in ("anna", "ben")}
    save_file(voices, tts / "voices.safetensors")
    return TINY_A, tts


@pytest.fixture
def chat(folders):
    return VoiceChat.from_pretrained(*folders, device="cpu")


def test_a_spoken_question_gets_text_tokens_and_audio_of_their_length(chat):
    reply = chat.ask(audio=question(), sampling=GREEDY)
    assert reply.text and len(reply.speech_tokens)
    assert len(reply.audio) == 960 * len(reply.speech_tokens)
    assert reply.sample_rate_hz == 24000 and reply.audio.dtype == np.float32
    assert 0 < reply.latency.first_audio_s <= reply.latency.total_s


def test_a_spoken_answer_holds_the_speech_tokens_the_head_fed_itself(chat, monkeypatch):
    """With sampling, each group is drawn once, and the head continues from it."""
    drawn, draw = [], choices._drawn

    def recording(scores, noise):
        chosen = draw(scores, noise)
        if scores.shape[-1] == chat.model.config.audio_config.codebook_size:
            drawn.append(chosen.tolist())
        return chosen

    monkeypatch.setattr(choices, "_drawn", recording)
    monkeypatch.setattr(decoder_kernel, "kernel", lambda: None)  # which draws by itself
    sampling = Sampling(seed=3, max_new_tokens=12)
    events = chat.stream(audio=question(), sampling=sampling)
    groups = [e.tokens.tolist() for e in events if isinstance(e, SpeechTokens)]
    drawn = sum(drawn, [])
    assert len(drawn) == 5 * 12 and len(groups) > 5  # five draws a step, in 12 steps
    end = chat.model.config.audio_config.eos_token_id
    fed = [drawn[5 * step : 5 * step + 5] for step in range(1, len(groups) + 1)]
    assert groups == [[end] * 5 if end in group else group for group in fed]


def test_settings_that_a_config_does_not_know_keep_their_defaults():
    found = GenerationOptions.from_config(GenerationConfig(eos_token_id=1, pad_token_id=2))
    assert found.only_crq_sampling is True and found.disable_speech is False
    assert found.text_greedy is False and found.force_text_abos is False


def test_a_text_answer_has_no_speech(chat):
    reply = chat.ask("Hello", audio=question(), speech=False, sampling=GREEDY)
    assert reply.text and len(reply.speech_tokens) == 0 and reply.audio is None


def write_question(path):
    samples, rate_hz = question()
    soundfile.write(path, samples, rate_hz, subtype="FLOAT")
    return path


def test_audio_is_taken_in_every_form(chat, tmp_path):
    path = write_question(tmp_path / "question.wav")
    with path.open("rb") as file:
        answers = {
            chat.branch().ask(audio=audio, speech=False, sampling=GREEDY).text
            for audio in (path, str(path), path.read_bytes(), file, question())
        }
    assert len(answers) == 1 and answers.pop()


def test_text_and_audio_are_a_spoken_question_with_its_instruction(chat):
    for asked in (
        lambda: chat.ask("Translate.", audio=question(), speech=False, sampling=GREEDY),
        lambda: chat.ask(text="Translate.", audio=question(), speech=False, sampling=GREEDY),
    ):
        chat.reset()
        asked()
        assert chat.history[0].content == "Translate." and len(chat.history[0].audio) == 19200
        assert "<|audio_eos|>\nTranslate.<|im_end|>" in prompt_text(chat, speech=False)


def test_a_string_that_names_a_file_is_no_question(chat, tmp_path):
    path = str(write_question(tmp_path / "question.wav"))
    for ask in (chat.ask, chat.stream):
        with pytest.raises(FunAudioChatError, match=f"audio='{path}'.*text='{path}'"):
            ask(path)
    chat.ask(text=path, speech=False, sampling=GREEDY)  # typed by a user: only words
    assert chat.history[0].content == path and chat.history[0].audio is None


@pytest.mark.parametrize(
    ("given", "named", "message"),
    [
        ([], {}, "nothing to ask; give text=..., audio=... or both"),
        ([], {"audio": None, "text": None}, "nothing to ask"),
        (["a"], {"text": "b"}, "two texts"),
        ([Path("question.wav")], {}, "not PosixPath; pass a path.*as audio="),
        ([b"RIFF"], {}, "not bytes; pass"),
        ([question(0.1)], {}, "not tuple; pass"),
        ([], {"text": 5}, "must be a str, not int"),
        ([], {"audio": 5}, "cannot read audio from int"),
        ([], {"audio": "nowhere.wav"}, "not found: nowhere.wav"),
    ],
)
def test_questions_that_are_none_are_refused_before_the_model_runs(chat, given, named, message):
    for ask in (chat.ask, chat.stream):  # a stream refuses at once, not at its first event
        with pytest.raises(FunAudioChatError, match=message):
            ask(*given, **named)
    assert chat.history == ()


def test_a_conversation_cannot_be_made_without_who_replies():
    with pytest.raises(TypeError, match="abstract"):
        Conversation()


def test_without_arguments_the_default_pair_is_loaded(folders, monkeypatch, tmp_path):
    for name, folder in zip(("MODEL", "TTS"), folders, strict=True):
        monkeypatch.setenv(f"FUNAUDIOCHAT_{name}", str(folder))
    chat = VoiceChat.from_pretrained(device="cpu")
    assert chat.ask("hello", sampling=GREEDY).audio is not None
    assert chat.model.config._name_or_path == str(folders[0])
    monkeypatch.setenv("FUNAUDIOCHAT_MODEL", str(tmp_path / "gone"))
    with pytest.raises(CheckpointError, match="no folder .*gone.*FUNAUDIOCHAT_MODEL"):
        VoiceChat.from_pretrained()


def test_a_text_answer_equals_the_recorded_one(chat):
    """The whole path from messages to text, against ids recorded from the original."""
    case, inputs, outputs = load_case("e1_s2t_greedy")
    prompt = case["prompt_text"][0]
    content = prompt.split("<|im_start|>user\n")[1].split("<|im_end|>")[0]
    assert content.startswith("<|audio_bos|>")
    text = chat.processor.tokenizer.decode(outputs["generated_ids"][0], skip_special_tokens=True)
    chat.prepare = lambda conversations: inputs
    assert chat.ask(audio=question(), speech=False).text == text


def test_streaming_gives_the_same_text_and_tokens_as_asking(chat):
    asked = chat.ask(audio=question(), sampling=GREEDY)
    chat.reset()
    events = list(chat.stream(audio=question(), sampling=GREEDY))
    assert isinstance(events[-1], ReplyDone)
    reply = events[-1].reply
    assert reply.text == asked.text == "".join(e.text for e in events if isinstance(e, TextDelta))
    assert reply.speech_tokens.tolist() == asked.speech_tokens.tolist()
    waveforms = [e.samples for e in events if isinstance(e, AudioChunk)]
    assert len(waveforms) > 1
    assert np.array_equal(np.concatenate(waveforms), reply.audio)


def test_a_seed_makes_sampled_answers_repeatable(chat):
    replies = []
    for seed in (1, 1, 2):
        chat.reset()
        sampling = Sampling(seed=seed, max_new_tokens=12)
        replies.append(chat.ask(audio=question(), sampling=sampling).speech_tokens.tolist())
    assert replies[0] == replies[1] != replies[2]


def test_a_stop_text_ends_a_reply_before_it_and_the_reply_tells_how_it_ended(chat):
    chat.reset()
    whole = chat.branch().ask("hello", speech=False, sampling=Sampling(max_new_tokens=12))
    assert whole.finish_reason == "length" and whole.usage.steps == 12
    middle = whole.text[len(whole.text) // 2 :][:3]
    sampling = Sampling(max_new_tokens=12, stop=("never said", middle))
    events = list(chat.stream("hello", speech=False, sampling=sampling))
    reply = events[-1].reply
    assert reply.text == whole.text[: whole.text.index(middle)]
    assert reply.text == "".join(e.text for e in events if isinstance(e, TextDelta))
    assert reply.finish_reason == "stop" and 0 < reply.usage.steps < 12
    assert reply.usage.prompt_steps == whole.usage.prompt_steps > 0
    again = chat.ask("and?", speech=False, sampling=Sampling(max_new_tokens=2))
    assert again.usage.prompt_steps > reply.usage.prompt_steps  # the history holds the cut reply


def test_stop_texts_are_found_across_pieces_and_a_beginning_of_one_is_given_in_the_end():
    stops = StopTexts(("END", "xx"))
    assert [stops.push(p) for p in ("abE", "N", "Cx", "y")] == ["ab", "", "ENC", "xy"]
    assert stops.push("E", last=True) == "E" and not stops.found
    assert stops.push("1EN") + stops.push("D2") + stops.push("3", last=True) == "1" and stops.found
    with pytest.raises(FunAudioChatError, match="stop is"):
        Sampling(stop="END")


def test_a_conversation_resumes_from_given_turns_and_answers_a_turn_with_words_and_audio(chat):
    chat.reset()
    sampling = Sampling(max_new_tokens=4)
    first = chat.ask("hello", speech=False, sampling=sampling)
    expected = chat.branch().ask("and you?", speech=False, sampling=sampling)
    other = chat.branch()
    other.resume([Turn("user", "hello"), Turn("assistant", first.text)])
    *_, done = other.stream_turn(Turn("user", "and you?"), speech=False, sampling=sampling)
    assert done.reply.text == expected.text


def test_a_text_answer_follows_the_values_it_is_given_and_is_exact_without(chat):
    def answer(**values):
        sampling = Sampling(max_new_tokens=12, **values)
        return chat.branch().ask("hello", speech=False, sampling=sampling).text

    chat.reset()
    exact = answer()
    assert answer(seed=1) == exact
    hot = [answer(temperature=5.0, seed=seed) for seed in (1, 1, 2)]
    assert hot[0] == hot[1] and len({exact, *hot}) == 3
    assert answer(text_greedy=False, seed=1) != answer(text_greedy=False, seed=2)
    assert answer(temperature=5.0, text_greedy=True) == exact
    assert answer(temperature=5.0, greedy=True) == exact


def prompt_text(chat, speech=True):
    turns = [chat._system(chat._tools, speech), *chat._history, Turn("user", "next")]
    ids = chat.prepare([turns])["input_ids"][0]
    return chat.processor.tokenizer.decode(ids)


def test_history_keeps_spoken_questions_and_text_answers(chat):
    first = chat.ask(audio=question(), sampling=GREEDY)
    text = prompt_text(chat)
    assert text.startswith(f"<|im_start|>system\n{DEFAULT_S2M_PROMPT}<|im_end|>")
    assert text.count("<|AUDIO|>") == 6  # 1.2 s are 30 tokens
    assert first.text in text.split("<|im_start|>assistant\n")[1]
    assert DEFAULT_S2T_PROMPT in prompt_text(chat, speech=False)


def test_history_is_cut_to_eight_rounds(chat):
    for index in range(10):
        chat.ask(f"question {index}", speech=False, sampling=Sampling(max_new_tokens=2))
    text = prompt_text(chat)
    assert "question 1<" not in text and "question 2<" in text and "question 9<" in text


def test_an_interrupted_answer_stays_as_far_as_it_was_given(chat):
    events = chat.stream(audio=question(), sampling=GREEDY)
    heard = ""
    for event in events:
        if isinstance(event, TextDelta):
            heard += event.text
            break
    events.close()
    assert chat._history[-1].content in ("", heard)
    assert [turn.role for turn in chat._history] == ["user", "assistant"]


def test_tools_go_into_the_prompt_and_results_continue(chat):
    chat.ask(audio=question(), tools=TOOLS, sampling=GREEDY)
    assert json.dumps(TOOLS[0]) in prompt_text(chat, speech=False)
    reply = chat.tool_result({"time": "12:30"}, sampling=GREEDY)
    assert reply.audio is not None
    assert '<tool_response>\n{"time": "12:30"}\n</tool_response>' in prompt_text(chat)


def test_the_answer_to_a_tool_result_streams_what_asking_gives(chat):
    chat.ask(audio=question(), tools=TOOLS, sampling=GREEDY)
    other = chat.branch()
    asked = chat.tool_result({"time": "12:30"}, sampling=GREEDY)
    events = list(other.stream_tool_result({"time": "12:30"}, sampling=GREEDY))
    assert events[-1].reply.speech_tokens.tolist() == asked.speech_tokens.tolist()
    assert any(isinstance(event, AudioChunk) for event in events)


def test_a_branch_leaves_the_conversation_as_it_is(chat):
    chat.ask(audio=question(), sampling=GREEDY)
    before, other = prompt_text(chat), chat.branch()
    other.ask(audio=question(), sampling=GREEDY)
    assert prompt_text(chat) == before != prompt_text(other)


def test_an_answer_can_be_cut_to_what_was_heard(chat):
    chat.ask(audio=question(), sampling=GREEDY)
    chat.truncate_last_reply("half")
    assert prompt_text(chat).split("<|im_start|>assistant\n")[1].startswith("half<|im_end|>")


def test_tool_calls_are_parsed_and_malformed_ones_reported():
    good = '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>'
    calls, problems = parse_tool_calls(f"Wait. {good} {good.replace('f', 'g', 1)}")
    assert [(call.name, call.arguments) for call in calls][0] == ("f", {"a": 1})
    assert not problems
    for bad in ("{broken", '{"name": "f"}', '{"name": 3, "arguments": {}}', "[]"):
        calls, problems = parse_tool_calls(f"<tool_call>{bad}</tool_call>")
        assert not calls and len(problems) == 1 and "malformed" in problems[0]
    assert parse_tool_calls("<tool_call>{")[1] == ["a <tool_call> block is not closed"]


def test_voices_are_chosen_by_name(folders, chat):
    ben = VoiceChat.from_pretrained(*folders, device="cpu", voice="ben")
    assert not torch.equal(ben.speaker, chat.speaker)
    with pytest.raises(VoiceError, match="available: anna, ben"):
        VoiceChat.from_pretrained(*folders, device="cpu", voice="carl")


def test_a_device_that_is_not_there_is_named(folders):
    for device in ("banana", "cuda:99"):
        with pytest.raises(FunAudioChatError, match=f"device '{device}' cannot be used"):
            VoiceChat.from_pretrained(folders[0], device=device)


def test_parts_of_different_checkpoints_are_refused(folders, tmp_path):
    shutil.copytree(folders[0], tmp_path / "model")
    path = tmp_path / "model" / "speech_tokenizer" / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"audio_group_size": 4}))
    with pytest.raises(CheckpointError, match="say 4 speech tokens per group.*says 5"):
        VoiceChat.from_pretrained(tmp_path / "model", device="cpu")
    path = tmp_path / "model" / "chat_template.jinja"
    path.write_text("{% for message in %}")
    with pytest.raises(CheckpointError, match="chat_template.jinja"):
        FunAudioChatProcessor.from_pretrained(tmp_path / "model").apply_chat_template([])
    tts = build_cosyvoice3_folder(tmp_path / "tts")
    weights = torch.load(tts / "flow.pt", weights_only=True)
    weights["input_embedding.weight"] = weights["input_embedding.weight"][:100].clone()
    torch.save(weights, tts / "flow.pt")
    settings = tts / "cosyvoice3.yaml"
    settings.write_text(settings.read_text().replace("vocab_size: 6561", "vocab_size: 100"))
    with pytest.raises(CheckpointError, match="speaks 125 speech tokens.*knows 100.*--tts-path"):
        VoiceChat.from_pretrained(
            folders[0], tts, device="cpu", voices_file=folders[1] / "voices.safetensors"
        )


@pytest.mark.parametrize(
    "setting",
    [
        {"max_new_tokens": 0},
        {"temperature": 0.0},
        {"top_p": 1.5},
        {"repetition_penalty": -1.0},
        {"seed": -1},
        {"top_k": -1},
    ],
)
def test_settings_nothing_can_be_chosen_by_are_refused(setting):
    with pytest.raises(FunAudioChatError, match=f"{next(iter(setting))} is"):
        Sampling(**setting)


def test_a_processor_of_another_model_is_refused(folders, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(folders[0], folder)
    path = folder / "processor_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "audio_token": "<|sil|>"}))
    with pytest.raises(CheckpointError, match="as id of <.sil.>, config.json says 387"):
        VoiceChat.from_pretrained(folder, device="cpu")


def test_text_that_is_not_greedy_never_begins_speech_with_silence(chat):
    text = chat.model.config.text_config

    def silence(_, __, scores):
        scores[..., text.sil_index] = 1e4

    chat.model.language_model.lm_head.register_forward_hook(silence)
    _, inputs, _ = load_case("f1_s2s_greedy")
    length = inputs["input_ids"].shape[1]
    for text_greedy in (False, True):
        sampling = Sampling(greedy=True, text_greedy=text_greedy, max_new_tokens=3)
        rows, _ = generate(chat.model, inputs, chat.generation_options(length, True, sampling))
        opened, first, second = rows[0, length:].tolist()
        assert opened == text.audio_bos_index and second == text.sil_index
        assert (first == text.sil_index) == text_greedy


def with_speech_sampling(folders, tmp_path, values):
    shutil.copytree(folders[0], tmp_path / "model")
    path = tmp_path / "model" / "generation_config.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    known.pop("_from_model_config", None)
    path.write_text(json.dumps({**known, "speech_sampling": values}))
    return VoiceChat.from_pretrained(tmp_path / "model", folders[1], device="cpu")


def test_a_folder_may_say_how_its_tokens_are_chosen(chat, folders, tmp_path):
    own = {"temperature": 0.3, "repetition_penalty": 1.0}
    special = with_speech_sampling(folders, tmp_path, own)
    plain, asked = (
        chat.branch().ask(audio=question(), sampling=Sampling(seed=4, max_new_tokens=12, **values))
        for values in ({}, own)
    )
    found, overruled = (
        special.branch().ask(
            audio=question(), sampling=Sampling(seed=4, max_new_tokens=12, **values)
        )
        for values in ({}, {"temperature": 0.8, "repetition_penalty": 1.2})
    )
    assert (
        found.speech_tokens.tolist() == asked.speech_tokens.tolist() != plain.speech_tokens.tolist()
    )
    assert overruled.speech_tokens.tolist() == plain.speech_tokens.tolist()


@pytest.mark.parametrize("values", [{"temperature": 0}, {"top_p": "high"}, {"greed": 1}, [3]])
def test_a_folder_that_says_it_wrongly_is_refused(values, folders, tmp_path):
    with pytest.raises(CheckpointError, match="speech_sampling in generation_config.json"):
        with_speech_sampling(folders, tmp_path, values)


def test_without_any_voice_the_error_names_two_ways_to_one(folders, tmp_path):
    tts = build_cosyvoice3_folder(tmp_path / "tts")
    with pytest.raises(VoiceError, match="download --only voices.*voices add NAME"):
        VoiceChat.from_pretrained(folders[0], tts, device="cpu", voices_file=tmp_path / "none.pt")


def test_the_originals_voice_file_is_read(folders, tmp_path):
    vector = torch.randn(1, 192)
    info = {"embedding": vector, "speech_token": torch.zeros(1, 3), "speech_feat": torch.zeros(1)}
    torch.save({"中文男": {**info, "embedding": -vector}, "中文女": info}, tmp_path / "spk.pt")
    chat = VoiceChat.from_pretrained(*folders, device="cpu", voices_file=tmp_path / "spk.pt")
    assert torch.equal(chat.speaker, vector[0])


def test_too_long_audio_is_refused_and_says_how_long_is_allowed(chat):
    with pytest.raises(AudioError, match="819.2 s are allowed"):
        chat.ask(audio=question(820))
    chat.model.config.text_config.max_position_embeddings = 60
    with pytest.raises(AudioError, match="less than 12 s"):
        chat.ask(audio=question(8))


def test_two_conversations_on_one_model_do_not_mix(folders):
    first = VoiceChat.from_pretrained(*folders, device="cpu")
    second = VoiceChat(first.model, first.processor, first.detokenizer, first.speaker)
    alone = [
        chat.ask(audio=question(pitch_hz=p), sampling=GREEDY)
        for chat, p in ((first, 200.0), (second, 700.0))
    ]
    first.reset()
    second.reset()
    streams = [
        first.stream(audio=question(pitch_hz=200.0), sampling=GREEDY),
        second.stream(audio=question(pitch_hz=700.0), sampling=GREEDY),
    ]
    done = [None, None]
    while None in done:
        for index, events in enumerate(streams):
            event = next(events, None)
            if isinstance(event, ReplyDone):
                done[index] = event.reply
    for reply, expected in zip(done, alone, strict=True):
        assert (
            reply.text == expected.text
            and reply.speech_tokens.tolist() == expected.speech_tokens.tolist()
        )


@pytest.fixture
def lengths(chat, monkeypatch):
    """How many positions of each prompt the backbone reads."""
    found, encode = [], chat.model.encode

    def noting(input_ids, **inputs):
        found.append(input_ids.shape[1])
        return encode(input_ids, **inputs)

    monkeypatch.setattr(chat.model, "encode", noting)
    return found


def talk(chat, fresh):
    """A conversation with all that changes a prompt; forgetting the earlier ones if `fresh`."""
    replies = []

    def ask(chat, seed, **question):
        if fresh:
            chat._read_prompts.clear()
        sampling = Sampling(seed=seed, temperature=1.2, max_new_tokens=8)
        reply = chat.ask(sampling=sampling, **question)
        replies.append((reply.text, reply.speech_tokens.tolist(), reply.usage.prompt_steps))

    ask(chat, 1, audio=question())
    ask(chat, 2, audio=question(0.7), text="And this?")
    ask(chat, 3, text="Write it down.", speech=False)
    ask(chat, 4, audio=question(0.7))  # the written reply has left the spoken one's prompt alone
    left = chat.branch()
    stream = left.stream(audio=question(), sampling=Sampling(seed=5, max_new_tokens=8))
    next(stream)
    running = chat.branch()  # while its prompt is taken
    ask(running, 6, text="Again, please.")
    stream.close()
    ask(left, 7, text="Go on.")
    chat.truncate_last_reply("Not all.")
    ask(chat, 8, audio=question())
    chat.system = "You are terse."
    ask(chat, 9, text="Now?")
    return replies


def test_a_prompt_that_begins_like_an_earlier_one_is_read_from_where_it_differs(
    chat, lengths, monkeypatch
):
    monkeypatch.setattr(prompt_blocks, "CPU_POSITIONS", 24)
    wanted = talk(chat, fresh=True)
    whole = lengths.copy()
    chat.resume([])
    chat.system = None
    chat._read_prompts.clear()
    lengths.clear()
    assert talk(chat, fresh=False) == wanted
    assert len(lengths) == len(whole) and lengths[0] == whole[0]
    shorter = [now < before / 2 for now, before in zip(lengths, whole, strict=True)]
    assert shorter[1] and shorter[3] and shorter[6] and shorter[7], (lengths, whole)


def test_prompts_of_one_length_with_other_audio_share_what_stands_before_it(chat, lengths):
    first, second = chat.branch(), chat.branch()
    first.ask(audio=question(), sampling=GREEDY)
    samples, rate = question()
    wanted = chat.branch()
    wanted._read_prompts = {}
    other = (samples[::-1].copy(), rate)
    reply = second.ask(audio=other, sampling=GREEDY)
    assert 0 < lengths[1] < lengths[0]
    assert reply.speech_tokens.tolist() == (
        wanted.ask(audio=other, sampling=GREEDY).speech_tokens.tolist()
    )
