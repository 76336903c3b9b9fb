# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""CosyVoice3: 25 Hz speech codes from sound, and 24 kHz sound from codes."""
