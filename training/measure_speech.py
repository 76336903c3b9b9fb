# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Measure how well a model answers in speech: right, intelligible, and in whose voice."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import fmean

import jiwer
import numpy as np

from funaudiochat.audio import load_audio
from funaudiochat.constants import OUTPUT_RATE_HZ
from funaudiochat.errors import FunAudioChatError
from funaudiochat.sampling import Sampling
from funaudiochat.voice_chat import VoiceChat
from training.jsonl import read_lines
from training.make_pairs import Judge, Question, holds
from training.nano.words import normalized_words
from training.speech_measures import (
    pitch_range,
    similarity,
    speaker_embedding,
    speaker_encoder_available,
    speaking_rate,
)

MAX_NEW_TOKENS = 150
Speech = tuple[str, np.ndarray]  # text, and waveform [samples] at 24 kHz
_Measure = Callable[[Speech], float]


def read_recordings(path: Path) -> list[Speech]:
    """Read texts and recordings; audio files are relative to the file.

    Raises:
        FunAudioChatError: the file, a line or a recording cannot be read, or there are under two.
    """
    found = []
    for number, line in enumerate(read_lines(path), 1):
        try:
            fields = json.loads(line)
            waveform = load_audio(path.parent / fields["audio"], OUTPUT_RATE_HZ)
            found.append((str(fields["text"]), waveform))
        except (ValueError, KeyError, TypeError, FunAudioChatError) as error:
            raise FunAudioChatError(
                f"{path}, row {number}: must be a JSON object with audio and text ({error!r})"
            ) from error
    if len(found) < 2:
        raise FunAudioChatError(f"{path} has {len(found)} recordings; two are needed")
    return found


def voice_scores(speech: list[Speech], reference: list[Speech], judge: Judge) -> dict[str, float]:
    """Measure speech: word errors, pitch, speaking rate and similarity to recordings.

    Args:
        speech: what is measured; texts without audio count as not heard.
        reference: recordings of the voice that is wanted. A recording is compared with the others.
        judge: transcribes (waveform [samples], rate in Hz).

    Returns:
        ``wer_percent``, ``pitch_hz`` (mean of medians), ``pitch_range_semitones``,
        ``words_per_second`` and, where the encoder is installed, ``speaker_similarity``.
    """
    heard = [judge(waveform, OUTPUT_RATE_HZ) if len(waveform) else "" for _, waveform in speech]
    wanted = [" ".join(normalized_words(text)) or "nothing" for text, _ in speech]
    got = [" ".join(normalized_words(text)) for text in heard]
    audible = [(text, waveform) for text, waveform in speech if len(waveform)]
    scores = {"wer_percent": 100 * float(jiwer.wer(wanted, got))}
    pitches = [pitch_range(waveform, OUTPUT_RATE_HZ) for _, waveform in audible]
    scores["pitch_hz"] = _mean(middle for middle, _ in pitches)
    scores["pitch_range_semitones"] = _mean(width for _, width in pitches)
    scores["words_per_second"] = _mean(
        speaking_rate(text, waveform, OUTPUT_RATE_HZ) for text, waveform in audible
    )
    if reference and speaker_encoder_available():
        voice = {id(w): speaker_embedding(w, OUTPUT_RATE_HZ) for _, w in reference}
        audible_voices = {
            id(w): voice[id(w)] if id(w) in voice else speaker_embedding(w, OUTPUT_RATE_HZ)
            for _, w in audible
            if w.any()
        }
        scores["speaker_similarity"] = _mean(
            similarity(own, [other for key, other in voice.items() if key != waveform])
            for waveform, own in audible_voices.items()
        )
    return scores


def _mean(values: Iterable[float]) -> float:
    known = [value for value in values if not np.isnan(value)]
    return fmean(known) if known else float("nan")


def answer_scores(
    chat: VoiceChat, questions: list[Question], reference: list[Speech], judge: Judge
) -> dict[str, float]:
    """Let a model answer questions and measure the answers.

    Args:
        chat: a model with a detokenizer.
        questions: what is asked; ``answers`` say which texts are right.
        reference: recordings of the voice that is wanted; empty for no similarity.
        judge: transcribes (waveform [samples], rate in Hz).

    Returns:
        Those of :func:`voice_scores`, against the model's own texts, and ``text_right_percent`` and
        ``heard_right_percent`` of the questions that have answers.
    """
    speech: list[Speech] = []
    heard: list[str] = []

    def note(waveform: np.ndarray, rate_hz: int) -> str:
        heard.append(judge(waveform, rate_hz))
        return heard[-1]

    for question in questions:
        chat.reset()
        chat.system = question.system or None
        reply = chat.ask(
            text=question.text or None,
            audio=Path(question.audio) if question.audio else None,
            sampling=Sampling(max_new_tokens=MAX_NEW_TOKENS, seed=0),
        )
        audio = reply.audio
        speech.append((reply.text, np.zeros(0, np.float32) if audio is None else audio))
    scores = voice_scores(speech, reference, note)
    transcripts = iter(heard)
    known = [
        (question.answers, text, next(transcripts) if len(waveform) else "")
        for question, (text, waveform) in zip(questions, speech, strict=True)
    ]
    rated = [entry for entry in known if entry[0]]
    if rated:
        scores["text_right_percent"] = 100 * fmean(holds(text, parts) for parts, text, _ in rated)
        scores["heard_right_percent"] = 100 * fmean(holds(said, parts) for parts, _, said in rated)
    return {name: round(value, 3) for name, value in scores.items()}
