# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""The paper's benchmarks: one module each under ``benchmarks/``, scorers, judges, reports.

The package shares its name with an unrelated package of the public index; nothing here needs that
one, and the two must not be installed side by side.
"""
