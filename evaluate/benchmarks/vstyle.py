# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""VStyle: spoken instructions on speaking style, rated by a judge that hears the reply."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from evaluate.core import Benchmark, HubData, Item, Metric, Row, Subset
from evaluate.data import RowError, RowOfData, find_file, items_of, json_lines
from evaluate.metrics import judged
from evaluate.scorers.judge_replies import vstyle_score
from evaluate.scorers.vstyle import WEIGHTS, weights_of
from evaluate.scoring_tools import AUDIO_JUDGE, JudgeTask, ScoringTools
from evaluate.statistics import Weights, part_names
from evaluate.verdict import Answer, Verdict, invalid
from funaudiochat.constants import SPOKEN_S2M_PROMPT


def _load(language: str, root: Path) -> Iterator[Item]:
    folder = root / language

    def item(row: RowOfData) -> dict[str, Any]:
        ability, id_ = row.text("ability"), row.text("id")
        if ability not in WEIGHTS:
            raise RowError(f"ability {ability!r} must be one of {', '.join(WEIGHTS)}")
        named = row.get("file_name", "instruction_audio_path", "audio_path", "wav_path")
        audio = find_file(str(named or f"{id_}.wav"), folder, folder / "wav", root)
        return {
            "id": id_,
            "audio": audio,
            "fields": {"ability": ability, "instruct_text": row.text("instruct_text")},
        }

    return items_of(json_lines(folder / "metadata.jsonl"), item)


def _slots(answer: Answer) -> dict[str, str]:
    return {
        "instruction_type": answer.fields["ability"],
        "input_instruction": answer.fields["instruct_text"],
    }


def _recordings(answer: Answer) -> list[Path]:
    """Return the files of the question, if it still exists, and of the reply."""
    question = (
        answer.question_audio if answer.question_audio and answer.question_audio.is_file() else None
    )
    return [path for path in (question, answer.audio) if path is not None]


def _read(replies: list[str]) -> Verdict:
    score = vstyle_score(replies[-1])
    if not score:
        return invalid("no score in the judge's reply", replies[-1][:200])
    return Verdict({"": (float(score), 1.0)}, score)


def _rated(language: str, answers: list[Answer], tools: ScoringTools) -> list[Verdict]:
    """Let the judge rate each reply; every ability is a part, replies without audio are invalid."""
    verdicts = {a.id: invalid("no speech in the reply") for a in answers}
    spoken = [a for a in answers if a.audio is not None]
    if missing := sum(len(_recordings(a)) < 2 for a in spoken):
        tools.used["questions not sent to the judge, as their audio is missing"] = str(missing)
    for category in dict.fromkeys(a.fields["ability"].split("/")[0] for a in spoken):
        chosen = [a for a in spoken if a.fields["ability"].startswith(f"{category}/")]
        task = JudgeTask(
            "judge",
            f"vstyle_{category}_{language}",
            _slots,
            _read,
            who=AUDIO_JUDGE,
            audio=_recordings,
            tries=5,
            max_tokens=8192,  # reasoning judges count their thoughts, too
            system=None,
            temperature=None,
            top_p=None,  # the published script sends none of these
        )
        for answer, verdict in zip(chosen, judged(task)(chosen, tools), strict=True):
            verdicts[answer.id] = verdict.as_part(answer.fields["ability"])
    return [verdicts[answer.id] for answer in answers]


def _weights(verdicts: list[Verdict]) -> Weights:
    return weights_of(part_names(verdicts))


def _subset(language: str) -> Subset:
    group = f"VStyle {language} (Table 5)"
    rows = [Row(group, ability, (("judge",),), part=ability) for ability in WEIGHTS]
    return Subset(
        language,
        partial(_load, language),
        (Metric("judge", partial(_rated, language), scale=1.0, weights=_weights, highest=5.0),),
        tuple(rows),
    )


BENCHMARK = Benchmark(
    name="vstyle",
    title="VStyle",
    folder="VStyle",
    layout="zhanjun/VStyle: en/ and zh/, each with metadata.jsonl and wav/",
    system=SPOKEN_S2M_PROMPT,
    speech=True,
    needs="judge with audio input (--judge 'audio judge=openai:gemini-2.5-pro@URL')",
    notes=(
        "the paper's judge, gemini-2.5-pro-preview-06-05, is retired",
        "the judge hears the question as well as the reply, which the published script does not "
        "specify; it uses its default sampling, with at most 8192 tokens",
    ),
    hub=tuple(
        HubData("zhanjun/VStyle", layouts=((f"{name}/*",),), subset=name) for name in ("en", "zh")
    ),
    subsets=(_subset("en"), _subset("zh")),
)
