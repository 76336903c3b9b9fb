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
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from typer.core import TyperGroup

from funaudiochat import hub
from funaudiochat.constants import INPUT_RATE_HZ, OUTPUT_RATE_HZ
from funaudiochat.errors import FunAudioChatError

# Modules that need torch, transformers or numpy are imported where they are used: help texts and
# mistyped flags are answered at once, and `doctor` runs even if transformers is broken.
if TYPE_CHECKING:
    from funaudiochat.events import Reply
    from funaudiochat.voice_chat import VoiceChat

# Commands of the applications, which are not part of the package but lie beside it in a checkout,
# and the module whose `commands` has each. They are only imported to be run or listed.
_APPLICATIONS = {
    "serve": "web_demo.cli",
    "eval": "evaluate.cli",
    "train": "training.cli",
    "init": "training.cli",
    "merge": "training.cli",
}


class _Commands(TyperGroup):
    """Offer the package's commands and, in a checkout, those of the applications."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [*super().list_commands(ctx), *filter(_is_here, _APPLICATIONS)]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in _APPLICATIONS:
            return super().get_command(ctx, cmd_name)
        if not _is_here(cmd_name):
            raise FunAudioChatError(
                f"`funaudiochat {cmd_name}` belongs to an application that the installed package "
                "does not contain; clone the repository, run `pip install -e .` in it, and use "
                "the command from there"
            )
        sys.path.insert(0, str(hub.ROOT))  # before an installed package of the same name
        application = import_module(_APPLICATIONS[cmd_name])
        return typer.main.get_group(application.commands).get_command(ctx, cmd_name)


def _is_here(command: str) -> bool:
    """Return whether the application of a command lies beside the package."""
    path = hub.ROOT.joinpath(*_APPLICATIONS[command].split(".")).with_suffix(".py")
    return hub.IN_CHECKOUT and path.is_file()


app = typer.Typer(
    cls=_Commands, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False
)
voices_app = typer.Typer(no_args_is_help=True, help="List voices, or make a new one.")
app.add_typer(voices_app, name="voices")

# The players of macOS, PulseAudio, PipeWire and ALSA.
_PLAYERS = ("afplay", "paplay", "pw-play", "aplay")
console = Console(highlight=False, soft_wrap=True)

ModelPath = Annotated[
    Path | None,
    typer.Option(help="Folder of the language model; by default the downloaded one, else Nano."),
]
TtsPath = Annotated[
    Path | None, typer.Option(help="Folder of the detokenizer; by default the model's own.")
]
Voice = Annotated[str | None, typer.Option(help="Voice of the replies, by name.")]
Device = Annotated[str, typer.Option(help="Device: auto, cpu, cuda, cuda:1 or mps.")]
Weights = Annotated[
    Literal["fp32", "bf16", "int8", "int4"] | None,
    typer.Option(
        help="Form of the weights: fp32, bf16 or int8 on a CPU (smaller ones decode faster, less "
        "exactly), int8 or int4 on a GPU with little memory.",
    ),
]
Instruction = Annotated[str | None, typer.Option(help="Text instruction that follows the audio.")]
Greedy = Annotated[bool, typer.Option(help="Take the most likely tokens instead of sampling.")]
Seed = Annotated[int | None, typer.Option(help="Random seed; makes a sampled reply repeatable.")]
MaxNewTokens = Annotated[int | None, typer.Option(help="Longest reply, in steps of 0.2 s.")]
Penalty = Annotated[float | None, typer.Option(help="Repetition penalty; 1 for none.")]


def _read(questions: list[Path]) -> list[tuple[Any, int]]:
    """Read the questions before the model is loaded, which takes long."""
    from funaudiochat.audio import load_audio

    read = [(load_audio(question, INPUT_RATE_HZ), INPUT_RATE_HZ) for question in questions]
    # The first warning names the file; a second one about the array would not help.
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
    """Print a reply while it is generated, with a progress line, then its latency."""
    from funaudiochat.events import AudioChunk, ReplyDone, TextDelta

    samples = 0
    with console.status("thinking ...") as status:
        for event in events:
            if isinstance(event, TextDelta):
                console.print(event.text, end="", markup=False)
            elif isinstance(event, AudioChunk):
                samples += len(event.samples)
                status.update(f"speaking ... {samples / OUTPUT_RATE_HZ:.1f} s")
            elif isinstance(event, ReplyDone):
                reply = event.reply
    console.print()
    latency = reply.latency
    if reply.audio is not None and reply.seconds:
        console.print(
            f"[dim]{reply.seconds:.2f} s of audio, first-audio latency "
            f"{latency.first_audio_s:.2f} s, "
            f"real-time factor {latency.total_s / reply.seconds:.2f}[/dim]"
        )
    else:
        console.print(f"[dim]{latency.total_s:.2f} s[/dim]")
    for call in reply.tool_calls:
        console.print(f"tool call: {call.name}({json.dumps(call.arguments)})", markup=False)
    for problem in reply.problems:
        console.print(problem, style="yellow", markup=False)
    return reply


def _play(path: Path) -> None:
    """Play a WAV file with the first player found; without a player or sound card do nothing."""
    player = next(filter(None, map(shutil.which, _PLAYERS)), None)
    if player:
        subprocess.run([player, path], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@app.command()
def s2t(
    audio: Annotated[Path, typer.Argument(help="Audio file with the question.")],
    instruction: Instruction = None,
    model_path: ModelPath = None,
    device: Device = "auto",
    weights: Weights = None,
    max_new_tokens: MaxNewTokens = None,
) -> None:
    """Answer a spoken question with text."""
    (question,) = _read([audio])
    from funaudiochat.sampling import Sampling

    sampling = Sampling(max_new_tokens=max_new_tokens)
    chat = _load(model_path, None, False, device=device, weights=weights)
    _show(chat.stream(text=instruction, audio=question, speech=False, sampling=sampling))


@app.command()
def s2s(
    audio: Annotated[
        list[Path], typer.Argument(help="Audio files, the turns of one conversation.")
    ],
    output: Annotated[Path, typer.Option(help="Folder for the spoken replies.")] = Path("outputs"),
    voice: Voice = None,
    greedy: Greedy = False,
    seed: Seed = None,
    model_path: ModelPath = None,
    tts_path: TtsPath = None,
    device: Device = "auto",
    weights: Weights = None,
    tts_device: Annotated[str | None, typer.Option(help="Device of the detokenizer.")] = None,
    max_new_tokens: MaxNewTokens = None,
    repetition_penalty: Penalty = None,
    play: Annotated[bool, typer.Option(help="Play the replies.")] = False,
) -> None:
    """Answer spoken questions with text and speech, written to WAV files."""
    from funaudiochat.audio import save_wav

    questions = _read(audio)
    output.mkdir(parents=True, exist_ok=True)
    from funaudiochat.sampling import Sampling

    sampling = Sampling(
        greedy=greedy,
        seed=seed,
        max_new_tokens=max_new_tokens,
        repetition_penalty=repetition_penalty,
    )
    chat = _load(
        model_path,
        tts_path,
        True,
        device=device,
        tts_device=tts_device,
        voice=voice,
        weights=weights,
    )
    for number, question in enumerate(questions, 1):
        reply = _show(chat.stream(audio=question, sampling=sampling))
        if reply.audio is None or not len(reply.audio):
            console.print("the reply has no speech", style="yellow")
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
    speech: Annotated[bool, typer.Option(help="Reply with speech, too.")] = True,
    output: Annotated[Path, typer.Option(help="Folder for the spoken replies.")] = Path("outputs"),
    voice: Voice = None,
    greedy: Greedy = False,
    device: Device = "auto",
    weights: Weights = None,
    max_new_tokens: MaxNewTokens = None,
) -> None:
    """Chat: type a text or the path of an audio file; /reset starts over, /quit ends."""
    from funaudiochat.audio import save_wav
    from funaudiochat.capabilities import load_capabilities
    from funaudiochat.sampling import Sampling

    sampling, replies = Sampling(greedy=greedy, max_new_tokens=max_new_tokens), 0
    capabilities = load_capabilities(hub.resolve_model(model_path))
    conversation = _load(model_path, tts_path, speech, device=device, voice=voice, weights=weights)
    if capabilities.description:
        console.print(capabilities.description, markup=False)
    if capabilities.examples:
        console.print("Ask, for example:", *capabilities.examples, sep="\n  ", markup=False)
    while True:
        try:
            line = console.input("> ").strip()
        except EOFError:
            return
        if line == "/quit":
            return
        if line == "/reset":
            conversation.reset()
        elif line:
            # Path.is_file() fails on a sentence that is too long for a path.
            spoken = Path(line).suffix and os.path.isfile(line)
            question: dict[str, Any] = {"audio" if spoken else "text": line}
            try:
                reply = _show(conversation.stream(**question, speech=speech, sampling=sampling))
                if reply.audio is not None and reply.audio.size:
                    replies += 1
                    output.mkdir(parents=True, exist_ok=True)
                    target = output / f"answer_{replies}.wav"
                    save_wav(target, reply.audio, reply.sample_rate_hz)
                    console.print(str(target), markup=False)
            except FunAudioChatError as error:
                console.print(str(error), style="red", markup=False)
            except KeyboardInterrupt:  # the history keeps the text that was shown
                console.print("\ninterrupted", style="yellow")


@app.command()
def download(
    source: Annotated[str, typer.Option(help="Hub: huggingface or modelscope.")] = "huggingface",
    only: Annotated[
        str | None, typer.Option(help="Download only this part: model, tts or voices.")
    ] = None,
) -> None:
    """Download the official checkpoints and the default voice."""
    for path in hub.download(source, only):
        console.print(str(path), markup=False)


@app.command()
def doctor() -> None:
    """Check this machine: packages, devices, checkpoints and voices."""
    from funaudiochat.doctor import examine

    healthy = True
    for finding in examine():
        console.print(f"{finding.what:24} {finding.found}", markup=False)
        if finding.remedy:
            healthy = False
            console.print(f"{'':24} -> {finding.remedy}", style="yellow", markup=False)
    raise typer.Exit(0 if healthy else 1)


@app.command("plan-serving")
def plan_serving(
    model: Annotated[Path, typer.Argument(help="Folder of the model, or its config.json.")],
    gpu_memory: Annotated[
        str, typer.Option(help="Memory of one GPU, for example 80GiB.")
    ] = "80GiB",
    tensor_parallel: Annotated[int, typer.Option(min=1, help="As given to vLLM.")] = 1,
    pipeline_parallel: Annotated[int, typer.Option(min=1, help="As given to vLLM.")] = 1,
    utilization: Annotated[float, typer.Option(help="Share of the memory to use.")] = 0.85,
    weights: Annotated[
        Literal["bf16", "int8", "int4"] | None,
        typer.Option(help="Plan this toolkit with speech, and such backbone weights, not vLLM."),
    ] = None,
) -> None:
    """Estimate the memory that serving needs on each GPU, and the conversations that fit."""
    from funaudiochat.serving_plan import parse_size, plan_lines

    lines, fits = plan_lines(
        model, parse_size(gpu_memory), tensor_parallel, pipeline_parallel, utilization, weights
    )
    for line in lines:
        console.print(line, markup=False)
    raise typer.Exit(0 if fits else 1)


@voices_app.command("list")
def list_voices(
    tts_path: TtsPath = None,
    file: Annotated[
        Path | None, typer.Option(help="File of voices; by default those of the detokenizer.")
    ] = None,
) -> None:
    """List the names of the installed voices."""
    from funaudiochat.cosyvoice3 import voices

    found = voices.load_voices(file) if file else voices.installed_voices(hub.resolve_tts(tts_path))
    for name in found:
        console.print(name, markup=False)


@voices_app.command("add")
def new_voice(
    name: Annotated[str, typer.Argument(help="Name of the new voice.")],
    prompt: Annotated[Path, typer.Argument(help="Audio file with a sample of the voice.")],
    tts_path: TtsPath = None,
    file: Annotated[Path | None, typer.Option(help="File to add it to (safetensors).")] = None,
) -> None:
    """Make a voice from a recording."""
    from funaudiochat.cosyvoice3 import voices

    folder = hub.resolve_tts(tts_path)
    target = file or folder / voices.VOICES_NAME
    voices.add_voice(name, prompt, folder / voices.CAMPPLUS_NAME, target)
    console.print(f"{name} -> {target}", markup=False)


def main() -> None:
    """Run the command line; print expected errors as one line, without a traceback."""
    for stream in (sys.stdin, sys.stdout):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # undecodable bytes must not end the program
    warnings.showwarning = lambda message, *_: print(f"warning: {message}", file=sys.stderr)
    try:
        app()
    except (FunAudioChatError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
