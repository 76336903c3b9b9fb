# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

from pathlib import Path

ROOT = Path(__file__).parents[2]  # of the repository
