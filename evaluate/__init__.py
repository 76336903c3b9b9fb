# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""The paper's benchmarks: one module each under ``benchmarks/``, scorers, judges, reports.

An unrelated package of the public index has the same name. Both may be installed: this one is no
part of the wheel, and `funaudiochat eval` takes it from the checkout.
"""
