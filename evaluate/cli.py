# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""The command ``funaudiochat eval``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from funaudiochat import hub
from funaudiochat.constants import MAX_NEW_TOKENS
from funaudiochat.errors import FunAudioChatError

if TYPE_CHECKING:
    from evaluate.core import Benchmark, Subset
    from evaluate.run import InferOptions
    from evaluate.sources import AnswerSource

app = typer.Typer(
    no_args_is_help=True, help="Run the paper's benchmarks: list, fetch, infer, score, report."
)
commands = typer.Typer()
commands.add_typer(app, name="eval")
console = Console(highlight=False, soft_wrap=True)
errors = Console(highlight=False, soft_wrap=True, stderr=True)

Benchmarks = Annotated[
    str,
    typer.Option(
        "--benchmark", "--bench", "-b", help="NAME, NAME/SUBSET, a comma-separated list, or all."
    ),
]
Data = Annotated[Path, typer.Option(help="Root folder of the data sets.")]
Run = Annotated[Path, typer.Option(help="Folder of the run.")]
DATA = Path("data")


def _say(text: str, style: str | None = None) -> None:
    # File names and data rows may contain characters that cannot be encoded.
    printable = text.encode("utf-8", "replace").decode()
    console.print(printable, style=style, markup=False)


@app.command("list")
def list_benchmarks(
    data: Annotated[
        Path | None, typer.Option(help="Root folder of the data sets to check.")
    ] = None,
    benchmark: Benchmarks = "all",
) -> None:
    """List the benchmarks and their requirements, and check the data that is present."""
    from evaluate.benchmarks import BENCHMARKS, select
    from evaluate.run import inspect_subset

    chosen = {(b.name, s.name) for b, s in select(benchmark)}
    wrong = False
    for one in BENCHMARKS.values():
        subsets = [s for s in one.subsets if (one.name, s.name) in chosen or benchmark == "all"]
        if not subsets:
            continue
        _say(f"{one.name}: {one.title} ({one.folder}/)")
        _say(f"    data: {one.layout}")
        _say(f"    scores need: {one.needs or 'nothing else'}")
        for subset in subsets:
            count = "count unknown" if subset.count is None else f"{subset.count} items"
            line = f"    {one.name}/{subset.name}: {count}"
            if data is None:
                _say(line)
                continue
            try:
                found = inspect_subset(one, subset, data)
            except FunAudioChatError as error:
                wrong = True
                _say(f"{line}; {error}", "yellow")
                continue
            _say(f"{line}, {found['items']} found")
            if found["expected"] not in (None, found["items"]):
                _say("        differs from the size of the published set", "yellow")
            if found["first_problem"]:
                wrong = True
                count = found["broken_rows"] + found["missing_sounds"]
                _say(f"        {count} unusable, first: {found['first_problem']}", "yellow")
    raise typer.Exit(1 if wrong else 0)


@app.command()
def fetch(benchmark: Benchmarks, data: Data = DATA) -> None:
    """Download data sets, or say what to obtain by hand and where to put it."""
    from evaluate.benchmarks import select
    from evaluate.fetch import fetch as run

    chosen = select(benchmark)
    for one in dict.fromkeys(one for one, _ in chosen):
        for line in run(one, data, {subset.name for other, subset in chosen if other is one}):
            _say(line)


@app.command()
def infer(
    benchmark: Benchmarks,
    out: Annotated[Path, typer.Option("--out", "--run", help="Folder of the run.")],
    data: Data = DATA,
    model_path: Annotated[Path | None, typer.Option(help="Folder of the language model.")] = None,
    tts_path: Annotated[Path | None, typer.Option(help="Folder of the detokenizer.")] = None,
    voice: Annotated[str | None, typer.Option(help="Voice of the spoken answers.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    server: Annotated[str | None, typer.Option(help="URL of an OpenAI-compatible server.")] = None,
    server_model: Annotated[
        str | None, typer.Option(help="Name of the model on the server.")
    ] = None,
    api_key: Annotated[
        str | None, typer.Option(envvar="OPENAI_API_KEY", help="API key of the server.")
    ] = None,
    predictions: Annotated[
        Path | None, typer.Option(help="File with answers, instead of a model.")
    ] = None,
    batch_size: Annotated[
        int, typer.Option(min=1, help="Items per batch, or parallel requests to a server.")
    ] = 8,
    max_new_tokens: Annotated[
        int, typer.Option(min=1, help="Maximum length of an answer.")
    ] = MAX_NEW_TOKENS,
    seed: Annotated[int, typer.Option(help="Seed of the sampled speech.")] = 0,
    shard: Annotated[str, typer.Option(help="i/n: run the i-th of n shards.")] = "1/1",
    limit: Annotated[
        int | None, typer.Option(min=1, help="Maximum number of items per subset.")
    ] = None,
    retry_errors: Annotated[bool, typer.Option(help="Run items again that failed before.")] = False,
    time_in_prompt: Annotated[
        bool,
        typer.Option(help="Append the field `time` of function-call items to their system prompt."),
    ] = False,
    longest_s: Annotated[
        float | None,
        typer.Option(
            min=0.1,
            help="Truncate questions to this many seconds; the reference truncates to 30.",
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option(help="Print the first prompts and exit.")] = False,
) -> None:
    """Run a model over benchmark items; an interrupted run resumes."""
    from evaluate.benchmarks import select
    from evaluate.exchange import import_predictions
    from evaluate.run import InferOptions, parse_shard
    from evaluate.sources import ServerModel

    pairs = select(benchmark)
    options = InferOptions(
        data,
        out,
        batch_size,
        parse_shard(shard),
        limit,
        seed,
        retry_errors,
        time_in_prompt,
        longest_s,
    )
    if dry_run:
        _show_prompts(pairs, options, None if server else hub.resolve_model(model_path))
        return
    if predictions is not None:
        if len(pairs) != 1:
            raise FunAudioChatError("--predictions takes a single subset: --benchmark NAME/SUBSET")
        if limit is not None or options.shard != (1, 1):
            raise FunAudioChatError(
                "--predictions imports whole files; leave out --limit and --shard"
            )
        answered, failed = import_predictions(*pairs[0], data, out, predictions)
        _say(f"{pairs[0][0].name}/{pairs[0][1].name}: {answered} answered, {failed} not answered")
        return
    speech = any(one.speech for one, _ in pairs)
    if server is not None:
        source: AnswerSource = ServerModel(
            server, server_model, api_key, max_new_tokens, concurrent=batch_size
        )
    else:
        from evaluate.local_model import LocalModel

        folder = hub.resolve_model(model_path)
        tts = hub.resolve_pair(model_path, tts_path)[1] if speech else None
        source = LocalModel(folder, tts, device, dtype, voice, max_new_tokens)
    _infer_all(pairs, source, options)


def _infer_all(
    pairs: list[tuple[Benchmark, Subset]], source: AnswerSource, options: InferOptions
) -> None:
    """Run every subset, with a progress bar, and exit with 1 if an item failed."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TaskID,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    from evaluate.run import infer as run

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("remaining"),
        TimeRemainingColumn(),
    )
    failed = 0
    for one, subset in pairs:
        name = f"{one.name}/{subset.name}"
        with Progress(*columns, console=errors) as bar:
            task = bar.add_task(name, total=None)

            def show(done: int, total: int, bar: Progress = bar, task: TaskID = task) -> None:
                bar.update(task, completed=done, total=total)

            outcome = run(one, subset, source, options, show)
        failed += outcome.failed
        _say(f"{name}: {outcome.attempted} items run, {outcome.skipped} done before")
        if outcome.cut:
            _say(f"    {outcome.cut} answers were truncated at the token limit", "yellow")
        if outcome.failed:
            _say(f"    {outcome.failed} failed, first: {outcome.first_failure}", "yellow")
    raise typer.Exit(1 if failed else 0)


def _show_prompts(
    pairs: list[tuple[Benchmark, Subset]], options: InferOptions, model_path: Path | None
) -> None:
    """Print the prompts of the first items.

    With a checkpoint they are rendered by its chat template; without one, the system prompt and the
    user text are printed as sent to a server.
    """
    from evaluate.run import prompt_of, select_shard
    from funaudiochat.turns import render_prompt

    processor = None
    if model_path is not None:
        from funaudiochat.processing_funaudiochat import FunAudioChatProcessor

        processor = FunAudioChatProcessor.from_pretrained(model_path)
    for one, subset in pairs:
        items = select_shard(subset.load(one.data_folder(options.data)), options)
        for number, item in enumerate(items):
            if number == (options.limit or 3):
                break
            audio = f"{len(item.audio)} bytes" if isinstance(item.audio, bytes) else item.audio
            _say(f"--- {one.name}/{subset.name} {item.id}; audio: {audio}", "bold")
            if item.problem:
                _say(item.problem, "yellow")
                continue
            prompt = prompt_of(one, subset, item, options.seed)
            if processor is None:
                _say(f"system: {prompt.system}\nuser: {prompt.user}")
            else:
                _say(render_prompt(processor, prompt.turns))


@app.command()
def score(
    run: Run,
    benchmark: Benchmarks = "all",
    judge: Annotated[
        list[str] | None,
        typer.Option(
            help="openai:MODEL[@URL], file:REPLIES.jsonl or none; prefix with 'audio judge=' for "
            "VStyle and 'open judge=' for MMAU-Pro. Repeatable."
        ),
    ] = None,
    judge_prompts: Annotated[
        Path | None, typer.Option(help="Folder of judge prompts that replace the built-in ones.")
    ] = None,
    judge_replies: Annotated[
        int, typer.Option(min=1, help="Judge replies per item; VoiceBench itself uses 3.")
    ] = 1,
    judge_rate: Annotated[
        float | None, typer.Option(help="Maximum number of judge requests per minute.")
    ] = None,
    asr: Annotated[
        str | None, typer.Option(help="Folder of a Whisper checkpoint, or file:TEXTS.jsonl.")
    ] = None,
    utmos: Annotated[
        Path | None, typer.Option(help="TorchScript file of the UTMOS weights.")
    ] = None,
    embedder: Annotated[Path | None, typer.Option(help="Folder of NV-Embed-v2.")] = None,
    embedder_python: Annotated[
        Path | None, typer.Option(help="Python of the environment in which NV-Embed-v2 runs.")
    ] = None,
    pedant_python: Annotated[
        Path | None, typer.Option(help="Python of an environment with qa-metrics 0.2.17.")
    ] = None,
    pedant_models: Annotated[
        Path | None, typer.Option(help="Folder of PEDANT's classifier.")
    ] = None,
    turn_overlap_s: Annotated[
        float, typer.Option(help="Tolerated overlap with the user, in seconds.")
    ] = 0.5,
    turn_delay_s: Annotated[
        float, typer.Option(help="Maximum delay of an answer, in seconds.")
    ] = 5.0,
    device: Annotated[str, typer.Option(help="Device of Whisper, UTMOS and embedder.")] = "auto",
) -> None:
    """Score the answers of a run, without loading the model that produced them."""
    from evaluate.benchmarks import BENCHMARKS, select
    from evaluate.embedder import Embedder
    from evaluate.judges import Judges
    from evaluate.score import Tools, score_subset
    from evaluate.scorers.turn_taking import TurnLimits
    from evaluate.speech import OpinionScore, Transcriber

    tools = Tools(
        judges=Judges.from_specs(judge or [], run, judge_prompts, judge_rate, judge_replies),
        transcriber=Transcriber(asr, run, device) if asr else None,
        opinion=OpinionScore(utmos, run, device) if utmos else None,
        embedder=Embedder(embedder, device, embedder_python) if embedder else None,
        pedant_python=pedant_python,
        pedant_models=pedant_models,
        turn_limits=TurnLimits(turn_overlap_s, turn_delay_s),
    )
    every = [(one, subset) for one in BENCHMARKS.values() for subset in one.subsets]
    found = False
    for one, subset in every if benchmark == "all" else select(benchmark):
        summary = score_subset(one, subset, run, tools)
        if summary is None:
            continue
        found = True
        _say(f"{one.name}/{subset.name}: {summary['answered']} of {summary['items']} answered")
        for name, metric in summary["metrics"].items():
            if "not_scored" in metric:
                _say(f"    {name}: not scored: {metric['not_scored']}", "yellow")
            else:
                low, high = metric["low"], metric["high"]
                interval = "" if low is None else f" ({low:.2f} to {high:.2f})"
                _say(f"    {name}: {metric['value']:.2f}{interval}, n {metric['n']}")
    if not found:
        raise FunAudioChatError(
            f"{run} has no answers for {benchmark}; run `funaudiochat eval infer` first"
        )


@app.command()
def report(
    run: Annotated[list[Path], typer.Option(help="Folder of a run; repeat to compare runs.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder of the report; default: the first run.")
    ] = None,
    target: Annotated[
        str | None, typer.Option(help="8B or 30B-A3B; default: by the model's name.")
    ] = None,
) -> None:
    """Write the paper's tables with the values of runs: Markdown, JSON and a figure."""
    from evaluate.report import write_report

    text, files = write_report(run, out or run[0], target)
    print(text)
    for path in files:
        errors.print(str(path), markup=False)


@app.command()
def export(
    run: Run,
    benchmark: Benchmarks,
    form: Annotated[str, typer.Option("--format", help="speechfc, kimi, voicebench or ours.")],
    out: Annotated[Path, typer.Option(help="Output folder.")],
) -> None:
    """Export answers in the format of another scorer."""
    from evaluate.benchmarks import select
    from evaluate.exchange import export_predictions

    for one, subset in select(benchmark):
        _say(str(export_predictions(one, subset, run, form, out)))
