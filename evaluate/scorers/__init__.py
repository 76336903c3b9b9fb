# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Scoring rules: pure functions of a reply and the fields of its item, without I/O.

They reproduce the quirks of the scorers used in the paper: behaviour that looks like an oversight
is kept if a recorded verdict depends on it, and pointed out in a comment.
"""
