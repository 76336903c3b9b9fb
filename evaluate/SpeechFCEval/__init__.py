# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Scoring of prediction files in the format of the reference's function-call evaluation."""
