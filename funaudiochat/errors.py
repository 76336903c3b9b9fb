# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""The toolkit's own errors: every message names the cause and the remedy."""


class FunAudioChatError(ValueError):
    """Base class of the errors that bad input to the toolkit raises."""


class AudioError(FunAudioChatError):
    """Audio that cannot be read, or that the model cannot take."""


class CheckpointError(FunAudioChatError):
    """A checkpoint file or folder is missing, damaged or of the wrong kind."""


class VoiceError(FunAudioChatError):
    """A voice or voice file is missing, unknown or malformed."""


class DownloadError(FunAudioChatError):
    """A download that failed, or whose content is not the file requested."""


class ServerError(FunAudioChatError):
    """A model server that cannot be reached, refuses a request, or breaks off its reply."""
