# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""The wheel, built and installed apart from the checkout, runs a model from given folders."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from funaudiochat.hub import NANO_MODEL, NANO_TTS
from tests.helpers import ROOT

QUESTION = ROOT / "examples" / "question.wav"
LIMIT_S = 600

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from a copy, which no earlier build has left anything in."""
    source = tmp_path_factory.mktemp("source")
    for name in ("funaudiochat", "evaluate", "training", "utils", "web_demo"):
        shutil.copytree(
            ROOT / name, source / name, ignore=shutil.ignore_patterns("client", "__pycache__")
        )
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, source)
    command = ["wheel", "--no-deps", "--no-build-isolation", "-w", source / "dist", source]
    subprocess.run([sys.executable, "-m", "pip", *map(str, command)], check=True, timeout=LIMIT_S)
    (built,) = (source / "dist").glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """Run a program of an environment with the wheel and the packages that are installed here.

    Folders of packages are listed, whose own .pth files do not count: none leads to a checkout.
    """
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    python = folder / "bin" / "python"
    install = ["--python", python, "install", "--no-deps", "--no-index", wheel]
    subprocess.run([sys.executable, "-m", "pip", *map(str, install)], check=True, timeout=LIMIT_S)
    (site,) = folder.glob("lib/python3*/site-packages")
    packages = [p for p in sys.path if Path(p).name in ("site-packages", "dist-packages")]
    (site / "packages.pth").write_text("\n".join(packages))

    def run(program, *arguments, code=0, **environment):
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "FUNAUDIOCHAT"))}
        done = subprocess.run(
            [folder / "bin" / program, *map(str, arguments)],
            cwd=folder,
            env={**kept, "HOME": str(folder), **environment},
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
        )
        assert done.returncode == code and "Traceback" not in done.stderr, done.stderr
        return done

    return run


def test_it_holds_the_package_alone(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (listed,) = (name for name in names if name.endswith("entry_points.txt"))
        entry_points = archive.read(listed).decode()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"funaudiochat"}
    assert {"funaudiochat/py.typed", "funaudiochat/cosyvoice3/flow.py"} <= set(names)
    sources = {str(p.relative_to(ROOT)) for p in (ROOT / "funaudiochat").rglob("*.py")}
    assert {name for name in names if name.endswith(".py")} == sources
    assert "funaudiochat = funaudiochat.cli:main" in entry_points
    assert "[vllm.general_plugins]\nfunaudiochat = funaudiochat.vllm_plugin:register" in (
        entry_points
    )


def test_the_commands_of_the_package_run(installed):
    done = installed("funaudiochat", "s2t", QUESTION, "--model-path", NANO_MODEL)
    assert "The capital of France is Paris." in done.stdout
    done = installed("funaudiochat", "voices", "list", "--tts-path", NANO_TTS)
    assert "heart" in done.stdout.split()
    done = installed("funaudiochat", "doctor", code=1)
    assert "-> funaudiochat download" in done.stdout and str(ROOT) not in done.stdout
    helped = installed("funaudiochat", "--help").stdout
    assert "s2s" in helped and "serve " not in helped and "train" not in helped


def test_named_folders_are_the_default(installed):
    folders = {"FUNAUDIOCHAT_MODEL": str(NANO_MODEL), "FUNAUDIOCHAT_TTS": str(NANO_TTS)}
    script = (
        "import funaudiochat, importlib.metadata as metadata\n"
        "assert '/environment' in funaudiochat.__file__, funaudiochat.__file__\n"
        "assert metadata.version('funaudiochat') == funaudiochat.__version__\n"
        "chat = funaudiochat.VoiceChat.from_pretrained(device='cpu')\n"
        "reply = chat.ask('What is the capital of Japan?')\n"
        "assert reply.sample_rate_hz == 24000 and reply.seconds > 0.5\n"
        "print(reply.text)"
    )
    assert installed("python", "-c", script, **folders).stdout == (
        "The capital of Japan is Tokyo.\n"
    )
    done = installed("funaudiochat", "s2s", QUESTION, **folders)
    assert "real-time factor" in done.stdout
    done = installed("funaudiochat", "s2t", QUESTION, code=1)
    for remedy in ("funaudiochat download", "--model-path", "FUNAUDIOCHAT_MODEL"):
        assert remedy in done.stderr


@pytest.mark.parametrize("command", ["serve", "eval", "train", "init", "merge"])
def test_commands_of_applications_say_where_they_are(installed, command):
    done = installed("funaudiochat", command, "--help", code=1)
    assert done.stderr.startswith(f"error: `funaudiochat {command}`")
    assert "clone the repository" in done.stderr
