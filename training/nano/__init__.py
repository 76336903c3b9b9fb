# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Nano: a small model trained from scratch on synthetic speech of a closed English domain."""
