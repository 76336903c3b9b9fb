# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""The toolkit's own errors: every message names the cause and the remedy."""


class FunAudioChatError(ValueError):
    """Base of every error that bad input to the toolkit raises."""


class AudioError(FunAudioChatError):
    """Sound that cannot be read, or that is not sound the model can take."""


class CheckpointError(FunAudioChatError):
    """A checkpoint file or folder that is missing, damaged or of the wrong kind."""


class VoiceError(FunAudioChatError):
    """A voice or voice file that is missing, unknown or malformed."""


class DownloadError(FunAudioChatError):
    """A download that failed, or whose content is not what was asked for."""


class ServerError(FunAudioChatError):
    """A server of language models that cannot be reached, refuses, or breaks off."""
