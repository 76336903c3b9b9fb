# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""VStyle's weights of its abilities."""

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
    """Each category weighs the same; half of the first is composite_properties."""
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
    """Weights of these abilities, with sum 1: missing ones leave theirs to the others.

    Raises:
        KeyError: an ability that VStyle does not have.
    """
    weights = {ability: WEIGHTS[ability] for ability in abilities}
    covered = sum(weights.values())
    return {ability: weight / covered for ability, weight in weights.items()}
