"""Colours seen by people who lack a kind of cone, by the matrices of Machado, Oliveira and Fernandes (2009)."""

from itertools import combinations

import pytest

from profiler.record.vocabulary import STAGE_ORDER
from profiler.report import palette

VISION = {
    "all cones": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "no red cones": (
        (0.152286, 1.052583, -0.204868),
        (0.114503, 0.786281, 0.099216),
        (-0.003882, -0.048116, 1.051998),
    ),
    "no green cones": (
        (0.367322, 0.860646, -0.227968),
        (0.280085, 0.672501, 0.047413),
        (-0.011820, 0.042940, 0.968881),
    ),
}


def linear(colour):
    channels = [int(colour[index : index + 2], 16) / 255 for index in (1, 3, 5)]
    return [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]


def lab(rgb):
    r, g, b = (min(max(c, 0), 1) for c in rgb)
    x = (0.4124 * r + 0.3576 * g + 0.1805 * b) / 0.95047
    y = 0.2126 * r + 0.7152 * g + 0.0722 * b
    z = (0.0193 * r + 0.1192 * g + 0.9505 * b) / 1.08883
    fx, fy, fz = (c ** (1 / 3) if c > 0.008856 else 7.787 * c + 16 / 116 for c in (x, y, z))
    return 116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)


def seen(colour, matrix):
    rgb = linear(colour)
    return lab([sum(weight * channel for weight, channel in zip(row, rgb, strict=True)) for row in matrix])


@pytest.mark.parametrize("vision", sorted(VISION))
def test_any_two_stages_can_be_told_apart(vision):
    colours = palette.colours(STAGE_ORDER)
    for one, other in combinations(STAGE_ORDER, 2):
        a, b = seen(colours[one], VISION[vision]), seen(colours[other], VISION[vision])
        distance = sum((x - y) ** 2 for x, y in zip(a, b, strict=True)) ** 0.5
        assert distance > 10, (one, other)


def test_text_on_every_stage_is_legible():
    for colour in palette.colours(STAGE_ORDER).values():
        luminances = sorted(lum(color) for color in (colour, palette.ink(colour)))
        assert (luminances[1] + 0.05) / (luminances[0] + 0.05) >= 4.5, colour


def test_parts_of_the_host_have_tints_of_their_own_that_text_can_be_read_on():
    assert {*STAGE_ORDER} - {"data_wait"} == {*palette.HOST}
    for one, other in combinations([palette.DEVICE["data_wait"], *palette.HOST.values()], 2):
        a, b = (seen(colour, VISION["all cones"]) for colour in (one, other))
        assert sum((x - y) ** 2 for x, y in zip(a, b, strict=True)) ** 0.5 > 10, (one, other)
    for colour in palette.HOST.values():
        luminances = sorted((lum(colour), lum(palette.ink(colour))))
        assert (luminances[1] + 0.05) / (luminances[0] + 0.05) >= 4.5, colour


def lum(colour):
    r, g, b = linear(colour)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


def test_the_users_own_stages_have_colours_and_stand_before_other():
    names = ["other", "tokenize", "forward", "rollout"]
    assert palette.in_order(names) == ["forward", "tokenize", "rollout", "other"]
    assert len(set(palette.colours(names).values())) == 4
