# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""The command ``funaudiochat``."""

import io
import json
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from rich.console import Console
from typer.core import TyperGroup

from funaudiochat import hub
from funaudiochat.audio import load_audio, save_wav
from funaudiochat.capabilities import load_capabilities
from funaudiochat.errors import FunAudioChatError

# What needs torch or transformers is imported where it is used: a help text or a mistyped flag
# takes no seconds, and `doctor` must run where transformers fails.
if TYPE_CHECKING:
    from funaudiochat.events import Reply
    from funaudiochat.voice_chat import VoiceChat

try:
    from evaluate.cli import app as eval_app
except ImportError:  # a package of the public index has the same name
    eval_app = None  # type: ignore[assignment]
try:
    from web_demo.cli import app as serve_app
except ImportError:  # the web demo is used from a checkout
    serve_app = None  # type: ignore[assignment]

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
voices_app = typer.Typer(no_args_is_help=True, help="List voices, or make one.")
app.add_typer(voices_app, name="voices")


class _TrainGroup(TyperGroup):
    """``train CONFIG`` beside ``train check-data``: what is no subcommand is a config."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] not in self.commands:
            args = ["run", *args]
        return super().resolve_command(ctx, args)


train_app = typer.Typer(
    cls=_TrainGroup,
    no_args_is_help=True,
    help="Train by a LLaMA-Factory config (train CONFIG [key=value ...]), or check data.",
)
app.add_typer(train_app, name="train")
if eval_app is not None:
    app.add_typer(eval_app, name="eval")
if serve_app is not None:
    app.add_typer(serve_app)
# Of macOS, PulseAudio, PipeWire and ALSA.
_PLAYERS = ("afplay", "paplay", "pw-play", "aplay")
console = Console(highlight=False, soft_wrap=True)

ModelPath = Annotated[Path | None, typer.Option(help="Language model's folder; Nano by default.")]
TtsPath = Annotated[Path | None, typer.Option(help="Detokenizer's folder.")]
Voice = Annotated[str | None, typer.Option(help="Name of a voice.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")]
Instruction = Annotated[str | None, typer.Option(help="Text that goes with the sound.")]
Greedy = Annotated[bool, typer.Option(help="Arg-max in place of sampling.")]
Seed = Annotated[int | None, typer.Option(help="Makes a sampled answer repeatable.")]
MaxNewTokens = Annotated[int | None, typer.Option(help="Longest answer, in 5 Hz steps.")]
Penalty = Annotated[float | None, typer.Option(help="Repetition penalty.")]


def _read(questions: list[Path]) -> list[tuple[Any, int]]:
    """Read the questions before the model is loaded, which takes long."""
    rate_hz = 16_000
    read = [(load_audio(question, rate_hz), rate_hz) for question in questions]
    # The file's name was in the first warning; the array would be warned of again.
    warnings.filterwarnings("ignore", message="the audio array is all silence")
    return read


def _load(
    model_path: Path | None, tts_path: Path | None, speech: bool, **options: Any
) -> "VoiceChat":
    model, tts = (
        hub.resolve_pair(model_path, tts_path) if speech else (hub.resolve_model(model_path), None)
    )
    from funaudiochat.voice_chat import VoiceChat

    return VoiceChat.from_pretrained(model, tts, **options)


def _show(events: Any) -> "Reply":
    """Print an answer as it comes, with a line of progress, then what it took."""
    from funaudiochat.events import AudioChunk, ReplyDone, TextDelta

    samples = 0
    with console.status("thinking ...") as status:
        for event in events:
            if isinstance(event, TextDelta):
                console.print(event.text, end="", markup=False)
            elif isinstance(event, AudioChunk):
                samples += len(event.samples)
                status.update(f"speaking ... {samples / 24000:.1f} s")
            elif isinstance(event, ReplyDone):
                reply = event.reply
    console.print()
    times = reply.latency
    if reply.audio is not None and reply.seconds:
        console.print(
            f"[dim]{reply.seconds:.2f} s of sound, first after {times.first_audio_s:.2f} s, "
            f"real-time factor {times.total_s / reply.seconds:.2f}[/dim]"
        )
    else:
        console.print(f"[dim]{times.total_s:.2f} s[/dim]")
    for call in reply.tool_calls:
        console.print(f"tool call: {call.name}({json.dumps(call.arguments)})", markup=False)
    for problem in reply.problems:
        console.print(problem, style="yellow", markup=False)
    return reply


def _play(path: Path) -> None:
    """Play a wave by the first program there is; without one, or a sound device, do nothing."""
    player = next(filter(None, map(shutil.which, _PLAYERS)), None)
    if player:
        subprocess.run([player, path], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@app.command()
def s2t(
    audio: Annotated[Path, typer.Argument(help="Sound file with the question.")],
    instruction: Instruction = None,
    model_path: ModelPath = None,
    device: Device = "auto",
    max_new_tokens: MaxNewTokens = None,
) -> None:
    """Answer a spoken question with text."""
    (question,) = _read([audio])
    from funaudiochat.sampling import Sampling

    chat = _load(model_path, None, False, device=device)
    sampling = Sampling(max_new_tokens=max_new_tokens)
    _show(chat.stream(question, instruction, speech=False, sampling=sampling))


@app.command()
def s2s(
    audio: Annotated[list[Path], typer.Argument(help="Sound files, the turns of one talk.")],
    output: Annotated[Path, typer.Option(help="Folder for the answers.")] = Path("outputs"),
    voice: Voice = None,
    greedy: Greedy = False,
    seed: Seed = None,
    model_path: ModelPath = None,
    tts_path: TtsPath = None,
    device: Device = "auto",
    tts_device: Annotated[str | None, typer.Option(help="Of the detokenizer.")] = None,
    max_new_tokens: MaxNewTokens = None,
    repetition_penalty: Penalty = None,
    play: Annotated[bool, typer.Option(help="Play the answers where a sound device is.")] = False,
) -> None:
    """Answer spoken questions with text and speech; waves go to the output folder."""
    questions = _read(audio)
    output.mkdir(parents=True, exist_ok=True)
    from funaudiochat.sampling import Sampling

    chat = _load(model_path, tts_path, True, device=device, tts_device=tts_device, voice=voice)
    sampling = Sampling(
        greedy=greedy,
        seed=seed,
        max_new_tokens=max_new_tokens,
        repetition_penalty=repetition_penalty,
    )
    for number, question in enumerate(questions, 1):
        reply = _show(chat.stream(question, sampling=sampling))
        if reply.audio is None or not len(reply.audio):
            console.print("the answer holds no speech", style="yellow")
            continue
        target = output / f"answer_{number}.wav"
        save_wav(target, reply.audio, reply.sample_rate_hz)
        console.print(str(target), markup=False)
        if play:
            _play(target)


@app.command()
def chat(
    model_path: ModelPath = None,
    tts_path: TtsPath = None,
    speech: Annotated[bool, typer.Option(help="Speak the answers.")] = True,
    output: Annotated[Path, typer.Option(help="Folder for spoken answers.")] = Path("outputs"),
    voice: Voice = None,
    greedy: Greedy = False,
    device: Device = "auto",
    max_new_tokens: MaxNewTokens = None,
) -> None:
    """Talk: type a text or the path of a sound file; /reset forgets, /quit ends."""
    from funaudiochat.sampling import Sampling

    able = load_capabilities(hub.resolve_model(model_path))
    talk = _load(model_path, tts_path, speech, device=device, voice=voice)
    if able.description:
        console.print(able.description, markup=False)
    if able.examples:
        console.print("Ask, for example:", *able.examples, sep="\n  ", markup=False)
    sampling, waves = Sampling(greedy=greedy, max_new_tokens=max_new_tokens), 0
    while True:
        try:
            line = console.input("> ").strip()
        except EOFError:
            return
        if line == "/quit":
            return
        if line == "/reset":
            talk.reset()
        elif line:
            # A sentence may be longer than a path can be, at which Path.is_file() fails.
            question = Path(line) if Path(line).suffix and os.path.isfile(line) else line
            try:
                reply = _show(talk.stream(question, speech=speech, sampling=sampling))
                if reply.audio is not None and np.size(reply.audio):
                    waves += 1
                    output.mkdir(parents=True, exist_ok=True)
                    save_wav(output / f"answer_{waves}.wav", reply.audio, reply.sample_rate_hz)
                    console.print(str(output / f"answer_{waves}.wav"), markup=False)
            except FunAudioChatError as error:
                console.print(str(error), style="red", markup=False)
            except KeyboardInterrupt:  # the history keeps what was shown
                console.print("\ninterrupted", style="yellow")


@app.command()
def download(
    source: Annotated[str, typer.Option(help="huggingface or modelscope.")] = "huggingface",
    only: Annotated[str | None, typer.Option(help="model, tts or voices.")] = None,
) -> None:
    """Fetch the official checkpoints and the default voice."""
    for path in hub.download(source, only):
        console.print(str(path), markup=False)


@app.command()
def doctor() -> None:
    """Look at this machine: packages, devices, checkpoints, voices."""
    from funaudiochat.doctor import examine

    healthy = True
    for finding in examine():
        console.print(f"{finding.what:24} {finding.found}", markup=False)
        if finding.remedy:
            healthy = False
            console.print(f"{'':24} -> {finding.remedy}", style="yellow", markup=False)
    raise typer.Exit(0 if healthy else 1)


@train_app.command(
    "run", hidden=True, context_settings={"allow_extra_args": True, "ignore_unknown_options": True}
)
def train(
    context: typer.Context,
    config: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="YAML file.")],
) -> None:
    """Train by a LLaMA-Factory config; key=value arguments replace its fields."""
    command = [sys.executable, "-m", "training.launch", str(config), *context.args]
    raise typer.Exit(subprocess.run(command).returncode)


@train_app.command("plan")
def plan(
    config: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="YAML file.")],
    fields: Annotated[
        list[str] | None, typer.Argument(help="key=value, in place of the config's.")
    ] = None,
    gpus: Annotated[int, typer.Option(min=1, help="GPUs in all nodes together.")] = 1,
    gpu_memory: Annotated[str, typer.Option(help="Of one GPU, for example 80GiB.")] = "80GiB",
    model: Annotated[
        Path | None, typer.Option(help="config.json, or its folder; default: the config's model.")
    ] = None,
    audio_seconds: Annotated[float, typer.Option(help="Sound of the questions of a row.")] = 30.0,
) -> None:
    """Say how much memory a config takes on each GPU, and which batch fits."""
    from training.plan import plan_file

    lines, fits = plan_file(config, fields or [], gpus, gpu_memory, model, audio_seconds)
    for line in lines:
        console.print(line, markup=False)
    raise typer.Exit(0 if fits else 1)


@train_app.command("merge-adapter")
def merge_adapter(
    adapter: Annotated[Path, typer.Argument(help="Folder of a run with finetuning_type: lora.")],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    base: Annotated[
        Path | None, typer.Option(help="Model it was trained on; the one it names by default.")
    ] = None,
) -> None:
    """Merge a LoRA adapter into its base, as a folder that --model-path takes."""
    from training.adapters import merge_adapter as run

    base = run(adapter, out, base)
    console.print(f"merged {adapter} into {base}: {out}", markup=False)


@train_app.command("check-data")
def check_data(
    file: Annotated[Path, typer.Argument(help="JSONL file of training rows.")],
    model_path: Annotated[
        Path | None, typer.Option(help="Folder of the model to train; counts tokens.")
    ] = None,
    cutoff_len: Annotated[int, typer.Option(help="Longest row, in tokens.")] = 2048,
    png: Annotated[Path | None, typer.Option(help="Picture of the lengths to write.")] = None,
    show: Annotated[int, typer.Option(help="How many problems to print.")] = 50,
) -> None:
    """Say which training rows do not fit, and why."""
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


@app.command("plan-serving")
def plan_serving(
    model: Annotated[Path, typer.Argument(help="Model's folder, or its config.json.")],
    gpu_memory: Annotated[str, typer.Option(help="Of one GPU, for example 80GiB.")] = "80GiB",
    tensor_parallel: Annotated[int, typer.Option(min=1, help="As given to vLLM.")] = 1,
    pipeline_parallel: Annotated[int, typer.Option(min=1, help="As given to vLLM.")] = 1,
    utilization: Annotated[float, typer.Option(help="vLLM's share of the memory.")] = 0.85,
) -> None:
    """Say how much memory `vllm serve` takes on each GPU, and how much talk fits."""
    from funaudiochat.serving_plan import plan_lines
    from training.plan import parse_size

    lines, fits = plan_lines(
        model, parse_size(gpu_memory), tensor_parallel, pipeline_parallel, utilization
    )
    for line in lines:
        console.print(line, markup=False)
    raise typer.Exit(0 if fits else 1)


@app.command("init")
def init_checkpoint(
    llm: Annotated[Path, typer.Option(help="Qwen3 folder: backbone and tokenizer.")],
    audio_encoder: Annotated[
        Path, typer.Option(help="Whisper folder, Transformers or CTranslate2: mel encoder.")
    ],
    head: Annotated[Path, typer.Option(help="Folder of a small Qwen3: refined head.")],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    codes: Annotated[int, typer.Option(help="Codes of the speech tokenizer.")] = 6561,
    seed: Annotated[int, typer.Option(help="Of the weights drawn anew.")] = 0,
) -> None:
    """Make the joint checkpoint that training begins with."""
    from training.init_model import init_model

    counts = init_model(llm, audio_encoder, head, out, codes, seed)
    for part, parameters in counts.items():
        console.print(f"{part:10}{parameters:>16,} parameters", markup=False)
    console.print(str(out), markup=False)


@app.command()
def merge(
    trained: Annotated[Path, typer.Option(help="Joint checkpoint M1.")],
    base: Annotated[Path, typer.Option(help="Joint checkpoint or text model M0.")],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    alpha: Annotated[float, typer.Option(help="Weight of the trained one.")] = 0.5,
) -> None:
    """Core-Cocktail: mix the language model of a trained checkpoint with its base."""
    from training.merge import merge as run

    report = run(trained, base, out, alpha)
    console.print(
        f"merged {len(report.merged)} tensors, kept {len(report.kept)}; largest change "
        f"{report.largest_change:.4g} in {report.largest_change_in or 'none'}"
    )


@voices_app.command("list")
def list_voices(
    tts_path: TtsPath = None,
    file: Annotated[Path | None, typer.Option(help="Voice file.")] = None,
) -> None:
    """Names of the voices there are."""
    from funaudiochat.cosyvoice3 import voices

    found = voices.load_voices(file) if file else voices.installed_voices(hub.resolve_tts(tts_path))
    for name in found:
        console.print(name, markup=False)


@voices_app.command("add")
def new_voice(
    name: str,
    prompt: Annotated[Path, typer.Argument(help="Sound file of the voice.")],
    tts_path: TtsPath = None,
    file: Annotated[Path | None, typer.Option(help="Voice file, safetensors.")] = None,
) -> None:
    """Make a voice from a prompt wave."""
    from funaudiochat.cosyvoice3 import voices

    folder = hub.resolve_tts(tts_path)
    target = file or folder / voices.VOICES_NAME
    voices.add_voice(name, prompt, folder / voices.CAMPPLUS_NAME, target)
    console.print(f"{name} -> {target}", markup=False)


if eval_app is None:

    @app.command(
        "eval", context_settings={"allow_extra_args": True, "ignore_unknown_options": True}
    )
    def hidden_eval() -> None:
        """Hidden by another package named evaluate."""
        raise FunAudioChatError(
            "another package named `evaluate` hides the toolkit's: pip uninstall evaluate, or run "
            "`python -m funaudiochat.cli eval` in the toolkit's folder"
        )


def main() -> None:
    """Entry point: an error of ours is one line, never a traceback."""
    for stream in (sys.stdin, sys.stdout):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # bytes that are no text end nothing
    warnings.showwarning = lambda message, *_: print(f"warning: {message}", file=sys.stderr)
    try:
        app()
    except (FunAudioChatError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
