# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Fun-Audio-Chat: a dual-resolution speech language model (arXiv 2512.20156)."""
