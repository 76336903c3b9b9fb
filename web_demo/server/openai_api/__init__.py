# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""OpenAI's HTTP interface on the demo's engine: chat with audio, transcription, speech."""
