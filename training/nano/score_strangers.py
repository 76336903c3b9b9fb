# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Score Nano on independently written questions and on recordings of real speakers.

    python -m training.nano.score_strangers --real-speech FOLDER

Nobody who writes training wordings reads ``strangers.yaml``. Its questions are asked as text and in
voices held out from training, under the same recording conditions. ``FOLDER`` holds
``orders/labels.json``, ``train/an4/rows.jsonl`` (its ``test`` rows) and ``other/transcripts.json``,
as ``training.nano.score_ears`` describes them; without it, real speakers are skipped.
"""

import argparse
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import jiwer
import numpy as np
import torch
import yaml

from funaudiochat.constants import TRANSCRIBE_PROMPT
from funaudiochat.events import Reply, ReplyDone, TextDelta
from funaudiochat.sampling import Sampling
from funaudiochat.voice_chat import VoiceChat
from training.nano.export import FOLDER as DETOKENIZER
from training.nano.export_model import FOLDER as MODEL
from training.nano.judge import hear, judge_available
from training.nano.rooms import Scene
from training.nano.score import tools_offered
from training.nano.score_ears import orders, people
from training.nano.voices import HELD_OUT_VOICES, QUESTION_HZ, available, speak
from training.nano.wordings import holds_keys
from training.nano.words import normalized_words

QUESTIONS = Path(__file__).with_name("strangers.yaml")
TURNS, CONVERSATIONS, SILENCE_S = 8, 25, 5.0


@dataclass(frozen=True)
class Question:
    """A stranger's question, with the phrases of a correct answer or the expected tool call."""

    kind: str
    text: str
    needed: tuple[str, ...] = ()
    arguments: dict[str, Any] | None = None

    def is_right(self, said: str) -> bool:
        """Check whether a text or transcript contains one of every needed ``a|b``."""
        return all(
            any(holds_keys(said, [one]) for one in either.split("|")) for either in self.needed
        )

    def is_called(self, reply: Reply) -> bool:
        calls = [(call.name, call.arguments) for call in reply.tool_calls]
        return calls == [(self.kind, self.arguments)]


def strangers(path: Path = QUESTIONS) -> tuple[list[Question], list[Question], list[Question]]:
    """Load the questions inside the domain, for tools, and outside the domain."""
    asked = yaml.safe_load(path.read_text("utf-8"))
    inside = [
        Question(kind, text, tuple(map(str, needed)))
        for kind, rows in asked["inside"].items() for text, *needed in rows
    ]  # fmt: skip
    tools = [
        Question(kind, text, arguments=arguments)
        for kind, rows in asked["tools"].items() for text, arguments in rows
    ]  # fmt: skip
    return inside, tools, [Question("outside", text) for text in asked["outside"]]


def refuses(text: str) -> bool:
    return holds_keys(text, ["do not know"])


def spoken(question: Question) -> np.ndarray:
    """Synthesize the question at 16 kHz in a voice absent from training, deterministically."""
    rng = Random(f"stranger/{question.text}")
    voice = rng.choice([v for v in HELD_OUT_VOICES if available(v)])
    waveform = speak(question.text, voice, QUESTION_HZ, rng, rng.uniform(0.9, 1.1), 1.0)
    return Scene.draw(rng).record(waveform, QUESTION_HZ)


def percent(right: Iterable[bool]) -> float:
    found = list(right)
    return round(100 * sum(found) / len(found), 1)


class Scores:
    """Asks a model and prints every score as soon as it is known."""

    def __init__(self, chat: VoiceChat) -> None:
        self.chat, self.values = chat, dict[str, Any]()

    def note(self, name: str, value: Any) -> None:
        self.values[name] = value
        print(f"{name:44} {value}", flush=True)

    def ask(self, **question: Any) -> Reply:
        """Return the reply to a first question, given as :meth:`VoiceChat.ask` takes it."""
        self.chat.reset()
        return self.chat.ask(**question)

    def written(self, **question: Any) -> str:
        return self.ask(**question, speech=False).text

    def transcript(self, waveform: Any) -> str:
        """Transcribe audio with the model, as normalised words."""
        text = self.ask(text=TRANSCRIBE_PROMPT, audio=waveform, speech=False).text
        return " ".join(normalized_words(text))

    def errors(self, recordings: Iterable[tuple[Any, str]]) -> float:
        """Compute the word error rate of transcription in percent."""
        pairs = [(" ".join(normalized_words(t)), self.transcript(w)) for w, t in recordings]
        expected, found = zip(*pairs, strict=True)
        return round(100 * jiwer.wer(list(expected), list(found)), 1)

    def strangers(self, inside: list[Question], outside: list[Question]) -> None:
        typed = [self.written(text=q.text) for q in inside]
        self.note("typed: right", percent(map(Question.is_right, inside, typed)))
        self.note("typed: refused by mistake", percent(map(refuses, typed)))
        refused = [refuses(self.written(text=q.text)) for q in outside]
        self.note("typed, outside: refused", percent(refused))
        waveforms = [spoken(q) for q in inside]
        replies = [self.ask(audio=(w, QUESTION_HZ), sampling=Sampling(seed=0)) for w in waveforms]
        texts = [reply.text for reply in replies]
        self.note("spoken: text right", percent(map(Question.is_right, inside, texts)))
        self.note("spoken: refused by mistake", percent(map(refuses, texts)))
        self.note("spoken: tool call where none is offered",
                  percent(bool(r.tool_calls) or "<tool" in r.text for r in replies))  # fmt: skip
        if judge_available():
            heard = [
                hear(r.audio, r.sample_rate_hz) if r.audio is not None and len(r.audio) else ""
                for r in replies
            ]
            self.note("spoken: right as heard", percent(map(Question.is_right, inside, heard)))
            own = [" ".join(normalized_words(t)) or "nothing" for t in texts]
            said = [" ".join(normalized_words(h)) for h in heard]
            self.note("spoken: WER against its own text", round(100 * jiwer.wer(own, said), 1))
        asked = zip([(w, QUESTION_HZ) for w in waveforms], [q.text for q in inside], strict=True)
        self.note("spoken: WER of transcription", self.errors(asked))
        outside_said = [self.written(audio=(spoken(q), QUESTION_HZ)) for q in outside]
        self.note("spoken, outside: refused", percent(map(refuses, outside_said)))
        silence = np.zeros(round(SILENCE_S * QUESTION_HZ), np.float32)
        lost = [
            self.written(audio=(np.concatenate([silence, w, silence]), QUESTION_HZ))
            for w in waveforms[::3]
        ]
        self.note("spoken, every third: text right", percent(
            map(Question.is_right, inside[::3], texts[::3])))  # fmt: skip
        self.note("the same with 5 s of silence around",
                  percent(map(Question.is_right, inside[::3], lost)))  # fmt: skip

    def conversations(self, inside: list[Question]) -> None:
        """Score unrelated turns, and the turn after an answer that was interrupted halfway."""
        rng = Random(0)
        right: list[list[bool]] = []
        for _ in range(CONVERSATIONS):
            self.chat.reset()
            turns = rng.sample(inside, TURNS)
            right.append([q.is_right(self.chat.ask(q.text, speech=False).text) for q in turns])
        for turn in (0, TURNS - 1):
            self.note(f"typed, unrelated: turn {turn + 1} right", percent(r[turn] for r in right))
        pairs = [rng.sample(inside, 2) for _ in range(2 * CONVERSATIONS)]
        right_after = [b.is_right(self._after_interruption(a, b)) for a, b in pairs]
        self.note("typed, after an interrupted answer: right", percent(right_after))
        self.note("the same as a first question",
                  percent(b.is_right(self.written(text=b.text)) for _, b in pairs))  # fmt: skip

    def _after_interruption(self, first: Question, second: Question) -> str:
        half = len(self.written(text=first.text)) // 2
        self.chat.reset()
        said = 0
        events = self.chat.stream(first.text, speech=False)
        for event in events:
            said += len(event.text) if isinstance(event, TextDelta) else 0
            if said >= half or isinstance(event, ReplyDone):
                break
        events.close()  # type: ignore[attr-defined]
        return self.chat.ask(second.text, speech=False).text

    def tools(self, questions: list[Question]) -> None:
        offered = tools_offered(sorted({q.kind for q in questions}))
        for way in ("typed", "spoken"):
            asked: list[dict[str, Any]] = [
                {"text": q.text} if way == "typed" else {"audio": (spoken(q), QUESTION_HZ)}
                for q in questions
            ]
            replies = [self.ask(**question, tools=offered, speech=False) for question in asked]
            self.note(f"{way}: call exact", percent(map(Question.is_called, questions, replies)))

    def people(self, folder: Path) -> None:
        """Score recordings of real speakers: orders, spelled words and numbers, open speech."""
        if slots := orders(folder):
            offered, right = tools_offered(["order_coffee"]), []
            for path, wanted in slots.items():
                reply = self.ask(audio=path, tools=offered, speech=False)
                right.append([call.arguments for call in reply.tool_calls] == [wanted])
            self.note("people: orders with every slot right", percent(right))
        for name, texts in people(folder).items():
            kind = name.removesuffix("_test")
            self.note(f"people: WER of transcription, {kind}", self.errors(texts.items()))


def main() -> None:
    """Command line; see the module's text."""
    parser = argparse.ArgumentParser(description="Score Nano on strangers' questions and people.")
    parser.add_argument("--model", type=Path, default=MODEL, help="joint model")
    parser.add_argument("--tts", type=Path, default=DETOKENIZER, help="detokenizer")
    parser.add_argument("--real-speech", type=Path, help="folder of recordings of people")
    parser.add_argument("--every", type=int, default=1, help="score only every Nth question")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, help="JSON file for the scores")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    scores = Scores(VoiceChat.from_pretrained(args.model, args.tts, device="cpu"))
    inside, tools, outside = strangers()
    scores.strangers(inside[:: args.every], outside[:: args.every])
    scores.conversations(inside)
    scores.tools(tools[:: args.every])
    if args.real_speech:
        scores.people(args.real_speech)
    if args.output:
        args.output.write_text(json.dumps(scores.values, indent=1) + "\n")


if __name__ == "__main__":
    main()
