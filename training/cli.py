# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""The commands ``funaudiochat train``, ``init`` and ``merge``."""

import logging
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from typer.core import TyperGroup

from funaudiochat.constants import CODEBOOK_SIZE

# Modules that need torch are imported where they are used, so that help texts show at once.
commands = typer.Typer()
console = Console(highlight=False, soft_wrap=True)


class _TrainGroup(TyperGroup):
    """Take a first argument that is not a subcommand for the config: ``train CONFIG``."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] not in self.commands:
            args = ["run", *args]
        return super().resolve_command(ctx, args)


train_app = typer.Typer(
    cls=_TrainGroup,
    no_args_is_help=True,
    help="Train with a LLaMA-Factory config (train CONFIG KEY=VALUE ...), or check data.",
)
commands.add_typer(train_app, name="train")


@train_app.command(
    "run", hidden=True, context_settings={"allow_extra_args": True, "ignore_unknown_options": True}
)
def train(
    context: typer.Context,
    config: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="YAML file.")],
) -> None:
    """Train with a LLaMA-Factory config; key=value arguments override its fields."""
    command = [sys.executable, "-m", "training.launch", str(config), *context.args]
    raise typer.Exit(subprocess.run(command).returncode)


@train_app.command("plan")
def plan(
    config: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="YAML file.")],
    fields: Annotated[list[str] | None, typer.Argument(help="key=value overrides.")] = None,
    gpus: Annotated[int, typer.Option(min=1, help="Number of GPUs, over all nodes.")] = 1,
    gpu_memory: Annotated[
        str, typer.Option(help="Memory of one GPU, for example 80GiB.")
    ] = "80GiB",
    model: Annotated[
        Path | None, typer.Option(help="config.json or its folder; by default the config's model.")
    ] = None,
    audio_seconds: Annotated[
        float, typer.Option(help="Seconds of audio in the questions of a row.")
    ] = 30.0,
) -> None:
    """Estimate the memory that a config needs on each GPU, and the batch that fits."""
    from training.plan import plan_file

    lines, fits = plan_file(config, fields or [], gpus, gpu_memory, model, audio_seconds)
    for line in lines:
        console.print(line, markup=False)
    raise typer.Exit(0 if fits else 1)


@train_app.command("merge-lora")
def merge_lora(
    adapter: Annotated[Path, typer.Argument(help="Folder of a run with finetuning_type: lora.")],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    base: Annotated[
        Path | None, typer.Option(help="Model it was trained on; by default the one it names.")
    ] = None,
) -> None:
    """Merge a LoRA adapter into its base model, giving a folder for --model-path."""
    from training.lora import merge_lora as run

    base = run(adapter, out, base)
    console.print(f"merged {adapter} into {base}: {out}", markup=False)


@train_app.command("check-data")
def check_data(
    file: Annotated[Path, typer.Argument(help="JSONL file of training rows.")],
    model_path: Annotated[
        Path | None, typer.Option(help="Folder of the model to train, to count text tokens.")
    ] = None,
    cutoff_len: Annotated[int, typer.Option(help="Longest row, in tokens.")] = 2048,
    png: Annotated[
        Path | None, typer.Option(help="Image file for histograms of the lengths.")
    ] = None,
    show: Annotated[int, typer.Option(help="Number of problems to print.")] = 50,
) -> None:
    """Check training rows and say which cannot be used, and why."""
    from funaudiochat.processing_funaudiochat import FunAudioChatProcessor
    from training.check_data import check_file, draw_histograms

    tokenizer = None
    if model_path is not None:
        tokenizer = FunAudioChatProcessor.from_pretrained(model_path).tokenizer
    summary = check_file(file, tokenizer, cutoff_len)
    for problem in summary.problems[:show]:
        where = f"row {problem.row}" + (f", {problem.field}" if problem.field else "")
        console.print(f"{where}: {problem.text}", markup=False)
    if len(summary.problems) > show:
        console.print(f"... and {len(summary.problems) - show} more; --show prints them")
    for warning in summary.warnings[:show]:
        console.print(f"row {warning.row}, {warning.field}: warning: {warning.text}", markup=False)
    if len(summary.warnings) > show:
        console.print(f"... and {len(summary.warnings) - show} more warnings; --show prints them")
    if summary.partial_groups:
        console.print(
            f"warning: {summary.partial_groups} of {len(summary.answer_seconds)} spoken answers "
            "end in a partial group of speech tokens: the rest of the group has no label and the "
            "model does not learn where speech ends; make the rows with process/data_process.py, "
            "or cut or fill the answers to multiples of 5 tokens"
        )
    hours = [sum(s) / 3600 for s in (summary.question_seconds, summary.answer_seconds)]
    wrong = len({problem.row for problem in summary.problems})
    console.print(
        f"{summary.rows} rows, {wrong} with problems; {len(summary.question_seconds)} spoken "
        f"questions ({hours[0]:.2f} h), {len(summary.answer_seconds)} spoken answers "
        f"({hours[1]:.2f} h)"
    )
    if png is not None:
        draw_histograms(summary, png)
    raise typer.Exit(1 if summary.problems else 0)


@train_app.command("prepare")
def prepare(
    manifest: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="JSONL file.")],
    out: Annotated[Path, typer.Argument(help="Folder of the shards to write.")],
    tts_path: Annotated[
        Path | None, typer.Option(help="Folder with the speech tokenizer, for spoken answers.")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = 1,
    shard_rows: Annotated[int, typer.Option(min=1, help="Rows of a shard.")] = 5000,
) -> None:
    """Make the training rows of a manifest once, in shards; resumable."""
    from training.process.data_process import process

    rows, skipped = process(manifest, out, tts_path, workers, shard_rows=shard_rows)
    console.print(f"{rows} rows in {out}; {skipped} skipped", markup=False)
    if skipped:
        console.print(f"the reasons are in {out}.errors.jsonl", markup=False)


@train_app.command("make-pairs")
def make_pairs(
    model_path: Annotated[Path, typer.Option(help="Folder of the model that answers.")],
    questions: Annotated[Path, typer.Option(help="JSONL file of questions.")],
    out: Annotated[Path, typer.Option(help="JSONL file of pairs to write.")],
    tts_path: Annotated[
        Path | None, typer.Option(help="Folder of the detokenizer, which a judge needs.")
    ] = None,
    judge: Annotated[
        str, typer.Option(help="Who hears the answers: whisper (English), or none.")
    ] = "whisper",
    judge_model: Annotated[
        str | None,
        typer.Option(help="Model that rates the answers: MODEL[@URL] of an OpenAI-compatible API."),
    ] = None,
    kinds: Annotated[
        str, typer.Option(help="Kinds of questions to ask, separated by commas.")
    ] = "robustness,instruction,understanding,empathy",
    samples: Annotated[int, typer.Option(min=2, help="Answers sampled for each question.")] = 8,
    margin: Annotated[float, typer.Option(help="Least difference of the scores of a pair.")] = 0.2,
    least: Annotated[float, typer.Option(help="Least score of a chosen answer.")] = 0.5,
    temperature: Annotated[float, typer.Option(help="Sampling temperature.")] = 1.0,
    top_p: Annotated[float, typer.Option(help="Probability mass that is sampled from.")] = 0.95,
    max_new_tokens: Annotated[int, typer.Option(help="Longest answer, in steps of 0.2 s.")] = 150,
    seed: Annotated[int, typer.Option(help="Seed of the sampling and of the noise.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")] = "auto",
) -> None:
    """Sample a model's answers, score them and write pairs for preference training; resumable."""
    from funaudiochat.errors import FunAudioChatError
    from funaudiochat.voice_chat import VoiceChat
    from training import make_pairs as pairs

    if judge not in ("whisper", "none"):
        raise FunAudioChatError(f"judge is {judge!r}; it must be whisper or none")
    asked = pairs.read_questions(questions, [kind.strip() for kind in kinds.split(",")])
    hear = pairs.whisper_judge() if judge == "whisper" else None
    if hear is not None and tts_path is None:
        raise FunAudioChatError("a judge hears audio: give the detokenizer with --tts-path")
    rater = pairs.judge_model_of(judge_model, asked) if judge_model is not None else None
    options = pairs.PairOptions(samples, margin, least, temperature, top_p, max_new_tokens, seed)
    chat = VoiceChat.from_pretrained(model_path, tts_path if hear else None, device)
    maker = pairs.PairMaker(chat, hear, options, out.with_name(out.name + ".audio"), rater)
    settings = {"model": str(model_path.resolve()), "judge": judge}
    if judge_model is not None:
        settings["judge_model"] = judge_model
    made, count = pairs.make_pairs(maker, asked, out, settings)
    console.print(
        f"{made} pairs of {count} questions: {out}; the answers of the others were too alike, not "
        "good enough, or did not end",
        markup=False,
    )


@train_app.command("flow")
def flow(
    rows: Annotated[Path, typer.Argument(help="JSONL of rows with recorded answers.")],
    voice: Annotated[str, typer.Option(help="Name of the new voice.")],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    tts_path: Annotated[Path, typer.Option(help="Folder of the detokenizer to start from.")],
    steps: Annotated[int, typer.Option(min=1, help="Updates, of about 600 speech tokens.")] = 600,
    rate: Annotated[float, typer.Option(help="Peak learning rate.")] = 3e-4,
    seed: Annotated[int, typer.Option(help="Seed of batches and noise.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")] = "auto",
) -> None:
    """Teach the flow of a detokenizer a new voice; writes a folder for --tts-path."""
    from funaudiochat.device import resolve_device
    from training.train_flow import train_flow

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    errors = train_flow(rows, tts_path, voice, out, steps, rate, seed, resolve_device(device))
    console.print(
        f"mean mel error on held-out recordings: {errors['before']:.3f} before, "
        f"{errors['after']:.3f} after: {out}",
        markup=False,
    )


@train_app.command("measure-voice")
def measure_voice(
    questions: Annotated[Path, typer.Argument(help="JSONL of questions, as for make-pairs.")],
    recordings: Annotated[Path, typer.Option(help="JSONL of recordings: audio, text.")],
    model_path: Annotated[Path, typer.Option(help="Folder of the model that answers.")],
    tts_path: Annotated[Path, typer.Option(help="Folder of the detokenizer.")],
    voice: Annotated[str | None, typer.Option(help="Voice of the detokenizer.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")] = "auto",
) -> None:
    """Measure a model's spoken answers beside recordings of the wanted voice (English)."""
    from funaudiochat.voice_chat import VoiceChat
    from training import make_pairs as pairs
    from training.measure_speech import answer_scores, read_recordings, voice_scores

    asked = pairs.read_questions(questions, list(pairs.KINDS))
    wanted, judge = read_recordings(recordings), pairs.whisper_judge()
    chat = VoiceChat.from_pretrained(model_path, tts_path, device, voice=voice)
    columns = {
        "recordings": voice_scores(wanted, wanted, judge),
        "answers": answer_scores(chat, asked, wanted, judge),
    }
    console.print(f"{'':24}{'recordings':>12}{'answers':>12}", markup=False)
    for name in columns["answers"]:
        values = (columns[side].get(name) for side in columns)
        cells = (f"{'' if value is None else f'{value:.2f}':>12}" for value in values)
        console.print(f"{name:24}{''.join(cells)}", markup=False)


@commands.command("init")
def init_checkpoint(
    llm: Annotated[Path, typer.Option(help="Qwen3 folder: backbone and tokenizer.")],
    audio_encoder: Annotated[
        Path, typer.Option(help="Whisper folder (Transformers or CTranslate2): mel encoder.")
    ],
    head: Annotated[Path, typer.Option(help="Folder of a small Qwen3: refined head.")],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    codes: Annotated[
        int, typer.Option(help="Codebook size of the speech tokenizer.")
    ] = CODEBOOK_SIZE,
    seed: Annotated[int, typer.Option(help="Seed of the newly initialised weights.")] = 0,
) -> None:
    """Build the joint checkpoint that training starts from."""
    from training.init_model import init_model

    counts = init_model(llm, audio_encoder, head, out, codes, seed)
    for part, parameters in counts.items():
        console.print(f"{part:10}{parameters:>16,} parameters", markup=False)
    console.print(str(out), markup=False)


@commands.command()
def merge(
    trained: Annotated[Path, typer.Option(help="Joint checkpoint M1.")],
    base: Annotated[Path, typer.Option(help="Joint checkpoint or text model M0.")],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    alpha: Annotated[float, typer.Option(help="Weight of the trained checkpoint.")] = 0.5,
) -> None:
    """Merge the language model of a trained checkpoint with its base (Core-Cocktail)."""
    from training.merge import merge as run

    report = run(trained, base, out, alpha)
    console.print(
        f"merged {len(report.merged)} tensors, kept {len(report.kept)}; largest change "
        f"{report.largest_change:.4g} in {report.largest_change_in or 'none'}"
    )
