# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Scoring rules: pure functions of a reply and what is known of its item, without I/O.

Their quirks are those of the scorers the paper used: what looks like an oversight is kept where a
recorded verdict depends on it, and named in a comment.
"""
