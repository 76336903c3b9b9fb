# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Build the initial joint model.

    python -m training.nano.new_model                    # models/new: untrained
    python -m training.nano.new_model --llm models/text  # models/begin: text and audio

The first has a byte-level BPE trained on the domain's sentences and prompts, with the special
tokens of the official tokenizer, and random weights except for heads that copy text
(``training.nano.copying``) and for what words mean (``training.nano.meanings``). The second joins
the language model of the first stages with the mel encoder and the adapter of ``train_encoder``.
Both are written below ``--work``, in the published layout.

With ``--audio-encoder`` the first uses Whisper's encoder as its mel encoder, and with ``--ears``
the second uses that encoder as trained by ``train_ears``. With ``--head`` the second takes the
refined head of another model, which must use the same speech tokenizer.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain
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
from torch import Tensor
from transformers import PreTrainedTokenizerFast, WhisperFeatureExtractor

from funaudiochat.constants import (
    CODEBOOK_SIZE,
    DEFAULT_S2M_PROMPT,
    DEFAULT_S2T_PROMPT,
    FUNCTION_CALLING_PROMPT,
    TRANSCRIBE_PROMPT,
)
from funaudiochat.modeling_funaudiochat import FunAudioChatForConditionalGeneration
from funaudiochat.processing_funaudiochat import FunAudioChatProcessor
from training.init_model import speech_tokenizer
from training.nano import train_encoder as encoder
from training.nano.copying import begin_with_copying
from training.nano.data import DIALOGUES, WORK, read_jsonl
from training.nano.domain import Domain
from training.nano.ears import PACKAGED, Ears, open_whisper
from training.nano.meanings import meanings_folder, word_vectors
from training.nano.rows import tool_prompt, words
from training.nano.sizes import AUDIO, nano_config, whisper_audio
from training.nano.tokenizer import DIGITS, digits_of
from training.whisper_encoder import WhisperEncoder

# Enough for every word of the domain: a transcript must not be longer than its speech at 5 Hz.
TEXT_TOKENS = 4000
# Deviation of the speech token embeddings. At the usual 0.02, AdamW's updates, which are as large
# for unseen rows as for seen ones, would erase the structure of the digits within a hundred steps.
TOKEN_DEVIATION = 0.2
SPECIAL = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>",
    "<|audio_extra|>", "<|sil|>",
)  # fmt: skip
MARKUP = ("<tool_call>", "</tool_call>", "<think>", "</think>")
# As tokens, the prompts of every question cost one position instead of up to a hundred.
PROMPTS = (
    DEFAULT_S2T_PROMPT,
    DEFAULT_S2M_PROMPT,
    *FUNCTION_CALLING_PROMPT.split("{tools_definition}"),
)
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# Qwen's pattern: words with their leading space, single digits, runs of punctuation, line ends.
_PIECES = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# Maps words and a width to unit vectors [words, width].
WordVectors = Callable[[Sequence[str], int], Tensor]
# A space and a line end as byte-level BPE writes them.
_SPACE, _LINE_END = "Ġ", "Ċ"


def _texts(work: Path, dialogues: int) -> Iterator[str]:
    """Yield the texts that the model reads or writes in this many dialogues."""
    domain = Domain()
    for index in range(dialogues):
        for split in ("train", "conversation"):
            for message in domain.dialogue(split, index).messages:
                yield message.text
                if message.role == "user":
                    yield "".join(words(message.text))
    yield from (record["text"] for record in read_jsonl(work / "answers.jsonl"))
    # Often enough to become long tokens.
    yield from [TRANSCRIBE_PROMPT, tool_prompt(domain.spec["tools"])] * 300
    yield from ("system\n", "user\n", "assistant\n")


def train_tokenizer(work: Path, dialogues: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE on the training text, with the special tokens last."""
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
    bpe.train_from_iterator(_texts(work, dialogues), trainer)
    bpe.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in SPECIAL])
    fixed = (*MARKUP, *PROMPTS)
    bpe.add_tokens([AddedToken(t, normalized=False, special=False) for t in fixed])
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=list(SPECIAL[1:]),
        chat_template=CHAT_TEMPLATE,
        model_max_length=4096,
    )


def _by_word(vocab: dict[str, int]) -> dict[str, list[int]]:
    """Map every word to its tokens, with or without a space or a capital."""
    found: dict[str, list[int]] = {}
    for piece, token in vocab.items():
        word = piece.removeprefix(_SPACE).lower()
        if word.isalpha():
            found.setdefault(word, []).append(token)
    return found


def alike(vocab: dict[str, int]) -> list[list[int]]:
    """Group the tokens that stand for the same word, with or without a space or a capital.

    The line end before an answer and the beginning of audio are a group, too: the first word of a
    transcript is the word after the latter.
    """
    same = [tokens for tokens in _by_word(vocab).values() if len(tokens) > 1]
    return [*same, [vocab[_LINE_END], vocab["<|audio_bos|>"]]]


def meanings_of(
    vocab: dict[str, int], vectors: WordVectors, width: int
) -> tuple[list[int], Tensor]:
    """Return the tokens of three letters or more, and vectors [tokens, width] of their meanings."""
    known = {word: tokens for word, tokens in _by_word(vocab).items() if len(word) > 2}
    forms = torch.tensor([len(tokens) for tokens in known.values()])
    found = list(chain.from_iterable(known.values()))
    return found, vectors(list(known), width).repeat_interleave(forms, 0)


def digit_embeddings(width: int, deviation: float) -> Tensor:
    """Draw embeddings [6561, width] of the speech tokens, similar for similar tokens.

    A token is eight ternary digits (``tokenizer.tokens_of``), and its embedding is the sum of
    theirs, so that what is learned about one token applies to its neighbours from the start. The
    head's projection is tied to these weights.
    """
    values = torch.randn(DIGITS, 3, width) * deviation * DIGITS**-0.5
    digits = digits_of(torch.arange(CODEBOOK_SIZE)).long() + 1
    return values[torch.arange(DIGITS), digits].sum(1)


def new_model(
    work: Path,
    dialogues: int = DIALOGUES,
    whisper: WhisperEncoder | None = None,
    vectors: WordVectors | None = None,
) -> None:
    """Write ``models/new``, with Whisper's encoder and vectors of what words mean if given."""
    tokenizer = train_tokenizer(work, dialogues)
    vocab = tokenizer.get_vocab()
    torch.manual_seed(0)
    audio = whisper_audio(whisper.sizes) if whisper else AUDIO
    config = nano_config(vocab, -(-len(vocab) // 16) * 16, audio)
    model = FunAudioChatForConditionalGeneration(config)
    meant = partial(meanings_of, vocab, vectors) if vectors else None
    begin_with_copying(model.language_model, vocab["<|sil|>"], alike(vocab), meant)
    if whisper:
        model.continuous_audio_tower = Ears(whisper, audio["output_dim"]).encoder
    model.generation_config.update(
        eos_token_id=[vocab["<|im_end|>"], vocab["<|endoftext|>"]],
        bos_token_id=vocab["<|endoftext|>"],
        pad_token_id=vocab["<|endoftext|>"],
    )
    embeddings = model.audio_tower.embed_tokens.weight
    embeddings.data[:CODEBOOK_SIZE] = digit_embeddings(embeddings.shape[1], TOKEN_DEVIATION)
    model.save_pretrained(work / "models" / "new")
    extractor = whisper.extractor if whisper else WhisperFeatureExtractor(feature_size=128)
    processor = FunAudioChatProcessor(extractor, tokenizer, speech_tokenizer())
    processor.save_pretrained(work / "models" / "new")


def begin(
    work: Path, llm: Path, folder: Path, ears: Path | None = None, head: Path | None = None
) -> None:
    """Join a language model with a trained mel encoder and, optionally, a trained head.

    Args:
        work: data folder, with the checkpoint of ``train_encoder``.
        llm: folder of the language model.
        folder: output folder.
        ears: checkpoint of ``train_ears`` to use instead; ``llm`` must have the same Whisper
            encoder.
        head: joint model of the same sizes from which the refined head and the embeddings of the
            speech tokens are taken; both models must use the same speech tokenizer.
    """
    model = FunAudioChatForConditionalGeneration.from_pretrained(llm)
    if ears:
        weights = torch.load(ears, weights_only=True)["model"]
    else:
        weights = encoder.EncoderRun(work, llm).model.state_dict()
    heard = {k.removeprefix("encoder."): v for k, v in weights.items() if k.startswith("encoder.")}
    model.continuous_audio_tower.load_state_dict(heard)
    if head:
        trained = FunAudioChatForConditionalGeneration.from_pretrained(head)
        model.audio_tower.load_state_dict(trained.audio_tower.state_dict())
        model.audio_invert_tower.load_state_dict(trained.audio_invert_tower.state_dict())
    model.audio_tower.continual_output_matching.weight.data = weights["adapter.weight"]
    model.save_pretrained(folder)
    FunAudioChatProcessor.from_pretrained(llm).save_pretrained(folder)


def main() -> None:
    """Command line; see the module's text."""
    parser = argparse.ArgumentParser(description="Build the initial joint model.")
    parser.add_argument("--work", type=Path, default=WORK, help="data folder")
    parser.add_argument(
        "--llm", type=Path, help="folder of the language model, relative to the data folder"
    )
    parser.add_argument("--audio-encoder", help=f'Whisper folder, or "{PACKAGED}" for tiny.en')
    parser.add_argument(
        "--ears", type=Path, help="checkpoint of train_ears, relative to the data folder"
    )
    parser.add_argument("--head", type=Path, help="joint model whose head is taken")
    args = parser.parse_args()
    if args.llm is None:
        whisper = open_whisper(args.audio_encoder) if args.audio_encoder else None
        vectors = partial(word_vectors, meanings_folder())
        new_model(args.work, whisper=whisper, vectors=vectors)
    else:
        ears = args.ears and args.work / args.ears
        begin(args.work, args.work / args.llm, args.work / "models" / "begin", ears, args.head)


if __name__ == "__main__":
    main()
