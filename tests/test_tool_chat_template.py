# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""The chat template for servers turns OpenAI's messages into the prompts of ``VoiceChat``."""

import json
from pathlib import Path

from transformers import PreTrainedTokenizerFast

import funaudiochat
from funaudiochat.constants import AUDIO_TEMPLATE, DEFAULT_S2T_PROMPT, FUNCTION_CALLING_PROMPT
from tests.helpers.golden import TINY_A

TEMPLATE = (Path(funaudiochat.__file__).parent / "tool_chat_template.jinja").read_text()
QUESTION = {"role": "user", "content": AUDIO_TEMPLATE}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": "Wie spät ist es in 北京? <now>",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    }
    for name in ("get_time", "get_date")
]


def prompt(messages, **options):
    tokenizer = PreTrainedTokenizerFast.from_pretrained(TINY_A)
    return tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True, **options
    )


def system(text):
    return {"role": "system", "content": text}


def test_tools_become_the_function_calling_prompt():
    definitions = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in TOOLS)
    trained = FUNCTION_CALLING_PROMPT.replace("{tools_definition}", definitions)
    expected = prompt([system(trained), QUESTION])
    assert prompt([QUESTION], tools=TOOLS, chat_template=TEMPLATE) == expected
    with_system = [system(DEFAULT_S2T_PROMPT), QUESTION]
    assert prompt(with_system, tools=TOOLS, chat_template=TEMPLATE) == expected


def test_calls_and_their_results_are_written_as_the_model_writes_and_reads_them():
    function = {"name": "get_time", "arguments": {"city": "北京"}}
    call = {"id": "1", "type": "function", "function": function}
    messages = [
        QUESTION,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": '{"time": "12:30"}'},
    ]
    written = json.dumps(function, ensure_ascii=False)
    expected = [
        system(DEFAULT_S2T_PROMPT),
        QUESTION,
        {"role": "assistant", "content": f"<tool_call>\n{written}\n</tool_call>"},
        {"role": "user", "content": '<tool_response>\n{"time": "12:30"}\n</tool_response>'},
    ]
    assert prompt(messages, chat_template=TEMPLATE) == prompt(expected)


def test_without_tools_it_is_the_template_of_the_checkpoints():
    messages = [system("Be brief."), QUESTION, {"role": "assistant", "content": "Yes."}, QUESTION]
    assert prompt(messages, chat_template=TEMPLATE) == prompt(messages)
