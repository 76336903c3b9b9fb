# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""CosyVoice3: 16 kHz audio to 25 Hz speech tokens, and speech tokens to 24 kHz audio."""
