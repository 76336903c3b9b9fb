# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Speech recognition, opinion scores, embedder and judges, with small stand-ins for libraries."""

import base64
import io
import json
import threading
import time
import venv
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch
import transformers

from evaluate.benchmarks import select
from evaluate.embedder import Embedder
from evaluate.exchange import import_predictions
from evaluate.judges import Judges
from evaluate.records import appending, fingerprint, json_rows
from evaluate.score import Tools, score_subset
from evaluate.sources import Prompt, ServerModel
from evaluate.speech import OpinionScore, Transcriber
from evaluate.verdict import NotScored
from funaudiochat.errors import FunAudioChatError
from tests.helpers import ROOT
from tests.helpers.runs import answer, ask, rows
from tests.helpers.whisper_folder import build_whisper

_UTMOS = """
class UTMOSScoreScripted:
    def __init__(self, path, device):
        assert open(path).read().endswith("weights") and device == "cpu"

    def score(self, audio):
        assert audio.shape[0] == 1
        return audio.abs().amax(dim=1)
"""
_EMBEDDER = """
import torch
from transformers import PretrainedConfig, PreTrainedModel


class Config(PretrainedConfig):
    model_type = "stand-in"


class Model(PreTrainedModel):
    config_class = Config
    base_model_prefix = "stand_in"

    def __init__(self, config):
        super().__init__(config)
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.post_init()

    @torch.no_grad()
    def encode(self, texts, max_length):
        assert len(texts) <= 8 and max_length == 4096
        rows = [[len(text), text.count("a")] for text in texts]
        return self.weight.bfloat16() * torch.tensor(rows, dtype=torch.bfloat16)
"""


def spoken(run, data, name, recordings):
    """Import answers whose audio is given as samples, None or bytes that are not audio."""
    made = []
    for number, audio in enumerate(recordings):
        row = {"id": str(number), "text": "It is Paris."}
        if audio is not None:
            row["audio_out"] = f"{number}.flac"
            path = run.parent / row["audio_out"]
            if isinstance(audio, bytes):
                path.write_bytes(audio)
            else:
                soundfile.write(path, audio, 16000)
        made.append(row)
    file = run.parent / "given.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in made))
    (pair,) = select(name)
    import_predictions(*pair, data, run, file)
    return pair


def opinion(tmp_path, monkeypatch, weights="weights"):
    (tmp_path / "utmos_pytorch.py").write_text(_UTMOS)
    (tmp_path / "utmos.pt").write_text(weights)
    monkeypatch.syspath_prepend(tmp_path)
    return OpinionScore(tmp_path / "utmos.pt", tmp_path / "run", "cpu")


def test_opinion_scores_are_those_of_the_replies_that_can_be_heard(mini, tmp_path, monkeypatch):
    with pytest.raises(FunAudioChatError, match="--utmos"):
        OpinionScore(tmp_path / "nowhere", tmp_path)
    tools = Tools(opinion=opinion(tmp_path, monkeypatch))
    tone = np.full(16000, 0.25)
    pair = spoken(
        tmp_path / "run", mini, "ultraeval-audio/llama_questions", [tone, None, b"fLaC and no more"]
    )
    metric = score_subset(*pair, tmp_path / "run", tools)["metrics"]["UTMOS"]
    assert metric["value"] == pytest.approx(0.25, abs=1e-4)
    assert (metric["n"], metric["invalid"], metric["missing"]) == (1, 1, 1)
    assert metric["tools"] == {"UTMOS": f"utmos.pt ({fingerprint(tmp_path / 'utmos.pt')})"}
    assert any("2.flac" in reason for reason in metric["reasons"])


def test_other_weights_of_the_same_name_do_not_reuse_cached_scores(tmp_path, monkeypatch):
    reply = tmp_path / "reply.wav"
    soundfile.write(reply, np.full(16000, 0.25), 16000)
    results = tmp_path / "run" / "utmos.jsonl"
    for weights, kept in (("weights", 1), ("weights", 1), ("other weights", 2)):
        model = opinion(tmp_path, monkeypatch, weights)
        assert model.scores([replace(answer(), audio=reply)]) == [pytest.approx(0.25, abs=1e-4)]
        assert len(list(json_rows(results))) == kept


@pytest.mark.parametrize(
    ("name", "metric"),
    [("trivia_qa", "transcript match"), ("trivia_qa", "ASR-WER"), ("alpaca_eval", "judge")],
)
def test_broken_audio_is_one_item_without_a_verdict(name, metric, mini, tmp_path):
    folder = tmp_path / "whisper"
    build_whisper(folder)
    tools = Tools(
        transcriber=Transcriber(str(folder), tmp_path / "run"),
        judges=Judges.from_specs([f"file:{mini / 'judge.jsonl'}"], tmp_path),
    )
    pair = spoken(
        tmp_path / "run",
        mini,
        f"ultraeval-audio/{name}",
        [np.full(16000, 0.25), b"fLaC and no more", np.full(16000, 0.5)],
    )
    summary = score_subset(*pair, tmp_path / "run", tools)
    found = summary["metrics"][metric]
    assert (found["n"], found["missing"], summary["answered"]) == (2, 1, 3)
    assert found["tools"] == {"speech recognition": f"whisper ({fingerprint(folder)})"}
    verdicts = list(json_rows(tmp_path / "run" / "ultraeval-audio" / name / "scores.jsonl"))
    assert verdicts[1][metric]["missing"] and "1.flac" in verdicts[1][metric]["reason"]
    heard = [row["result"] for row in json_rows(tmp_path / "run" / "transcripts.jsonl")]
    assert len(heard) == 2 and all(set(text) == {"a"} for text in heard)


def test_a_transcript_that_is_not_recorded_is_one_item_too(mini, tmp_path):
    texts = tmp_path / "texts.jsonl"
    key = {"benchmark": "ultraeval-audio", "subset": "trivia_qa", "id": "0"}
    texts.write_text(json.dumps({**key, "text": "Paris"}))
    tools = Tools(transcriber=Transcriber(f"file:{texts}", tmp_path))
    pair = spoken(tmp_path / "run", mini, "ultraeval-audio/trivia_qa", [np.full(16000, 0.2)] * 3)
    found = score_subset(*pair, tmp_path / "run", tools)["metrics"]["transcript match"]
    assert (found["n"], found["missing"], found["value"]) == (1, 2, 100)


def test_a_broken_turn_of_a_duplex_model_has_no_verdict(mini, tmp_path):
    pair = spoken(tmp_path / "run", mini, "duplex/trivia_qa", [np.zeros(16000), b"fLaC"])
    found = score_subset(*pair, tmp_path / "run", Tools())["metrics"]["turn taking"]
    assert (found["n"], found["missing"]) == (1, 1)


@pytest.mark.slow
def test_texts_are_embedded_a_few_at_a_time_and_in_any_precision(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    folder = tmp_path / "embedder"
    folder.mkdir()
    (folder / "stand_in.py").write_text(_EMBEDDER)
    names = {"AutoConfig": "stand_in.Config", "AutoModel": "stand_in.Model"}
    (folder / "config.json").write_text(json.dumps({"model_type": "stand-in", "auto_map": names}))
    torch.save({"weight": torch.ones(1)}, folder / "pytorch_model.bin")
    embedder = Embedder(folder, "cpu")
    vectors = embedder.embed([f"{'a' * i}b" for i in range(20)])
    assert vectors.shape == (20, 2)
    assert embedder.name == f"embedder (transformers {transformers.__version__})"
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1)
    assert vectors[3] == pytest.approx(np.array([4, 3]) / 5)
    answers = [
        answer("aab", id_=str(i), category="speech", choices=["xyz", "aaz"], answer="aaz")
        for i in range(5)
    ]
    ((_, subset),) = select("mmau-pro")
    metric = next(m for m in subset.metrics if m.name == "closed questions")
    tools = Tools(embedder=embedder)
    assert [v.parts for v in metric.scorer(answers, tools)] == [{"speech": (1.0, 1.0)}] * 5
    assert tools.used == {"embedder": embedder.name}
    with pytest.raises(FunAudioChatError, match="not a model folder"):
        Embedder(tmp_path)


_OLD_TORCH = """
class cuda:
    is_available = staticmethod(lambda: False)


class Tensor:
    def __init__(self, rows):
        self.rows = rows

    float = cpu = lambda self: self

    def tolist(self):
        return self.rows
"""
_OLD_TRANSFORMERS = """
import importlib.util
import torch

__version__ = "4.42.4"


class AutoModel:
    @classmethod
    def from_pretrained(cls, folder, trust_remote_code):
        own = [n for n in ("funaudiochat", "evaluate", "numpy") if importlib.util.find_spec(n)]
        assert trust_remote_code and not own, f"found {own}"
        return cls()

    def to(self, device):
        assert device == "cpu"
        return self

    def eval(self):
        return self

    def encode(self, texts, max_length):
        return torch.Tensor([[3.0 * len(text), 4.0 * len(text)] for text in texts])
"""


def test_the_embedder_runs_with_the_packages_of_its_own_environment_alone(tmp_path):
    """Use a real environment that has packages of these names only, and none of the toolkit's."""
    home = tmp_path / "env"
    venv.create(home, with_pip=False, symlinks=True)
    (site,) = home.glob("lib/python*/site-packages")
    (site / "torch.py").write_text(_OLD_TORCH)
    (site / "transformers.py").write_text(_OLD_TRANSFORMERS)
    folder = tmp_path / "NV-Embed-v2"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    embedder = Embedder(folder, "auto", home / "bin" / "python")
    assert embedder.embed(["a", "bb", "a"]) == pytest.approx(np.array([[0.6, 0.8]] * 3))
    assert embedder.name == "NV-Embed-v2 (transformers 4.42.4)"
    (site / "transformers.py").write_text("raise ImportError('another version is needed')")
    assert len(embedder.embed(["a", "bb"])) == 2  # known texts are not embedded again
    with pytest.raises(NotScored, match="another version is needed"):
        embedder.embed(["new"])
    with pytest.raises(NotScored, match="the embedder does not run"):
        Embedder(folder, "auto", tmp_path / "nowhere").embed(["x"])


def test_open_answers_are_not_rated_beyond_the_scale(tmp_path):
    ((_, subset),) = select("mmau-pro")
    metric = next(m for m in subset.metrics if m.name == "open questions")
    replies = ("OVERALL: 4", "OVERALL: 45", f"OVERALL: {'9' * 400}", "CLARITY: 50")
    made = [
        {"benchmark": "b", "subset": "s", "id": str(i), "reply": reply}
        for i, reply in enumerate(replies)
    ]
    file = tmp_path / "replies.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in made))
    tools = Tools(judges=Judges.from_specs([f"open judge=file:{file}"], tmp_path))
    answers = [
        answer("x", id_=str(i), category="open", question="q", answer="a", choices=[])
        for i in range(4)
    ]
    verdicts = metric.scorer(answers, tools)
    assert [v.parts for v in verdicts] == [{"open": (0.8, 1.0)}, {}, {}, {}]
    assert all("above 5" in v.reason for v in verdicts[1:])


def test_repeated_requests_count_for_the_judges_rate(server, tmp_path):
    times = []

    def reply(request):
        times.append(time.monotonic())
        return 500 if len(times) < 3 else "5"

    judge = server(reply)
    ((_, subset),) = select("voicebench/commoneval")
    judges = Judges.from_specs([f"openai:gpt@{judge.url}"], tmp_path, per_minute=40)
    subset.metrics[0].scorer([answer("x", question="q")], Tools(judges=judges))
    assert len(times) == 3
    assert min(np.diff(times)) > 1.4  # the client alone repeats after half a second


def test_two_scorings_of_a_run_share_its_cache(server, tmp_path):
    judge = server(lambda request: "5")
    ((_, subset),) = select("voicebench/commoneval")
    judges = Judges.from_specs([f"openai:gpt@{judge.url}"], tmp_path)
    done = threading.Event()

    def hold():
        with appending(tmp_path / "judge" / "judge.jsonl") as journal:
            held.set()
            time.sleep(0.5)
            journal.append([{"key": "of another process", "reply": "4"}])
            done.set()

    held = threading.Event()
    other = threading.Thread(target=hold)
    other.start()
    held.wait()
    verdicts = subset.metrics[0].scorer([answer("x", question="q")], Tools(judges=judges))
    assert done.is_set() and verdicts[0].parts == {"": (5.0, 1.0)}
    other.join()
    assert len(list(json_rows(tmp_path / "judge" / "judge.jsonl"))) == 2


def test_vstyles_judge_hears_the_question_from_any_folder(
    server, model, mini, tmp_path, monkeypatch
):
    judge = server(lambda request: "[[4]]")
    data = tmp_path / "data"
    data.symlink_to(mini)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AUDIO_JUDGE_API_KEY", "key")
    ask("vstyle/en", model, type(mini)("data"), tmp_path / "run", limit=2)
    monkeypatch.chdir("/")
    tools = Tools(judges=Judges.from_specs([f"audio judge=openai:gemini@{judge.url}"], tmp_path))
    (pair,) = select("vstyle/en")
    summary = score_subset(*pair, tmp_path / "run", tools)
    assert summary["metrics"]["judge"]["tools"] == {}
    for request in judge.requests:
        kinds = [part["type"] for part in request["messages"][0]["content"]]
        assert kinds == ["text", "input_audio", "input_audio"]
    data.unlink()
    summary = score_subset(*pair, tmp_path / "run", tools)
    assert list(summary["metrics"]["judge"]["tools"].values()) == ["2"]
    assert rows(tmp_path / "run", "vstyle/en")[0]["audio"].startswith(str(tmp_path))


def test_whisper_and_a_missing_judge_say_what_they_need(tmp_path):
    with pytest.raises(FunAudioChatError, match="whisper-large-v3"):
        Transcriber(str(tmp_path), tmp_path)
    with pytest.raises(NotScored, match="--embedder"):
        Tools().embed(["x"])


def spoken_file(path, codec, container):
    """Write a second of a tone at 48 kHz; such files contain a little more than that."""
    av = pytest.importorskip("av", reason="PyAV is missing: pip install 'funaudiochat[media]'")
    tone = (0.3 * np.sin(np.arange(48_000) / 20)).astype(np.float32)[None]
    with av.open(str(path), "w", format=container) as file:
        stream = file.add_stream(codec, rate=48_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(tone, format="fltp", layout="mono")
        frame.sample_rate = 48_000
        resampler = av.AudioResampler(stream.format, stream.layout, 48_000, stream.frame_size)
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            file.mux(stream.encode(part))
        file.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(("codec", "container"), [("libopus", "webm"), ("aac", "mp4")])
def test_replies_of_every_container_reach_the_judge_and_come_from_a_server(
    server, tmp_path, codec, container
):
    """Every container that the toolkit decodes works here too, also concatenated with itself."""
    audio = spoken_file(tmp_path / "reply", codec, container)
    joined = tmp_path / "joined.flac"
    soundfile.write(joined, np.full(24_000, 0.1), 24_000)
    joined.write_bytes(2 * joined.read_bytes())
    judge = server(lambda request: "[[4]]")
    ((_, subset),) = select("vstyle/en")
    answers = [
        replace(answer(id_=str(i), ability="empathy/anger", instruct_text="Go."), audio=path)
        for i, path in enumerate((audio, joined))
    ]
    judges = Judges.from_specs([f"audio judge=openai:gemini@{judge.url}"], tmp_path)
    verdicts = subset.metrics[0].scorer(answers, Tools(judges=judges))
    assert [v.parts for v in verdicts] == [{"empathy/anger": (4.0, 1.0)}] * 2
    found = [
        soundfile.info(
            io.BytesIO(base64.b64decode(r["messages"][0]["content"][1]["input_audio"]["data"]))
        )
        for r in judge.requests
    ]
    lengths = {info.samplerate: info.frames / info.samplerate for info in found}
    assert lengths == {48_000: pytest.approx(1, abs=0.05), 24_000: 2}

    for path, rate_hz, seconds in ((audio, 48_000, 1), (joined, 24_000, 2)):
        data = base64.b64encode(path.read_bytes()).decode()
        speaker = server(
            lambda request, data=data: {
                "audio": {"id": "1", "data": data, "expires_at": 0, "transcript": "Hello."}
            }
        )
        prompt = Prompt("s", None, np.zeros(16_000, np.float32), speech=True, seed=0)
        (given,) = ServerModel(speaker.url).answer([prompt])
        assert given.rate_hz == rate_hz and len(given.audio) / rate_hz == pytest.approx(
            seconds, abs=0.05
        )


def test_the_readme_names_what_the_tools_beside_the_model_need():
    text = (ROOT / "evaluate" / "README.md").read_text(encoding="utf-8")
    for words in (
        "pip install qa-metrics==0.2.17 regex scikit-learn==1.3.2",
        "hf download openai/whisper-large-v3",
        "hf download Blinorot/UTMOS-PyTorch utmos_scripted.pt",
        "nv-embed/bin/pip install transformers==4.42.4",
        "--embedder-python nv-embed/bin/python",
    ):
        assert words in text
