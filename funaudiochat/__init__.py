# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Fun-Audio-Chat: talk with a dual-resolution speech language model (arXiv 2512.20156).

Ask a question by text or audio and get text and speech back::

    from funaudiochat import VoiceChat

    chat = VoiceChat.from_pretrained()
    reply = chat.ask(audio="question.wav")
    print(reply.text, reply.audio)

Names are imported on first use, so ``import funaudiochat`` loads neither torch nor transformers.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from funaudiochat.audio import load_audio as load_audio
    from funaudiochat.audio import save_wav as save_wav
    from funaudiochat.configuration_funaudiochat import FunAudioChatConfig as FunAudioChatConfig
    from funaudiochat.conversation import Conversation as Conversation
    from funaudiochat.cosyvoice3.detokenizer import CosyVoice3Detokenizer as CosyVoice3Detokenizer
    from funaudiochat.cosyvoice3.speech_tokenizer import SpeechTokenizer as SpeechTokenizer
    from funaudiochat.errors import FunAudioChatError as FunAudioChatError
    from funaudiochat.events import AudioChunk as AudioChunk
    from funaudiochat.events import Reply as Reply
    from funaudiochat.events import ReplyDone as ReplyDone
    from funaudiochat.events import SpeechTokens as SpeechTokens
    from funaudiochat.events import TextDelta as TextDelta
    from funaudiochat.modeling_funaudiochat import (
        FunAudioChatForConditionalGeneration as FunAudioChatForConditionalGeneration,
    )
    from funaudiochat.processing_funaudiochat import FunAudioChatProcessor as FunAudioChatProcessor
    from funaudiochat.remote_chat import ChatCompletionsClient as ChatCompletionsClient
    from funaudiochat.remote_chat import RemoteChat as RemoteChat
    from funaudiochat.sampling import Sampling as Sampling
    from funaudiochat.turns import Turn as Turn
    from funaudiochat.voice_chat import VoiceChat as VoiceChat

__version__ = "0.1.0"

_MODULES = {
    "AudioChunk": "events",
    "ChatCompletionsClient": "remote_chat",
    "Conversation": "conversation",
    "CosyVoice3Detokenizer": "cosyvoice3.detokenizer",
    "FunAudioChatConfig": "configuration_funaudiochat",
    "FunAudioChatError": "errors",
    "FunAudioChatForConditionalGeneration": "modeling_funaudiochat",
    "FunAudioChatProcessor": "processing_funaudiochat",
    "RemoteChat": "remote_chat",
    "Reply": "events",
    "ReplyDone": "events",
    "Sampling": "sampling",
    "SpeechTokenizer": "cosyvoice3.speech_tokenizer",
    "SpeechTokens": "events",
    "TextDelta": "events",
    "Turn": "turns",
    "VoiceChat": "voice_chat",
    "load_audio": "audio",
    "save_wav": "audio",
}
__all__ = ["__version__", *_MODULES]


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value  # so that the next look-up does not come here
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
