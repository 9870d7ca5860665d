"""The measured change of any picture equals what plain arithmetic on whole numbers finds."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unseg.protection.writing.budget_check import measure

REGIONS = ("empty", "full", "random", "part")
DEPTHS = (np.uint8, np.uint16)


def plain(clean, protected, region):
    """Written out in Python's own integers."""
    scale = int(np.iinfo(clean.dtype).max) // 255
    change = np.abs(clean.astype(np.int64) - protected.astype(np.int64))
    total = sum(int(row.sum()) for row in np.square(change))
    rms = math.sqrt(total / change.size) / scale
    largest = change.max(axis=2)
    return {
        "linf_inside": round(int(largest[region].max(initial=0)) / scale, 7),
        "linf_outside": round(int(largest[~region].max(initial=0)) / scale, 7),
        "psnr": round(20 * math.log10(255 / rms), 4) if rms else None,
        "region_share": round(int(region.sum()) / region.size, 6),
        "rms": round(rms, 5),
    }


def region_of(kind, height, width, rng):
    region = np.zeros((height, width), bool)
    if kind == "full":
        region[:] = True
    elif kind == "random":
        region = rng.random((height, width)) < 0.5
    elif kind == "part":
        region[height // 3 :, : max(1, width // 2)] = True
    return region


def pair(dtype, shape, most, rng):
    """Two pictures that differ by up to `most` levels."""
    top = int(np.iinfo(dtype).max)
    clean = rng.integers(0, top, shape, dtype=np.int64, endpoint=True)
    protected = clean + rng.integers(-most, most, shape, dtype=np.int64, endpoint=True)
    return clean.astype(dtype), np.clip(protected, 0, top).astype(dtype)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    dtype=st.sampled_from(DEPTHS),
    height=st.integers(1, 40),
    width=st.integers(1, 70),
    channels=st.sampled_from((1, 3)),
    kind=st.sampled_from(REGIONS),
    most=st.sampled_from((0, 1, 8, 257 * 8, 2**16)),
    is_turned=st.booleans(),
    seed=st.integers(0, 99),
)
def test_a_measurement_equals_plain_arithmetic(
    dtype, height, width, channels, kind, most, is_turned, seed
):
    rng = np.random.default_rng(seed)
    clean, protected = pair(dtype, (height, width, channels), most, rng)
    region = region_of(kind, height, width, rng)
    if is_turned:  # views whose rows do not follow each other in memory
        clean, protected, region = (a.swapaxes(0, 1)[::-1] for a in (clean, protected, region))
    for array in (clean, protected, region):
        array.flags.writeable = False
    found = measure(clean, protected, region).as_dict()
    expected = plain(clean, protected, region)
    assert {key: found[key] for key in expected} == expected


@pytest.mark.parametrize("dtype", DEPTHS)
def test_the_largest_possible_change_of_a_large_picture_is_counted_exactly(dtype):
    shape = (700, 900, 3)
    clean, protected = np.zeros(shape, dtype), np.full(shape, np.iinfo(dtype).max, dtype)
    region = region_of("part", *shape[:2], None)
    found = measure(clean, protected, region).as_dict()
    expected = {"linf_inside": 255, "linf_outside": 255, "psnr": 0, "rms": 255}
    assert {key: found[key] for key in expected} == expected
