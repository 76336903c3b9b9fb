# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""The paper's benchmarks: one module each in ``benchmarks/``, plus scorers, judges and reports.

The package shares its name with an unrelated package on PyPI, which is not needed here; the two
must not be installed side by side.
"""
