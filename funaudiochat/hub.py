# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Find checkpoint folders, and download the official ones."""

import hashlib
import http.client
import json
import os
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from funaudiochat.checkpoint_validation import refuse_adapter
from funaudiochat.errors import CheckpointError, DownloadError

ROOT = Path(__file__).resolve().parents[1]
IN_CHECKOUT = (ROOT / "pyproject.toml").is_file()  # otherwise installed from a wheel
_MODELS = ROOT / "pretrained_models" if IN_CHECKOUT else Path.home() / ".cache" / "funaudiochat"
VOICES_FILE = (ROOT / "utils" if IN_CHECKOUT else _MODELS) / "new_spk2info.pt"
VOICES_URL = (
    "https://raw.githubusercontent.com/FunAudioLLM/Fun-Audio-Chat/"
    "8ba984b64b4880918db2807e08d795475481200c/utils/new_spk2info.pt"
)
VOICES_BYTES = 588690
VOICES_SHA256 = "c6ec1c7877542e90397de80c0915c98632a168aa717cae96b0e90ace3ab9d9ed"
_TIMEOUT_S = 30
_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True)
class Repository:
    """A published folder.

    Attributes:
        name: name of the folder and of the repository.
        unused: patterns of files that are not downloaded.
        needed: files without which the folder cannot be used.
        known: size in bytes and, if published, sha256 of each file. They pin the release, since
            the hubs only take full commit hashes and the known one is abbreviated.
    """

    name: str
    unused: tuple[str, ...] = ()
    needed: tuple[str, ...] = ()
    known: dict[str, tuple[int, str | None]] = field(default_factory=dict)


MODEL = Repository(
    "Fun-Audio-Chat-8B",
    needed=(
        "config.json",
        "merges.txt",
        "model.safetensors.index.json",
        "processor_config.json",
        "vocab.json",
    ),
)
TTS = Repository(
    "Fun-CosyVoice3-0.5B-2512",
    unused=("llm*.pt", "*.batch.onnx", "flow.decoder.*", "CosyVoice-BlankEN/*", "asset/*"),
    known={
        "cosyvoice3.yaml": (6934, None),
        "flow.pt": (
            1329116148,
            "a6fab32a7825e5b0bc855ddd948f8db9370b0a786fbc249caa4595e95b608e4b",
        ),
        "hift.pt": (83202622, "b279d7641eb97ae55b3b540cfba4f953c26492a2df758328a89a4d007ab87a65"),
        "speech_tokenizer_v3.onnx": (
            969451503,
            "23236a74175dbdda47afc66dbadd5bcb41303c467a57c261cb8539ad9db9208d",
        ),
        "campplus.onnx": (
            28303423,
            "a6ac6a63997761ae2997373e2ee1c47040854b4b759ea41ec48e4e42df0f4d73",
        ),
    },
)
REPOSITORIES = {"model": MODEL, "tts": TTS}
_SOURCES = ("huggingface", "modelscope")
# Part of the repository.
NANO_MODEL = _MODELS / "Fun-Audio-Chat-Nano"
NANO_TTS = _MODELS / "Fun-CosyVoice3-Nano"


def models_folder() -> Path:
    """Return the folder of downloaded checkpoints.

    FUNAUDIOCHAT_HOME names it; by default it is ``pretrained_models/`` of the checkout, or
    ``~/.cache/funaudiochat`` if the package was installed from a wheel.
    """
    return Path(os.environ.get("FUNAUDIOCHAT_HOME") or _MODELS)


def resolve_model(path: str | Path | None) -> Path:
    """Return the language model's folder.

    It is the folder given or, without one, what FUNAUDIOCHAT_MODEL names, else the official one
    if it was downloaded, else Nano.

    Raises:
        CheckpointError: there is no such folder, or its download is incomplete; the message
            says how to get it.
    """
    return _resolve(path or os.environ.get("FUNAUDIOCHAT_MODEL"), MODEL, NANO_MODEL)


def resolve_tts(path: str | Path | None) -> Path:
    """Return the detokenizer's folder.

    It is the folder given or, without one, what FUNAUDIOCHAT_TTS names, else the official one if
    it was downloaded, else Nano's.

    Raises:
        CheckpointError: there is no such folder, or its download is incomplete; the message
            says how to get it.
    """
    return _resolve(path or os.environ.get("FUNAUDIOCHAT_TTS"), TTS, NANO_TTS)


def resolve_pair(model_path: str | Path | None, tts_path: str | Path | None) -> tuple[Path, Path]:
    """Return the folders of a language model and of the detokenizer that knows its speech tokens.

    Without ``tts_path`` and FUNAUDIOCHAT_TTS a model gets the detokenizer that its ``config.json``
    names as ``detokenizer``, as Nano and models trained from it do, and every other model gets the
    official one: the tokens of another speech tokenizer would come out as noise.

    Raises:
        CheckpointError: there is no such folder; the message says how to get it.
    """
    model = resolve_model(model_path)
    if tts_path or os.environ.get("FUNAUDIOCHAT_TTS"):
        return model, resolve_tts(tts_path)
    name = _detokenizer_of(model)
    if name == NANO_TTS.name:
        return model, _existing(NANO_TTS)
    folder = _existing(models_folder() / name)
    return model, _whole(TTS, folder) if name == TTS.name else folder


def _detokenizer_of(model: Path) -> str:
    """Return the name of the detokenizer's folder; loading reports a damaged config later."""
    try:
        fields = json.loads((model / "config.json").read_text())
    except (OSError, ValueError):
        fields = {}
    name = fields.get("detokenizer") if isinstance(fields, dict) else None
    return name if isinstance(name, str) else TTS.name


def _resolve(path: str | Path | None, repository: Repository, nano: Path) -> Path:
    if path:
        refuse_adapter(path)
        return _existing(Path(path))
    official = models_folder() / repository.name
    return _whole(repository, official) if official.is_dir() else _existing(nano)


def _whole(repository: Repository, folder: Path) -> Path:
    if missing := missing_files(repository, folder):
        raise CheckpointError(
            f"{folder} is not complete, {', '.join(missing)} missing; resume with `funaudiochat "
            "download`, or name another folder with --model-path / --tts-path"
        )
    return folder


def _existing(folder: Path) -> Path:
    if not folder.is_dir():
        raise CheckpointError(
            f"no folder {folder}; fetch the official checkpoints with `funaudiochat download`, or "
            "name a folder with --model-path / --tts-path, model_path / tts_path in Python, or the "
            "environment variables FUNAUDIOCHAT_MODEL / FUNAUDIOCHAT_TTS (Nano's folders are in "
            "pretrained_models/ of a checkout of the repository)"
        )
    return folder


def download(source: str = "huggingface", only: str | None = None) -> list[Path]:
    """Download the official folders and the default voice, resuming an earlier download.

    Args:
        source: "huggingface" or "modelscope" (extra ``hub``). Their own environment variables
            (``HF_ENDPOINT``, ...) choose a mirror.
        only: "model", "tts" or "voices"; None for all.

    Returns:
        The folders and files that are now in place.

    Raises:
        DownloadError: a transfer failed, a file is not the published one, or there is no such
            source or part.
    """
    for value, known in ((source, _SOURCES), (only, (None, *REPOSITORIES, "voices"))):
        if value not in known:
            raise DownloadError(f"{value!r} is not one of {', '.join(filter(None, known))}")
    done = []
    for key, repository in REPOSITORIES.items():
        if only in (None, key):
            folder = models_folder() / repository.name
            _snapshot(source, repository, folder)
            _check_complete(repository, folder)
            for name, (size, digest) in repository.known.items():
                verify(folder / name, size, digest)
            done.append(folder)
    if only in (None, "voices"):
        fetch_file(VOICES_URL, VOICES_FILE, VOICES_BYTES, VOICES_SHA256)
        done.append(VOICES_FILE)
    return done


def _snapshot(source: str, repository: Repository, folder: Path) -> None:
    name = f"FunAudioLLM/{repository.name}"
    fetch = _from_modelscope if source == "modelscope" else _from_huggingface
    try:
        fetch(name, repository, folder)
    except DownloadError:
        raise
    except Exception as error:  # both libraries raise many kinds
        raise DownloadError(
            f"downloading {name} from {source} failed ({error}); run the command again to resume, "
            "or try the other --source"
        ) from error


def _from_modelscope(name: str, repository: Repository, folder: Path) -> None:
    try:
        from modelscope import snapshot_download
    except ImportError as error:
        raise DownloadError(
            "ModelScope needs its package: pip install 'funaudiochat[hub]'"
        ) from error
    snapshot_download(name, local_dir=str(folder), ignore_patterns=list(repository.unused))


def _from_huggingface(name: str, repository: Repository, folder: Path) -> None:
    """Fetch file by file: the library's own download restarts a file in every process."""
    from huggingface_hub import HfApi, get_token, hf_hub_url

    token = get_token()  # HF_TOKEN, or that of `hf auth login`
    info = HfApi().model_info(name, files_metadata=True)
    for file in info.siblings or []:
        path = file.rfilename
        if any(fnmatch(path, pattern) for pattern in repository.unused):
            continue
        fetch_file(
            hf_hub_url(name, path, revision=info.sha),
            folder / path,
            file.size or 0,
            file.lfs.sha256 if file.lfs else None,
            token,
        )


def missing_files(repository: Repository, folder: Path) -> list[str]:
    """Return the files that a downloaded folder lacks."""
    wanted = {*repository.needed, *repository.known}
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            wanted.update(json.loads(index.read_text())["weight_map"].values())
        except (ValueError, KeyError, TypeError, AttributeError):
            return [f"a readable {index.name}"]
    return sorted(name for name in wanted if not (folder / name).is_file())


def _check_complete(repository: Repository, folder: Path) -> None:
    """Raise DownloadError if files are missing; offline, the libraries accept any folder."""
    if missing := missing_files(repository, folder):
        raise DownloadError(
            f"{folder} is not complete, {', '.join(missing)} missing; run `funaudiochat download` "
            "again when the source can be reached"
        )


def verify(path: Path, size_bytes: int, sha256: str | None) -> None:
    """Check a file against its published size and hash, and remove it if it is wrong.

    Raises:
        DownloadError: the file is missing or wrong.
    """
    if not path.is_file():
        raise DownloadError(f"{path} was not downloaded; run `funaudiochat download` again")
    found = path.stat().st_size
    problem = "" if found == size_bytes else f"{found} bytes, expected {size_bytes}"
    if not problem and sha256 is not None:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != sha256:
            problem = f"sha256 {digest[:12]}..., expected {sha256[:12]}..."
    if problem:
        path.unlink()
        raise DownloadError(
            f"{path.name} is not the published file ({problem}) and was removed; run `funaudiochat "
            "download` again"
        )


def fetch_file(
    url: str, path: Path, size_bytes: int, sha256: str | None, token: str | None = None
) -> None:
    """Fetch one file, resuming a partial one as long as bytes arrive, and check it.

    Args:
        url: of the file.
        path: where the file goes; a partial one has ``.part`` behind its name.
        size_bytes: published size.
        sha256: published hash, None if there is none.
        token: access token for the server of ``url``; it is not sent on to another server.

    Raises:
        DownloadError: the transfer failed, or the content is not the published one.
    """
    if path.is_file():
        return verify(path, size_bytes, sha256)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".part")
    partial.touch()
    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn()
    with Progress(*columns, TransferSpeedColumn(), console=Console(stderr=True)) as progress:
        task = progress.add_task(path.name, total=size_bytes)

        def show(done_bytes: int) -> None:
            progress.update(task, completed=done_bytes)

        while (have := partial.stat().st_size) < size_bytes:
            problem = _append(url, partial, size_bytes, show, token)
            if partial.stat().st_size <= have:
                raise DownloadError(
                    f"downloading {url} failed after {have} of {size_bytes} bytes ({problem}); "
                    "run the command again to resume"
                )
    verify(partial, size_bytes, sha256)
    partial.rename(path)


def _append(
    url: str, partial: Path, size_bytes: int, show: Callable[[int], None], token: str | None
) -> str:
    """Append the body of one request to a partial file and return why it ended early, if so."""
    have = partial.stat().st_size
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    if token:  # large files redirect to a store that must not see it
        request.add_unredirected_header("Authorization", f"Bearer {token}")
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as response:
            with partial.open("ab" if response.status == 206 else "wb") as file:
                while block := response.read(_BLOCK_BYTES):
                    file.write(block)
                    show(file.tell())
                    if file.tell() > size_bytes:  # another file; verify will say so
                        break
    except urllib.error.HTTPError as error:
        raise DownloadError(f"{url} answered {error.code} {error.reason}") from error
    except (OSError, http.client.HTTPException) as error:
        return str(error)
    return "the connection ended"
