# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Judge models: any server with an OpenAI-compatible chat API, or recorded replies.

Replies are cached in ``RUN/judge/`` by a hash of the whole request, so interrupted scoring resumes
and repeated scoring makes no requests. A cache file, or one written by hand, can replace the
judge: ``--judge file:replies.jsonl``.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evaluate.exchange import read_rows
from evaluate.records import appending, json_rows
from evaluate.scoring_tools import AUDIO_JUDGE, JUDGE, OPEN_JUDGE, JudgeTask
from evaluate.verdict import Answer, NotScored
from funaudiochat.audio import load_audio_and_rate
from funaudiochat.chat_protocol import audio_part
from funaudiochat.errors import FunAudioChatError, ServerError
from funaudiochat.judge_client import JudgeClient, NoJudgeReply

PROMPTS = Path(__file__).parent / "judge_prompts"
_SLOT = re.compile(r"\{(\w+)\}")
# Slot names of this toolkit -> names used in the prompts of the benchmarks' own scorers.
_PUBLISHED_SLOTS = {
    "question": {"prompt", "instruction", "query", "input"},
    "reference": {"ground_truth", "reference_answer", "correct_answer", "gold", "label", "target"},
    "reply": {
        "prediction",
        "response",
        "answer",
        "model_answer",
        "model_output",
        "model_response",
        "candidate",
        "output",
        "hypothesis",
    },
}
# Models used as judges in the paper or in the benchmark's own code.
PAPER_JUDGES = {
    JUDGE: "gpt-4o-mini",
    AUDIO_JUDGE: "gemini-2.5-pro-preview-06-05",
    OPEN_JUDGE: "Qwen2.5-7B-Instruct",
}
_SEVERAL_TEMPERATURE = 0.5
_PAUSE_BEFORE_RETRY_S = 5.0


@dataclass(frozen=True)
class JudgeSpec:
    """A judge given as ``[WHO=]openai:MODEL[@URL]`` or ``[WHO=]file:PATH``.

    Attributes:
        who: "judge", "audio judge" or "open judge".
        kind: "openai" or "file".
    """

    who: str
    kind: str
    name: str
    url: str | None = None


def parse_judge(text: str) -> JudgeSpec:
    """Parse a value of ``--judge``.

    Raises:
        FunAudioChatError: the value has none of the known forms.
    """
    who, equals, rest = text.partition("=")
    if not equals or who not in PAPER_JUDGES:
        who, rest = JUDGE, text
    kind, colon, name = rest.partition(":")
    if kind == "openai" and name:
        model, _, url = name.partition("@")
        return JudgeSpec(who, kind, model, url or None)
    if kind == "file" and name:
        return JudgeSpec(who, kind, name)
    raise FunAudioChatError(
        f"--judge {text!r} must be openai:MODEL, openai:MODEL@URL or file:REPLIES.jsonl, "
        f"optionally preceded by NAME= with one of {', '.join(map(repr, PAPER_JUDGES))}"
    )


class PromptFiles:
    """Judge prompts: those of the user's folder, else those of this toolkit.

    Attributes:
        used: name of each prompt used -> "given" or "ours".
    """

    def __init__(self, folder: Path | None) -> None:
        if folder is not None and not folder.is_dir():
            raise FunAudioChatError(f"--judge-prompts: no folder {folder}")
        self._folder = folder
        self.used: dict[str, str] = {}
        for path in () if folder is None else sorted(folder.glob("*.txt")):
            self._check(path)

    @staticmethod
    def _check(path: Path) -> None:
        ours = PROMPTS / path.name
        if not ours.is_file():
            names = ", ".join(sorted(p.stem for p in PROMPTS.glob("*.txt")))
            raise FunAudioChatError(f"{path}: no judge prompt has this name; known names: {names}")
        wanted = set(_SLOT.findall(ours.read_text(encoding="utf-8")))
        text = _plain_braces(path.read_text(encoding="utf-8"))
        found = {_own_slot(name, wanted, text) or name for name in _SLOT.findall(text)}
        if unknown := sorted(found - wanted):
            raise FunAudioChatError(
                f"{path}: unknown slots {', '.join(f'{{{n}}}' for n in unknown)}; known slots: "
                f"{', '.join(f'{{{n}}}' for n in sorted(wanted))}"
            )
        if missing := sorted(wanted - found):
            names = ", ".join(f"{{{name}}}" for name in missing)
            raise FunAudioChatError(
                f"{path}: missing slots {names}; the judge would not see their values"
            )

    def get(self, name: str) -> str:
        """Return the text of a prompt and note its origin in ``used``."""
        own = None if self._folder is None else self._folder / f"{name}.txt"
        given = own is not None and own.is_file()
        self.used[name] = "given" if given else "ours"
        ours = (PROMPTS / f"{name}.txt").read_text(encoding="utf-8").strip()
        if own is None or not given:
            return ours
        text, wanted = _plain_braces(own.read_text(encoding="utf-8").strip()), _SLOT.findall(ours)
        return _SLOT.sub(
            lambda found: f"{{{_own_slot(found[1], set(wanted), text) or found[1]}}}", text
        )


def _plain_braces(text: str) -> str:
    """Undo the doubled braces of a ``str.format`` template."""
    doubled = re.search(r"\{\{.*\}\}", text, re.DOTALL)
    return text.replace("{{", "{").replace("}}", "}") if doubled else text


def _own_slot(name: str, wanted: set[str], text: str) -> str | None:
    """Translate a slot name of the published prompts to this toolkit's, None if unknown.

    ``{answer}`` is the reference if the task has one and the prompt has no ``{reference}``.
    """
    if name in wanted:
        return name
    if name == "answer" and "reference" in wanted and "{reference}" not in text:
        return "reference"
    return next((own for own, names in _PUBLISHED_SLOTS.items() if name in names), None)


def fill(prompt: str, slots: dict[str, str]) -> str:
    """Fill each ``{slot}`` in one pass; other braces in the prompt or values stay as they are."""
    return _SLOT.sub(lambda found: slots.get(found[1], found[0]), prompt)


class RecordedJudge:
    """Replies from a JSONL file whose rows have ``benchmark``, ``subset``, ``id`` and ``reply``.

    ``metric`` and ``sample`` are optional and distinguish several replies to one item.
    """

    def __init__(self, path: Path) -> None:
        self.model = f"recorded ({path.name})"
        self._replies: dict[tuple[str, str, str, str, int], str] = {}
        for row in read_rows(path):
            try:
                key = (row["benchmark"], row["subset"], str(row["id"]))
                reply = str(row["reply"] or "")
                self._replies[(*key, row.get("metric", ""), row.get("sample", 0))] = reply
                self.model = row.get("model", self.model)
            except KeyError as error:
                raise FunAudioChatError(f"{path}: a row lacks the field {error}") from error

    def ask(self, answer: Answer, task: JudgeTask, sample: int, request: dict[str, Any]) -> str:
        """Return the recorded reply.

        Raises:
            NoJudgeReply: none is recorded for this answer.
        """
        key = (answer.benchmark, answer.subset, answer.id)
        for metric in (task.metric, ""):
            if (*key, metric, sample) in self._replies:
                return self._replies[(*key, metric, sample)]
        raise NoJudgeReply("no recorded reply for this item")


class OpenAIJudge:
    """A model behind an OpenAI-compatible chat API, with a cache of its replies.

    Args:
        spec: the judge. Its API key is ``JUDGE_API_KEY``, ``AUDIO_JUDGE_API_KEY`` or
            ``OPEN_JUDGE_API_KEY``, or ``OPENAI_API_KEY`` if the judge has no URL.
        cache: JSONL file of replies.
        per_minute: maximum number of requests per minute; None for no limit.
        concurrent: maximum number of parallel requests.

    Raises:
        FunAudioChatError: the package ``openai`` or the API key is missing.
    """

    def __init__(
        self, spec: JudgeSpec, cache: Path, per_minute: float | None = None, concurrent: int = 8
    ) -> None:
        variable = f"{spec.who.upper().replace(' ', '_')}_API_KEY"
        self._client = JudgeClient(spec.name, spec.url, variable, per_minute)
        self.model, self.concurrent = spec.name, concurrent
        self.answering_models: set[str] = set()
        self._cache_path = cache
        self._cache = {row["key"]: row for row in json_rows(cache) if "key" in row}
        self._lock = threading.Lock()

    def ask(self, answer: Answer, task: JudgeTask, sample: int, request: dict[str, Any]) -> str:
        """Return the cached reply, or request one.

        Raises:
            NotScored: the judge is unreachable or refuses every request.
            NoJudgeReply: the judge refuses this request.
        """
        request = {"model": self.model, **request}
        text = json.dumps([request, sample], sort_keys=True)
        key = hashlib.sha256(text.encode("utf-8", errors="replace")).hexdigest()
        kept = self._cache.get(key)
        if kept is None:
            kept = self._ask(answer, task, sample, request, key)
        self.answering_models.add(kept["model"])
        return kept["reply"]

    def _ask(
        self, answer: Answer, task: JudgeTask, sample: int, request: dict[str, Any], key: str
    ) -> dict[str, Any]:
        if sample and task.tries > 1:
            time.sleep(_PAUSE_BEFORE_RETRY_S)
        try:
            reply, model = self._client.reply(request)
        except ServerError as error:
            raise NotScored(str(error)) from error
        row = {
            "key": key,
            "model": model,
            "benchmark": answer.benchmark,
            "subset": answer.subset,
            "id": answer.id,
            "metric": task.metric,
            "sample": sample,
            "reply": reply,
        }
        with self._lock, appending(self._cache_path, wait=True) as journal:
            journal.append([row])
            self._cache[key] = row
        return row


Judge = RecordedJudge | OpenAIJudge


@dataclass
class Judges:
    """The judges of a scoring run.

    Attributes:
        replies_per_item: number of replies for tasks that allow several; VoiceBench uses 3.
        used: judges that were asked since :meth:`start`.
        most_replies: largest number of replies per item since :meth:`start`.
    """

    by_name: dict[str, Judge] = field(default_factory=dict)
    prompts: PromptFiles = field(default_factory=lambda: PromptFiles(None))
    replies_per_item: int = 1
    used: set[str] = field(default_factory=set)
    most_replies: int = 0

    @classmethod
    def from_specs(
        cls,
        specs: list[str],
        run: Path,
        prompts: Path | None = None,
        per_minute: float | None = None,
        replies_per_item: int = 1,
    ) -> Judges:
        """Create the judges given with ``--judge``; the value ``none`` is ignored."""
        judges: dict[str, Judge] = {}
        for text in specs:
            if text == "none":
                continue
            spec = parse_judge(text)
            cache = run / "judge" / f"{spec.who.replace(' ', '-')}.jsonl"
            judges[spec.who] = (
                RecordedJudge(Path(spec.name))
                if spec.kind == "file"
                else OpenAIJudge(spec, cache, per_minute)
            )
        return cls(judges, PromptFiles(prompts), replies_per_item)

    def start(self) -> None:
        """Reset the record of the judges, models and prompts used."""
        self.used.clear()
        self.most_replies = 0
        for judge in self.by_name.values():
            if isinstance(judge, OpenAIJudge):
                judge.answering_models.clear()
        self.prompts.used.clear()

    def models(self) -> dict[str, list[str]]:
        """Return the model names that the judges used reported: judge -> names."""
        return {
            who: sorted(getattr(self.by_name[who], "answering_models", ()))
            or [self.by_name[who].model]
            for who in sorted(self.used)
        }

    def replies(self, task: JudgeTask, answers: list[Answer]) -> list[tuple[list[str], str]]:
        """Return for each answer the judge's replies, or an empty list and the reason.

        Raises:
            NotScored: the judge was not given, or is unreachable.
        """
        judge = self.by_name.get(task.who)
        if judge is None:
            option = "openai:MODEL" if task.who == JUDGE else f"'{task.who}=openai:MODEL@URL'"
            raise NotScored(f"no {task.who} given: --judge {option}")
        self.used.add(task.who)
        count = self.replies_per_item if task.several else 1
        self.most_replies = max(self.most_replies, count)
        prompt = self.prompts.get(task.prompt)
        with ThreadPoolExecutor(getattr(judge, "concurrent", 1)) as pool:
            found = list(pool.map(lambda a: self._ask(judge, task, prompt, a, count), answers))
        if answers and not any(replies for replies, _ in found):
            raise NotScored(f"the {task.who} returned no reply: {found[0][1]}")
        return found

    def _ask(
        self, judge: Judge, task: JudgeTask, prompt: str, answer: Answer, count: int
    ) -> tuple[list[str], str]:
        replies: list[str] = []
        try:
            request = request_of(task, prompt, answer, count > 1)
            for sample in range(count):
                replies.append(judge.ask(answer, task, sample, request))
            for sample in range(count, task.tries):
                if task.read(replies).parts:
                    break
                replies = [judge.ask(answer, task, sample, request)]
        except NoJudgeReply as reason:
            # If a further try is not recorded, keep the reply that could not be parsed.
            return replies if len(replies) >= count else [], str(reason)
        return replies, ""


def request_of(task: JudgeTask, prompt: str, answer: Answer, several: bool) -> dict[str, Any]:
    """Build the body of a chat request, without the model's name.

    Raises:
        NoJudgeReply: audio that the judge should hear cannot be decoded.
    """
    text = fill(prompt, task.slots(answer))
    recordings = task.audio(answer)
    content: str | list[dict[str, Any]] = text
    if recordings:
        try:
            content = [{"type": "text", "text": text}, *map(_recording_part, recordings)]
        except FunAudioChatError as error:
            raise NoJudgeReply(f"cannot send the audio to the judge: {error}") from error
    system = [] if task.system is None else [{"role": "system", "content": task.system}]
    sampling = {
        "temperature": _SEVERAL_TEMPERATURE if several else task.temperature,
        "top_p": task.top_p,
    }
    return {
        "messages": [*system, {"role": "user", "content": content}],
        **{name: value for name, value in sampling.items() if value is not None},
        "max_tokens": task.max_tokens,
    }


def _recording_part(path: Path) -> dict[str, Any]:
    """Encode a recording as WAV; the interface takes WAV and MP3 only."""
    audio, rate_hz = load_audio_and_rate(path)
    return audio_part(audio, round(rate_hz), "PCM_16")
