# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Make the joint model that training begins with.

    python -m training.nano.new_model                        # models/new: knows nothing
    python -m training.nano.new_model --llm models/text      # models/begin: text and phones

The first has a byte-level BPE of the domain's sentences and prompts, with the special tokens of the
official tokenizer, and random weights. The second takes the backbone that the text stage made and
the mel encoder of ``train_encoder``, as the paper begins with a language model and a speech
encoder. Both are below ``--work``, in the published layout.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import torch
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)
from transformers import PreTrainedTokenizerFast, WhisperFeatureExtractor

from funaudiochat.modeling_funaudiochat import FunAudioChatForConditionalGeneration
from funaudiochat.processing_funaudiochat import FunAudioChatProcessor
from training.nano.data import WORK, read_jsonl
from training.nano.domain import Domain
from training.nano.rows import TRANSCRIBE, tool_prompt
from training.nano.sizes import GROUP_SIZE, nano_config
from training.nano.tokenizer import CODES
from utils.constant import DEFAULT_S2M_PROMPT, DEFAULT_S2T_PROMPT

# Room for every word of the domain: a transcript must not outlast its speech at 5 Hz.
TEXT_TOKENS = 2000
# Of the matrix behind the mel encoder: its vectors begin as large as those of text.
SOUND_GAIN = 0.15
SPECIAL = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>",
    "<|audio_extra|>", "<|sil|>",
)  # fmt: skip
MARKUP = ("<tool_call>", "</tool_call>", "<think>", "</think>")
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# Qwen's: words with the space before them, single digits, runs of marks, line ends.
_PIECES = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _texts(work: Path) -> Iterator[str]:
    """What the model reads or writes."""
    for record in read_jsonl(work / "dialogues" / "train.jsonl"):
        yield from (message["text"] for message in record["messages"])
    yield from (record["text"] for record in read_jsonl(work / "answers.jsonl"))
    # Often enough to become long tokens: prompts should cost few positions.
    tools = tool_prompt(Domain().spec["tools"])
    yield from [DEFAULT_S2M_PROMPT, DEFAULT_S2T_PROMPT, TRANSCRIBE, tools] * 300
    yield from ("system\n", "user\n", "assistant\n")


def train_tokenizer(work: Path) -> PreTrainedTokenizerFast:
    """Byte-level BPE of the training text, special tokens last."""
    bpe = Tokenizer(models.BPE())
    bpe.normalizer = normalizers.NFC()
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=TEXT_TOKENS, initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator(_texts(work), trainer)
    bpe.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in SPECIAL])
    bpe.add_tokens([AddedToken(t, normalized=False, special=False) for t in MARKUP])
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=list(SPECIAL[1:]),
        chat_template=CHAT_TEMPLATE,
        model_max_length=4096,
    )


def speech_tokenizer() -> PreTrainedTokenizerFast:
    """The vocabulary of speech codes: ``[AU0000]`` and on, start, end, padding, unknown."""
    names = [f"[AU{code:04d}]" for code in range(CODES)]
    names += ["<|audio_bos|>", "<|audio_eos|>", "<|audio_pad|>", "<|audio_unk|>"]
    words = {name: index for index, name in enumerate(names)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token=names[-1]))
    piece = Regex(r"\[AU\d{4}\]|<\|[a-z_]+\|>")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(piece, "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=names[-4],
        eos_token=names[-3],
        pad_token=names[-2],
        unk_token=names[-1],
        audio_group_size=GROUP_SIZE,
        clean_up_tokenization_spaces=False,
    )


def new_model(work: Path) -> None:
    """Write ``models/new``."""
    tokenizer = train_tokenizer(work)
    vocab = tokenizer.get_vocab()
    torch.manual_seed(0)
    model = FunAudioChatForConditionalGeneration(nano_config(vocab, -(-len(vocab) // 16) * 16))
    model.generation_config.update(
        eos_token_id=[vocab["<|im_end|>"], vocab["<|endoftext|>"]],
        bos_token_id=vocab["<|endoftext|>"],
        pad_token_id=vocab["<|endoftext|>"],
    )
    model.save_pretrained(work / "models" / "new")
    processor = FunAudioChatProcessor(
        WhisperFeatureExtractor(feature_size=128), tokenizer, speech_tokenizer()
    )
    processor.save_pretrained(work / "models" / "new")


def begin(work: Path, llm: Path) -> None:
    """Write ``models/begin``: a text model that hears phones."""
    model = FunAudioChatForConditionalGeneration.from_pretrained(llm)
    heard = torch.load(work / "encoder.pt", weights_only=True)["model"]
    encoder = {
        name.removeprefix("encoder."): value
        for name, value in heard.items()
        if name.startswith("encoder.")
    }
    model.continuous_audio_tower.load_state_dict(encoder)
    torch.manual_seed(0)
    torch.nn.init.orthogonal_(model.audio_tower.continual_output_matching.weight, SOUND_GAIN)
    model.save_pretrained(work / "models" / "begin")
    FunAudioChatProcessor.from_pretrained(llm).save_pretrained(work / "models" / "begin")


def main() -> None:
    """Command line; see the module's text."""
    parser = argparse.ArgumentParser(description="Make the model that training begins with.")
    parser.add_argument("--work", type=Path, default=WORK, help="data folder")
    parser.add_argument("--llm", type=Path, help="folder of the text stage, below the data folder")
    args = parser.parse_args()
    if args.llm is None:
        new_model(args.work)
    else:
        begin(args.work, args.work / args.llm)


if __name__ == "__main__":
    main()
