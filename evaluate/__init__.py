# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""The paper's benchmarks: one module each in ``benchmarks/``, plus scorers, judges and reports.

An unrelated package on PyPI has the same name. Both may be installed: this one is not part of the
wheel, and ``funaudiochat eval`` uses it from the checkout.
"""
