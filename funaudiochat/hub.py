# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Where checkpoints live, and how the official ones get there."""

import hashlib
import logging
import os
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

from funaudiochat.errors import CheckpointError, DownloadError

logger = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parents[1]
VOICES_FILE = ROOT / "utils" / "new_spk2info.pt"
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
    """A published folder: its name, the files not needed, and what is known of the others."""

    name: str
    revision: str | None = None
    unused: tuple[str, ...] = ()
    known: dict[str, tuple[int, str]] = field(default_factory=dict)  # file -> bytes, sha256


MODEL = Repository("Fun-Audio-Chat-8B")
TTS = Repository(
    "Fun-CosyVoice3-0.5B-2512",
    revision="29e01c4e",
    unused=("llm*.pt", "*.batch.onnx", "flow.decoder.*", "CosyVoice-BlankEN/*", "asset/*"),
    known={
        "flow.pt": (
            1329116148, "a6fab32a7825e5b0bc855ddd948f8db9370b0a786fbc249caa4595e95b608e4b",
        ),
        "hift.pt": (83202622, "b279d7641eb97ae55b3b540cfba4f953c26492a2df758328a89a4d007ab87a65"),
        "speech_tokenizer_v3.onnx": (
            969451503, "23236a74175dbdda47afc66dbadd5bcb41303c467a57c261cb8539ad9db9208d",
        ),
        "campplus.onnx": (
            28303423, "a6ac6a63997761ae2997373e2ee1c47040854b4b759ea41ec48e4e42df0f4d73",
        ),
    },
)
REPOSITORIES = {"model": MODEL, "tts": TTS}
# Shipped with the toolkit.
NANO_MODEL = ROOT / "pretrained_models" / "Fun-Audio-Chat-Nano"
NANO_TTS = ROOT / "pretrained_models" / "Fun-CosyVoice3-Nano"


def models_folder() -> Path:
    """``pretrained_models/`` of the toolkit, or what FUNAUDIOCHAT_HOME names."""
    return Path(os.environ.get("FUNAUDIOCHAT_HOME") or ROOT / "pretrained_models")


def resolve_model(path: str | Path | None) -> Path:
    """The folder given, else the official one if it was downloaded, else Nano.

    Raises:
        CheckpointError: there is no such folder; the message says how to get it.
    """
    if path is not None:
        return _existing(Path(path))
    official = models_folder() / MODEL.name
    return official if official.is_dir() else _existing(NANO_MODEL)


def resolve_pair(
    model_path: str | Path | None, tts_path: str | Path | None
) -> tuple[Path, Path]:
    """Folders of a language model and of the detokenizer that knows its codes.

    Without a detokenizer's folder the shipped Nano gets its own and every other model the official
    one: codes of another speech tokenizer would be noise.

    Raises:
        CheckpointError: there is no such folder; the message says how to get it.
    """
    model = resolve_model(model_path)
    if tts_path is not None:
        return model, _existing(Path(tts_path))
    is_nano = model.resolve() == NANO_MODEL
    return model, _existing(NANO_TTS if is_nano else models_folder() / TTS.name)


def _existing(folder: Path) -> Path:
    if not folder.is_dir():
        raise CheckpointError(
            f"no folder {folder}; fetch the official checkpoints with `funaudiochat download`, or "
            "name a folder with --model-path / --tts-path"
        )
    return folder


def download(source: str = "huggingface", only: str | None = None) -> list[Path]:
    """Fetch the official folders and the default voice; go on where an earlier run stopped.

    Args:
        source: "huggingface" or "modelscope" (extra ``hub``). Their own variables
            (``HF_ENDPOINT``, ...) choose a mirror.
        only: "model", "tts" or "voices"; None for all.

    Returns:
        What is in place.

    Raises:
        DownloadError: a transfer failed, or a file is not the published one.
    """
    done = []
    for key, repository in REPOSITORIES.items():
        if only in (None, key):
            folder = models_folder() / repository.name
            _snapshot(source, repository, folder)
            for name, (size, digest) in repository.known.items():
                verify(folder / name, size, digest)
            done.append(folder)
    if only in (None, "voices"):
        fetch_file(VOICES_URL, VOICES_FILE, VOICES_BYTES, VOICES_SHA256)
        done.append(VOICES_FILE)
    return done


def _snapshot(source: str, repository: Repository, folder: Path) -> None:
    name = f"FunAudioLLM/{repository.name}"
    try:
        if source == "modelscope":
            try:
                from modelscope import snapshot_download as from_modelscope
            except ImportError as error:
                raise DownloadError(
                    "ModelScope needs its package: pip install 'funaudiochat[hub]'"
                ) from error
            from_modelscope(
                name, local_dir=str(folder), ignore_patterns=list(repository.unused)
            )
        else:
            from huggingface_hub import snapshot_download

            snapshot_download(
                name,
                revision=repository.revision,
                local_dir=folder,
                ignore_patterns=list(repository.unused),
            )
    except DownloadError:
        raise
    except Exception as error:  # both libraries raise many kinds
        raise DownloadError(
            f"fetching {name} from {source} failed ({error}); run the command again to go on, or "
            "try the other --source"
        ) from error


def verify(path: Path, size_bytes: int, sha256: str) -> None:
    """Check a file against its published size and hash; a wrong one is removed.

    Raises:
        DownloadError: it is missing or another file.
    """
    if not path.is_file():
        raise DownloadError(f"{path} was not fetched; run `funaudiochat download` again")
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if path.stat().st_size != size_bytes or digest != sha256:
        path.unlink()
        raise DownloadError(
            f"{path.name} is not the published file (sha256 {digest[:12]}..., expected "
            f"{sha256[:12]}...) and was removed; run `funaudiochat download` again"
        )


def fetch_file(url: str, path: Path, size_bytes: int, sha256: str) -> None:
    """Fetch one file, resuming a partial one, and check it.

    Raises:
        DownloadError: the transfer failed, or the content is not the published one.
    """
    if path.is_file():
        return verify(path, size_bytes, sha256)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".part")
    have = partial.stat().st_size if partial.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as response:
            resumed = response.status == 206
            with partial.open("ab" if resumed else "wb") as file:
                while block := response.read(_BLOCK_BYTES):
                    file.write(block)
                    if file.tell() > size_bytes:  # another file; verify will say so
                        break
    except urllib.error.HTTPError as error:
        if error.code != 416:  # 416: the partial file is already whole
            raise DownloadError(f"{url} answered {error.code} {error.reason}") from error
    except OSError as error:
        raise DownloadError(
            f"fetching {url} failed ({error}); run the command again to go on"
        ) from error
    verify(partial, size_bytes, sha256)
    partial.rename(path)
