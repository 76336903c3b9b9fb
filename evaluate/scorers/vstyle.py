# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""VStyle's weights of its abilities."""

from collections import defaultdict

ABILITIES = {
    "acoustic_attributes": (
        "age", "speed", "gender", "emotion", "pitch", "volume", "composite_properties",
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


def overall(means: dict[str, float]) -> tuple[float, float, dict[str, float]]:
    """Weighted mean of ability means, the weight they cover (0-1), and the categories' means.

    Abilities that are missing leave the weight they would have had to the others.

    Raises:
        KeyError: an ability that VStyle does not have.
    """
    covered = sum(WEIGHTS[ability] for ability in means)
    value = sum(WEIGHTS[ability] * mean for ability, mean in means.items()) / covered
    sums: dict[str, float] = defaultdict(float)
    used: dict[str, float] = defaultdict(float)
    for ability, mean in means.items():
        category = ability.split("/")[0]
        sums[category] += WEIGHTS[ability] * mean
        used[category] += WEIGHTS[ability]
    return value, covered, {category: sums[category] / used[category] for category in sums}
