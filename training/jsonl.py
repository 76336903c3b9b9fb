# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Read files of JSON lines that users write or tools make."""

from pathlib import Path

from funaudiochat.errors import FunAudioChatError


def read_lines(path: Path) -> list[str]:
    """Return the lines of a UTF-8 file.

    Raises:
        FunAudioChatError: the file is missing, is not text or cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise FunAudioChatError(f"{path} cannot be read: {error}") from error
