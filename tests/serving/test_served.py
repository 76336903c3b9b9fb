# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""``vllm serve`` on our folder: the official client, tools, streaming, and our own client."""

import json
from importlib.metadata import version

import pytest

from funaudiochat.chat_protocol import audio_part
from funaudiochat.constants import DEFAULT_S2T_PROMPT
from funaudiochat.events import ReplyDone, TextDelta
from funaudiochat.remote_chat import ChatCompletionsClient, RemoteChat
from funaudiochat.sampling import Sampling
from tests.serving.compare import compare, own_answers, served_answers

SHORT = Sampling(max_new_tokens=24)
HALF = "\ufffd"  # stands for a character whose last bytes never came
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "The weather in a city.",
            "parameters": {
                "type": "object",
                "properties": {"city": {"enum": ["Paris", "Rome"]}},
                "required": ["city"],
                "additionalProperties": False,
            },
        },
    }
]


@pytest.fixture(scope="module")
def client(url):
    from openai import OpenAI

    return OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)


def request(waveform, instruction=None, **options):
    """Arguments of the official client that ask what ``VoiceChat`` would compute."""
    content = [audio_part(waveform)]
    if instruction:
        content.append({"type": "text", "text": instruction})
    messages = [
        {"role": "system", "content": DEFAULT_S2T_PROMPT},
        {"role": "user", "content": content},
    ]
    fixed = {"model": "funaudiochat", "temperature": 0, "max_tokens": SHORT.max_new_tokens}
    return {
        **fixed, "messages": messages,
        "extra_body": {"repetition_penalty": 1.0, "return_token_ids": True}, **options,
    }  # fmt: skip


def test_the_repair_is_announced_where_it_was_needed(url, log):
    if not log.is_file():
        pytest.skip("the server of FUNAUDIOCHAT_SERVING_URL has its log elsewhere")
    announced = "cannot load the q, k and v weights of the mel encoder" in log.read_text()
    assert announced or not version("vllm").startswith(("0.32.", "0.33."))


def decoded(chat, answer) -> str:
    """The text of an answer's ids; vLLM's own drops a last character that never became whole."""
    ids = answer.choices[0].model_extra["token_ids"]
    return chat.processor.tokenizer.decode(ids, skip_special_tokens=True)


def test_fifty_spoken_questions_at_once_get_our_own_answers(url, chat, questions):
    waveforms = [waveform for waveform, _ in questions]
    most = SHORT.max_new_tokens
    theirs = served_answers(url, waveforms, most)
    found = compare(chat, waveforms, own_answers(chat, waveforms, most), theirs)
    print(found)
    assert found.answers == len(questions) and found.is_equal


def test_an_instruction_goes_with_the_audio(client, chat, questions):
    waveform, rate = questions[1]
    chat.reset()
    expected = chat.ask("Answer in one word.", audio=(waveform, rate), speech=False, sampling=SHORT)
    given = client.chat.completions.create(**request(waveform, "Answer in one word."))
    assert decoded(chat, given) == expected.text


def test_a_streamed_answer_comes_in_pieces(client, chat, questions):
    chat.reset()
    expected = chat.ask(audio=questions[2], speech=False, sampling=SHORT).text
    pieces = [
        chunk.choices[0].delta.content or ""
        for chunk in client.chat.completions.create(**request(questions[2][0], stream=True))
        if chunk.choices
    ]
    assert sum(map(bool, pieces)) > 1
    assert "".join(pieces) == expected.rstrip(HALF)


def test_tools_reach_the_model_as_its_own_prompt(client, chat, questions):
    waveform, rate = questions[3]
    chat.reset()
    expected = chat.ask(audio=(waveform, rate), tools=TOOLS, speech=False, sampling=SHORT)
    given = client.chat.completions.create(**request(waveform, tools=TOOLS))
    assert decoded(chat, given) == expected.text
    calls = given.choices[0].message.tool_calls or []
    named = [(c.function.name, json.loads(c.function.arguments)) for c in calls]
    assert named == [(c.name, c.arguments) for c in expected.tool_calls]


def test_a_required_call_is_well_formed(client, chat, questions):
    tokenizer = chat.processor.tokenizer
    strict = [{**tool, "function": {**tool["function"], "strict": True}} for tool in TOOLS]
    # Not every model knows lists of calls: without the blanks that JSON allows, and with the list
    # closed after one call, each of them ends.
    texts = {i: tokenizer.decode(i) for i in range(len(tokenizer))}
    bias = {i: -100 for i, text in texts.items() if text.isspace()}
    bias |= {i: 100 for i, text in texts.items() if text in ("]", "}]", "<|im_end|>")}
    given = client.chat.completions.create(
        **request(
            questions[4][0], tools=strict, tool_choice="required", max_tokens=120, logit_bias=bias
        )
    )
    (call,) = given.choices[0].message.tool_calls
    assert call.function.name == "get_weather"
    assert json.loads(call.function.arguments)["city"] in ("Paris", "Rome")


def test_our_own_client_holds_the_conversation_of_our_own_chat(url, chat, questions):
    remote = RemoteChat(ChatCompletionsClient(url))
    chat.reset()
    turns = [(None, questions[5]), ("Answer in one word.", questions[6]), ("and in writing?", None)]
    for text, audio in turns:
        here, there = (
            list(c.stream(text, audio=audio, speech=False, sampling=SHORT)) for c in (chat, remote)
        )
        assert isinstance(there[-1], ReplyDone)
        assert sum(isinstance(event, TextDelta) for event in there) > 1
        assert there[-1].reply.text == here[-1].reply.text.rstrip(HALF)
        chat._history = list(remote._history)


def test_what_exceeds_the_context_is_refused_in_words(client):
    from openai import BadRequestError

    message = {"role": "user", "content": "word " * 3000}
    with pytest.raises(BadRequestError, match="context length"):
        client.chat.completions.create(model="funaudiochat", messages=[message])
