# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""The plug-in does nothing without vLLM, and tells a broken weight loader from a working one.

What it does inside vLLM is tested in ``tests/serving``.
"""

import subprocess
import sys
import tomllib
from importlib.metadata import EntryPoint
from importlib.util import find_spec

import pytest
from torch import nn

from funaudiochat.vllm_plugin import loads_attention, register
from tests.helpers import ROOT
from tests.helpers.golden import TINY_A

IMPORT_EVERYTHING = """
import importlib, pkgutil, funaudiochat
for module in pkgutil.walk_packages(funaudiochat.__path__, "funaudiochat."):
    importlib.import_module(module.name)
"""


def test_importing_the_package_never_imports_vllm(tmp_path):
    trap = tmp_path / "vllm" / "__init__.py"
    trap.parent.mkdir()
    trap.write_text("raise SystemExit('vllm was imported')\n")
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_EVERYTHING],
        env={"PYTHONPATH": f"{tmp_path}:{ROOT}", "PATH": ""},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_entry_point_names_the_plugin():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    group = "vllm.general_plugins"
    ((name, target),) = project["entry-points"][group].items()
    assert EntryPoint(name, target, group).load() is register


@pytest.mark.skipif(find_spec("vllm") is not None, reason="vLLM is installed here")
def test_without_vllm_it_does_nothing():
    program = (
        "from funaudiochat.vllm_plugin import register; from transformers import CONFIG_MAPPING;"
        "register(); print('funaudiochat' in CONFIG_MAPPING)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
        capture_output=True,
        text=True,
    )
    assert (done.stdout, done.stderr) == ("False\n", "")


REGISTER_LIKE_OTHERS = """
import sys
from transformers import AutoConfig, AutoProcessor, PretrainedConfig
from funaudiochat.register import register_funaudiochat

class Theirs(PretrainedConfig):
    model_type = "funaudiochat"

AutoConfig.register("funaudiochat", Theirs)
register_funaudiochat()
print(type(AutoConfig.from_pretrained(sys.argv[1])).__module__)
AutoConfig.register("funaudiochat", Theirs, exist_ok=True)  # as vLLM does when it reads a folder
print(type(AutoConfig.from_pretrained(sys.argv[1])).__name__)
print(type(AutoProcessor.from_pretrained(sys.argv[1])).__name__)
"""


def test_another_programs_registration_of_the_type_breaks_nothing():
    done = subprocess.run(
        [sys.executable, "-c", REGISTER_LIKE_OTHERS, TINY_A],
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == [
        "funaudiochat.configuration_funaudiochat",
        "Theirs",
        "FunAudioChatProcessor",
    ], done.stderr


class Intact(nn.Module):
    """Loads as engines do: shards of the joined weight, by the checkpoint's names."""

    def load_weights(self, weights):
        for name, tensor in weights:
            self.qkv_proj.weight.weight_loader(self.qkv_proj.weight, tensor, name[0])


class Raising(nn.Module):
    def load_weights(self, weights):
        for name, _ in weights:
            raise ValueError(f"There is no module or parameter named {name!r}")


class Forgetful(nn.Module):
    """Takes the weights and loads none of them."""

    def load_weights(self, weights):
        return {name for name, _ in weights}


@pytest.mark.parametrize(
    ("attention", "expected"), [(Intact, True), (Raising, False), (Forgetful, False)]
)
def test_a_loader_is_judged_by_what_it_loads(attention, expected):
    assert loads_attention(attention) is expected


# vLLM's class and mapper as far as the plug-in touches them: it loads names the mapper lets pass.
STAND_IN = """
import re
from torch import nn

class WeightsMapper:
    def __init__(self, orig_to_new_regex=(), orig_to_new_prefix=()):
        self.regex, self.prefix = dict(orig_to_new_regex), dict(orig_to_new_prefix)

    def __or__(self, other):
        return WeightsMapper(self.regex | other.regex, self.prefix | other.prefix)

class FunAudioChatAudioAttention(nn.Module):
    hf_to_vllm_mapper = WeightsMapper()

    def load_weights(self, weights):
        for name, tensor in weights:
            if {condition}:
                raise TypeError(name)
            self.qkv_proj.weight.weight_loader(self.qkv_proj.weight, tensor, name[0])
"""
REGISTER_TWICE = """
from funaudiochat.vllm_plugin import register
from vllm.model_executor.models.funaudiochat import FunAudioChatAudioAttention
before = FunAudioChatAudioAttention.hf_to_vllm_mapper
register()
register()
print(FunAudioChatAudioAttention.hf_to_vllm_mapper is before)
"""


@pytest.mark.parametrize(
    ("condition", "untouched", "said"),
    [
        ("False", "True", []),
        ("not self.hf_to_vllm_mapper.prefix", "False", ["repaired in this process"]),
        ("True", "False", 2 * ["serve with one of these"]),
        ("self.hf_to_vllm_mapper.pop()", "False", 2 * ["serve with one of these"]),
    ],
)
def test_only_a_broken_loader_is_repaired_and_a_line_says_how_it_went(
    condition, untouched, said, tmp_path
):
    models = tmp_path / "vllm" / "model_executor" / "models"
    models.mkdir(parents=True)
    for folder in (models, *models.parents[:2]):
        (folder / "__init__.py").touch()
    (models / "funaudiochat.py").write_text(STAND_IN.replace("{condition}", condition))
    (models / "utils.py").write_text("from vllm.model_executor.models.funaudiochat import *\n")
    done = subprocess.run(
        [sys.executable, "-c", REGISTER_TWICE], capture_output=True, text=True,
        env={"PYTHONPATH": f"{tmp_path}:{ROOT}", "PATH": ""},
    )  # fmt: skip
    assert done.stdout.split() == [untouched], done.stderr
    lines = [line for line in done.stderr.splitlines() if "mel encoder" in line]
    assert len(lines) == len(said)
    assert all(text in line for text, line in zip(said, lines, strict=True))
