# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""The toolkit's own errors: every message names the cause and the remedy."""


class FunAudioChatError(ValueError):
    """Base class of the errors that bad input to the toolkit raises."""


class AudioError(FunAudioChatError):
    """Audio cannot be read, or the model cannot take it."""


class CheckpointError(FunAudioChatError):
    """A checkpoint file or folder is missing, damaged or of the wrong kind."""


class VoiceError(FunAudioChatError):
    """A voice or voice file is missing, unknown or malformed."""


class DownloadError(FunAudioChatError):
    """A download failed, or delivered something else than the published file."""


class ServerError(FunAudioChatError):
    """A language model server cannot be reached, refuses a request, or breaks off."""
