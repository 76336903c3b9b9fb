# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""The weights of VStyle's abilities."""

from collections.abc import Iterable

ABILITIES = {
    "acoustic_attributes": (
        "age",
        "speed",
        "gender",
        "emotion",
        "pitch",
        "volume",
        "composite_properties",
    ),
    "instruction": ("emotion", "style", "variation"),
    "role_play": ("scenario", "character"),
    "empathy": ("anger", "sadness_disappointment", "anxiety_fear", "joy_excitement"),
}


def _weights() -> dict[str, float]:
    """Weight categories equally; composite_properties is half of the first category."""
    share = 1 / len(ABILITIES)
    weights = {
        f"{category}/{name}": share / len(names)
        for category, names in ABILITIES.items()
        for name in names
    }
    composite = "acoustic_attributes/composite_properties"
    for name in ABILITIES["acoustic_attributes"]:
        weights[f"acoustic_attributes/{name}"] = share / 2 / 6
    weights[composite] = share / 2
    return weights


WEIGHTS = _weights()


def weights_of(abilities: Iterable[str]) -> dict[str, float]:
    """Return the weights of these abilities, normalised to a sum of 1.

    Raises:
        KeyError: VStyle has no such ability.
    """
    weights = {ability: WEIGHTS[ability] for ability in abilities}
    covered = sum(weights.values())
    return {ability: weight / covered for ability, weight in weights.items()}
