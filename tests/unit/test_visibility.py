"""What a person sees of a change: against plain CIEDE2000, and by colour and size."""

import cv2
import numpy as np
import pytest
from skimage.color import deltaE_ciede2000, rgb2lab

from unseg.utils.errors import UserError
from unseg.victims.data.visibility import seen_change, visibility

RNG = np.random.default_rng(0)
PICTURE = RNG.integers(60, 200, (64, 96, 3)).astype(np.uint8)


def checks(cells: int, colour: tuple[int, int, int], level: int = 8) -> np.ndarray:
    """(192, 192, 3) uint8: a chequerboard on middle grey."""
    place = np.arange(192) // cells
    signs = 1 - 2 * ((place[:, None] + place) % 2)
    return (128 + level * signs[..., None] * np.array(colour)).astype(np.uint8)


GREY = np.full((192, 192, 3), 128, np.uint8)


def test_nothing_is_seen_where_nothing_changed():
    found = visibility(PICTURE, PICTURE)
    assert (found.delta_e, found.delta_e_99) == (0, 0)
    assert found.ssim == pytest.approx(1)


def test_a_plain_field_is_plain_ciede2000():
    red = np.broadcast_to(np.array([140, 120, 130], np.uint8), GREY.shape)
    expected = deltaE_ciede2000(rgb2lab(GREY), rgb2lab(red)).mean()
    found = visibility(GREY, red)
    assert found.delta_e == pytest.approx(expected, abs=0.05)
    assert found.delta_e_99 == pytest.approx(expected, abs=0.05)


def test_fine_colour_is_seen_less_than_coarse_and_less_than_brightness():
    fine, coarse = (visibility(GREY, checks(n, (1, -1, 1))).delta_e for n in (2, 16))
    bright = visibility(GREY, checks(2, (1, 1, 1))).delta_e
    assert fine < coarse / 3
    assert fine < bright


def test_from_further_away_less_is_seen():
    near, far = (
        visibility(GREY, checks(4, (1, -1, 1)), pixels_per_degree=d).delta_e for d in (20, 80)
    )
    assert far < near


def test_twice_the_change_is_seen_more_and_is_less_similar():
    half, full = (visibility(GREY, checks(8, (1, -1, 1), level)) for level in (4, 8))
    assert full.delta_e > 1.5 * half.delta_e
    assert full.ssim < half.ssim


@pytest.mark.parametrize("other", [PICTURE[:32], PICTURE[:, :32]])
def test_sizes_must_agree(other):
    with pytest.raises(ValueError, match="must agree"):
        visibility(PICTURE, other)
    with pytest.raises(ValueError, match="sides >= 7"):
        visibility(PICTURE[:5], PICTURE[:5])


def test_a_set_is_the_mean_of_eight_of_its_pictures(tmp_path):
    pairs = []
    for number in range(20):
        level = 8 if number % 2 else 4
        for name, picture in (("clean", GREY), ("changed", checks(8, (1, -1, 1), level))):
            cv2.imwrite(str(tmp_path / f"{name}{number}.png"), picture[..., ::-1])
        pairs.append((tmp_path / f"clean{number}.png", tmp_path / f"changed{number}.png"))
    rows = np.linspace(0, 19, 8, dtype=int)
    half, full = (visibility(GREY, checks(8, (1, -1, 1), level)) for level in (4, 8))
    expected = np.mean([full.delta_e if row % 2 else half.delta_e for row in rows])
    found = seen_change(pairs)
    assert found["delta_e"] == pytest.approx(expected)
    assert half.ssim > found["ssim"] > full.ssim
    cv2.imwrite(str(tmp_path / "changed0.png"), GREY[:50])
    with pytest.raises(UserError, match=r"is \(50, 192\) \(H, W\), not \(192, 192\)"):
        seen_change(pairs[:1])


def test_pictures_too_small_to_compare_have_no_figures(tmp_path):
    cv2.imwrite(str(tmp_path / "tiny.png"), GREY[:5])
    tiny = tmp_path / "tiny.png"
    assert seen_change([(tiny, tiny)]) == {"delta_e": None, "delta_e_99": None, "ssim": None}
