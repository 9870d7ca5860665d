"""Embedded scenes: determined by their seed, varied, and without a cheap cue."""

from __future__ import annotations

import numpy as np
import pytest

from unseg.data import Synthetic


def test_a_scene_depends_on_seed_split_and_index_alone() -> None:
    first, again = Synthetic(50, 64, seed=1), Synthetic(90, 64, seed=1)
    np.testing.assert_array_equal(first[7].image, again[7].image)
    np.testing.assert_array_equal(first[7].mask, again[7].mask)
    assert first[7].name == again[7].name == "train-00007"
    others = [
        first[8],
        Synthetic(50, 64, seed=2)[7],
        Synthetic(50, 64, seed=1, split="test")[7],
    ]
    for other in others:
        assert (other.image != first[7].image).mean() > 0.9


def test_scenes_have_the_documented_form() -> None:
    for size in (16, 33, 256):
        sample = Synthetic(2, size)[1]
        assert sample.image.shape == (size, size, 3)
        assert sample.image.dtype == np.uint8
        assert sample.mask.shape == (size, size)
        assert sample.mask.dtype == bool


def test_every_scene_has_object_and_background_in_varied_amounts() -> None:
    areas = np.array([s.mask.mean() for s in (Synthetic(80, 64)[i] for i in range(80))])
    assert areas.min() > 0.02
    assert areas.max() < 0.8
    assert areas.std() > 0.05


def test_brightness_contrast_and_colour_do_not_give_the_object_away() -> None:
    inside, outside, deviations = [], [], []
    for i in range(80):
        sample = Synthetic(80, 64)[i]
        image = sample.image.astype(np.float64)
        inside.append(image[sample.mask].mean(0))
        outside.append(image[~sample.mask].mean(0))
        deviations.append(image[sample.mask].std() / image[~sample.mask].std())
    difference = np.array(inside) - np.array(outside)
    # Mean difference over scenes within what chance allows (3 standard errors), each channel.
    error = difference.std(0) / np.sqrt(len(difference))
    assert (np.abs(difference.mean(0)) < 3 * error + 0.5).all()
    assert 0.85 < np.mean(deviations) < 1.05  # A smaller patch spans fewer clouds.


def test_object_and_background_differ_in_the_orientation_of_their_texture() -> None:
    turned = 0
    for i in range(40):
        sample = Synthetic(40, 128)[i]
        grey = sample.image.mean(2)
        dy, dx = np.gradient(grey)
        # Structure tensor as a doubled-angle vector, averaged over each side of the mask.
        vector = (dx + 1j * dy) ** 2
        object_side = vector[sample.mask].mean() / np.abs(vector[sample.mask]).mean()
        ground_side = vector[~sample.mask].mean() / np.abs(vector[~sample.mask]).mean()
        turned += abs(np.angle(object_side / ground_side)) > np.pi / 4
    assert turned >= 36


def test_an_index_outside_of_the_set_is_an_error() -> None:
    with pytest.raises(IndexError):
        Synthetic(3, 32)[3]
    with pytest.raises(ValueError, match="image_size >= 16"):
        Synthetic(3, 8)
