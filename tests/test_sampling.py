# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""One table holds the limits of sampling, for decoding and for what interfaces offer."""

from dataclasses import fields

import pytest

from funaudiochat.errors import FunAudioChatError
from funaudiochat.sampling import LIMITS, SAMPLING_VALUES, Sampling


def test_every_number_of_a_sampling_has_limits():
    others = {"greedy", "text_greedy", "stop"}
    assert {field.name for field in fields(Sampling)} - others == LIMITS.keys()
    assert set(SAMPLING_VALUES) <= LIMITS.keys()


@pytest.mark.parametrize("name", LIMITS)
def test_what_is_offered_can_be_used_and_what_is_beyond_the_limits_is_refused(name):
    limits = LIMITS[name]
    for value in (*limits.offered, limits.high):
        assert getattr(Sampling(**{name: value}), name) == value
    for value in (limits.low if limits.above else limits.low - 1, 2 * limits.high, float("nan")):
        with pytest.raises(FunAudioChatError, match=f"{name} is .*; it must be "):
            Sampling(**{name: value})


def test_the_server_offers_what_the_table_says():
    settings = pytest.importorskip("web_demo.server.settings", exc_type=ImportError)
    known = settings.SamplingSettings.model_fields
    assert known.keys() == {field.name for field in fields(Sampling)} - {"stop"}
    for name, limits in LIMITS.items():
        for value in limits.offered:
            settings.SamplingSettings.model_validate({name: value})
        for value in (limits.offered[0] - 1, limits.offered[1] + 1):
            with pytest.raises(settings.ValidationError, match=name):
                settings.SamplingSettings.model_validate({name: value})
