# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

# ruff: noqa: E501
"""Rates, sizes, special tokens and prompts: the one home of every constant of the model.

The prompts are part of the checkpoint, which was trained with exactly these bytes.
``utils/constant.py`` repeats the reference's own part under the reference's import path.
"""

INPUT_RATE_HZ = 16_000  # waveforms that the model hears
OUTPUT_RATE_HZ = 24_000  # waveforms of the official detokenizer
TOKEN_FPS = 25  # speech tokens per second
GROUP_SIZE = 5  # speech tokens per step
STEPS_PER_SECOND = TOKEN_FPS // GROUP_SIZE
CODEBOOK_SIZE = 6561  # speech tokens of the official tokenizer
MAX_NEW_TOKENS = 2048  # longest reply the checkpoints are used for, in steps: almost seven minutes

AUDIO_TEMPLATE = "<|audio_bos|><|AUDIO|><|audio_eos|>"
AUDIO_PAD_TOKEN = "<|audio_pad|>"
AUDIO_BOS_TOKEN = "<|audio_bos|>"

DEFAULT_S2T_PROMPT = "You are asked to generate text tokens."
DEFAULT_S2M_PROMPT = "You are asked to generate both text and speech tokens at the same time."
SPOKEN_S2M_PROMPT = (
    DEFAULT_S2M_PROMPT
    + " 你的名字是小云。你是一位来自杭州的温柔友善的女孩，声音甜美，举止亲切。你的回复语气自然友好，力求沟通简洁明了。你的回复简短，通常只有一到三句话，避免使用正式的称谓和重复的短语。你能用恰当的声音回复，遵循用户的指示，并能共情他们的情绪。你能用恰当的方言回复，会说四川话和粤语。"
)
FUNCTION_CALLING_PROMPT = (
    DEFAULT_S2T_PROMPT
    + """
# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>
{tools_definition}
</tools>

For each function call, return a json object with function name and arguments within <tool_call></tool_call> XML tags:
<tool_call>
{"name": <function-name>, "arguments": <args-json-object>}
</tool_call>"""
)
WEIGHTS = ("fp32", "bf16", "int8", "int4")  # forms in which weights of decoding may be stored

TRANSCRIBE_PROMPT = "Please help me transcribe the audio."

DEFAULT_SP_GEN_KWARGS = {
    "text_greedy": False,
    "only_crq_sampling": True,
    "disable_speech": False,
    "force_text_abos": True,
}
DEFAULT_S2M_GEN_KWARGS = {
    "do_sample": True,
    "temperature": 0.8,
    "top_p": 0.9,
    "top_k": 0,
    "num_beams": 1,
    "max_new_tokens": 512,
    "repetition_penalty": 1.2,
    "length_penalty": 1.0,
    "eos_token_id": 151645,
    "pad_token_id": 151643,
}

MAX_HISTORY_TURNS = 8
