"""Defences on pictures: how they are written, and the defining property of each."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from scipy.fft import dctn
from torch import Tensor

from unseg import degrade
from unseg.utils.errors import UserError
from unseg.utils.seed import torch_generator
from unseg.victims.data.defences import (
    ALTERNATIVES,
    LEARNT,
    PICTURE,
    TRAINING,
    alternatives,
    defence_at_test,
    is_drawn,
    known_generator,
    needs_generator,
    parse_defence,
    ready_defence,
)
from unseg.victims.data.defences.base import Known, PublishedPicture
from unseg.victims.data.defences.notch import FRAME, mean_log_spectrum, spectral_peaks
from unseg.victims.data.defences.projection import linear_classifier
from unseg.victims.data.tensor_set import IGNORED_LABEL

ROOT = Path(__file__).resolve().parents[2]


def pictures(count: int, *, height: int = 48, width: int = 64) -> list[PublishedPicture]:
    """Smooth pictures with fine texture and a square object each; some pixels are void."""
    found = []
    for i in range(count):
        rng = torch_generator("defences", i)
        smooth = F.interpolate(
            torch.rand(1, 3, 6, 8, generator=rng), (height, width), mode="bicubic"
        )[0]
        texture = 0.02 * torch.randn(3, height, width, generator=rng)
        label = torch.zeros(height, width, dtype=torch.uint8)
        y, x = torch.randint(0, 16, (2,), generator=rng).tolist()
        label[y : y + 32, x : x + 40] = 1
        label[:2] = IGNORED_LABEL
        image = (0.2 + 0.6 * smooth + texture).clamp(0.1, 0.9)
        found.append(PublishedPicture(image, label, f"p{i}"))
    return found


def tile(height: int, width: int) -> Tensor:
    """4 x 4 random signs, cells of one pixel, repeated: (3, H, W)."""
    signs = torch.randint(0, 2, (3, 4, 4), generator=torch_generator("tile")) * 2.0 - 1
    signs -= signs.mean((1, 2), keepdim=True)
    return signs.repeat(1, height // 4, width // 4)


def protected(clean: list[PublishedPicture]) -> list[PublishedPicture]:
    """The tile with 8 levels inside and 2 outside."""
    return [
        replace(p, image=p.image + torch.where(p.inside, 8, 2) / 255 * tile(*p.label.shape))
        for p in clean
    ]


def error(found: Tensor, clean: Tensor) -> float:
    """Root mean square in grey levels."""
    return float(255 * (found - clean).square().mean().sqrt())


def test_written_defences_are_parsed_and_faults_named() -> None:
    assert parse_defence("none") == ()
    assert parse_defence("jpeg-75+grey") == (("jpeg", 75.0), ("grey", 1.0))
    assert parse_defence("colour-norm+sharpen+dct-20") == (
        ("colour-norm", 1.0), ("sharpen", 2.5), ("dct", 20.0),
    )  # fmt: skip
    assert parse_defence("mean-residual-32") == (("mean-residual", 32.0),)
    for text, message in (("fog-1", "unknown 'fog'"), ("blur", "needs a value"),
                          ("jpeg-0", "1 to 100"), ("bits-x", "no number"),
                          ("oproj-2.5", "whole number"), ("mean", "unknown 'mean'")):  # fmt: skip
        with pytest.raises(UserError, match=message):
            parse_defence(text)


def test_alternatives_are_run_one_by_one() -> None:
    assert alternatives("iss") == ("jpeg-10", "grey")
    assert alternatives("iss+adversarial") == ("jpeg-10+adversarial", "grey+adversarial")
    assert alternatives("jpeg-75+blur-1") == ("jpeg-75+blur-1",)


def test_every_defence_is_described_and_its_assumptions_with_it() -> None:
    text = re.sub(r"\s+", " ", (ROOT / "docs/EVALUATION.md").read_text(encoding="utf-8"))
    for name in (*PICTURE, *LEARNT, *TRAINING, *ALTERNATIVES):
        assert re.search(rf"`{name}(-[^`]*)?`", text), f"docs/EVALUATION.md: no {name}"
    for name, entry in LEARNT.items():
        assert entry.assumes in text, f"docs/EVALUATION.md: {name} assumes {entry.assumes}"


@pytest.mark.parametrize("name", PICTURE)
def test_a_defence_on_pictures_keeps_frame_and_range_and_draws_by_seed_and_name(name: str) -> None:
    entry = PICTURE[name]
    text = name if entry.default is not None else f"{name}-{min(entry.high, 4):g}"
    picture = pictures(1)[0]
    found = ready_defence(text, seed=3)(picture)
    assert found.shape == picture.image.shape
    assert found.min() >= 0
    assert found.max() <= 1
    assert not torch.equal(found, picture.image)
    assert torch.equal(ready_defence(text, seed=3)(picture), found)
    for other in (ready_defence(text, seed=4), ready_defence(text, seed=3)):
        renamed = replace(picture, key="other")
        assert torch.equal(other(renamed), found) != is_drawn(text)
    if not entry.at_test:
        assert torch.equal(defence_at_test(text)(picture), picture.image)


def test_what_a_model_can_see_is_changed_at_test_time_too() -> None:
    picture = pictures(1)[0]
    grey = defence_at_test("blur-1+grey")(picture)
    assert torch.equal(grey[0], grey[2])
    assert not torch.equal(ready_defence("blur-1+grey")(picture), grey)
    norm = defence_at_test("colour-norm")(picture)
    assert torch.equal(norm, ready_defence("colour-norm")(picture))


def test_dct_keeps_the_lowest_rows_and_columns_alone() -> None:
    picture = pictures(1)[0].image * 0.5 + 0.25
    found = dctn(degrade.dct_low_pass(picture[None], 0.3)[0].double(), axes=(1, 2), norm="ortho")
    given = dctn(picture.double(), axes=(1, 2), norm="ortho")
    assert abs(found[:, :14, :19] - given[:, :14, :19]).max() < 1e-3
    found[:, :14, :19] = 0
    assert abs(found).max() < 1e-3


def test_a_sharpening_kernel_is_a_cross_about_the_wanted_weights() -> None:
    point = torch.full((400, 1, 5, 5), 0.5)
    point[:, :, 2, 2] += 0.01
    flat = torch.full_like(point, 0.5)
    found, ground = (degrade.sharpened(x, 2.5, generator=torch_generator(1)) for x in (point, flat))
    weights = ((found - ground) / 0.01)[:, 0]
    assert weights[:, 2, 2].mean() == pytest.approx(2.5, abs=0.03)
    assert weights[:, 2, 2].std() == pytest.approx(0.1, abs=0.02)
    assert weights[:, 1, 2].mean() == pytest.approx(-1.5 / 4, abs=0.03)
    assert weights[:, 1, 1].abs().max() < 1e-3


def test_coin_reads_each_pixel_within_its_distance() -> None:
    rows, columns = torch.meshgrid(torch.arange(32.0), torch.arange(40.0), indexing="ij")
    ramps = torch.stack([rows, columns, rows])[None] / 64
    moved = 64 * (degrade.displaced(ramps, 2, generator=torch_generator(1)) - ramps)
    assert moved.abs().max() <= 2 + 1e-4
    inner = moved[..., 2:-2, 2:-2]
    assert inner[:, :2].std() == pytest.approx(2 / 3**0.5, abs=0.05)
    assert torch.equal(inner[:, 0], inner[:, 2])  # all colours of a pixel move together
    same = degrade.displaced(ramps, 0, generator=torch_generator(1))
    assert torch.allclose(same, ramps, atol=1e-5)


def test_colour_norm_forgets_the_gain_and_offset_of_each_colour() -> None:
    image = 0.5 + 0.1 * pictures(1)[0].image[None]
    found = degrade.standardised(image)
    assert torch.allclose(found.mean((2, 3)), torch.full((1, 3), 0.5), atol=0.01)
    other = image * torch.tensor([0.5, 1.0, 1.4]).view(1, 3, 1, 1) - 0.1
    assert torch.allclose(degrade.standardised(other), found, atol=1e-4)


def test_colour_noise_shifts_each_colour_and_draws_its_own_strength() -> None:
    flat = torch.full((300, 3, 16, 16), 0.5)
    found = 255 * (degrade.colour_noise(flat, 8, generator=torch_generator(2)) - flat)
    shifts = found.mean((2, 3))
    assert shifts.abs().max() < 10
    assert shifts.std() == pytest.approx(8 / 3**0.5, abs=0.4)
    strengths = found.std((2, 3)).mean(1)
    assert strengths.min() < 0.5
    assert strengths.max() == pytest.approx(8, abs=0.7)
    assert torch.equal(degrade.colour_noise(flat, 0, generator=torch_generator(2)), flat)


@pytest.mark.parametrize(("name", "left"), [("mean-residual", 0.45), ("notch", 0.6)])
def test_noise_that_all_pictures_share_is_found_and_taken_away(name: str, left: float) -> None:
    clean = pictures(36)  # cells with loud texture do not count, so it takes some
    published = protected(clean)
    defend = ready_defence(name, Known(published, len(published)))
    before = sum(error(p.image, c.image) for p, c in zip(published, clean, strict=True))
    after = sum(error(defend(p), c.image) for p, c in zip(published, clean, strict=True))
    assert after < left * before
    harmless = ready_defence(name, Known(clean, len(clean)))
    assert sum(error(harmless(c), c.image) for c in clean) < 0.35 * before


def test_a_notch_lies_at_the_lines_of_a_tile_and_hardly_anywhere_in_clean_pictures() -> None:
    clean = pictures(16)
    none = spectral_peaks(mean_log_spectrum(Known(clean, 16)), 6)
    peaks = spectral_peaks(mean_log_spectrum(Known(protected(clean), 16)), 6)
    assert peaks.shape == (3, FRAME, FRAME)
    assert none.float().mean() < 0.012
    assert peaks.float().mean() > 3 * none.float().mean()
    # Cells of one pixel in a square of 64: lines at multiples of 16 cycles a side.
    places = peaks.any(0).nonzero(as_tuple=True)
    distance = torch.maximum(*(((i + 8) % 16 - 8).abs() for i in places))
    assert (distance <= 2).float().mean() > 0.8


def test_the_projection_takes_away_what_tells_the_classes_apart_linearly() -> None:
    clean = pictures(12)
    edge = torch.tensor([[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]])
    published = []
    for p in clean:  # a tint inside: what a linear classifier finds at once
        tint = torch.tensor([8.0, -8.0, 4.0]).view(3, 1, 1) / 255
        flat = 0.5 + 0.02 * F.conv2d(p.image[:, None], edge[None, None], padding=1)[:, 0]
        published.append(replace(p, image=(flat + torch.where(p.inside, tint, 0)).clamp(0, 1)))
    defend = ready_defence("oproj-3", Known(published, 12))

    def accuracy(images: list[Tensor]) -> float:
        pixels = torch.stack(images).permute(0, 2, 3, 1).reshape(-1, 3)
        classes = torch.stack([p.label for p in published]).flatten()
        kept = classes != IGNORED_LABEL
        pixels, classes = pixels[kept] - pixels[kept].mean(0), classes[kept]
        weights = linear_classifier(pixels, classes.long())
        scores = pixels @ (weights[1] - weights[0])
        split = (scores[classes == 1].mean() + scores[classes == 0].mean()) / 2
        hits = (scores > split) == (classes == 1)
        return float((hits[classes == 1].float().mean() + hits[classes == 0].float().mean()) / 2)

    assert accuracy([p.image for p in published]) > 0.95
    assert accuracy([defend(p) for p in published]) < 0.7


def test_a_set_of_one_class_has_nothing_to_project_out() -> None:
    plain = [replace(p, label=torch.zeros_like(p.label)) for p in pictures(2)]
    defend = ready_defence("oproj-3", Known(plain, 2))
    assert torch.equal(defend(plain[0]), plain[0].image)


def test_the_same_generator_takes_away_what_it_adds() -> None:
    clean = pictures(1)[0]
    noise = 8 / 255 * tile(48, 64)
    published = replace(clean, image=clean.image + noise)
    known = Known([published], 1, noise_again=lambda _: noise)
    assert torch.allclose(ready_defence("same-generator", known)(published), clean.image, atol=1e-6)
    assert needs_generator("jpeg-75+same-generator")


def test_a_remover_learns_from_pairs_of_other_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known_generator, "CROP", 24)
    monkeypatch.setattr(known_generator, "STEPS", 60)
    clean = pictures(10)
    published = protected(clean)
    pairs = [(c, p.image) for c, p in zip(clean[4:], published[4:], strict=True)]
    known = Known(published[:4], 4, seed=1, pairs=pairs)
    defend = ready_defence("regenerate", known)
    before = sum(error(p.image, c.image) for p, c in zip(published[:4], clean, strict=False))
    after = sum(error(defend(p), c.image) for p, c in zip(published[:4], clean, strict=False))
    assert after < 0.6 * before
    again = ready_defence("regenerate", known)
    assert torch.equal(again(published[0]), defend(published[0]))


def test_a_learnt_defence_is_fitted_to_what_the_parts_before_it_leave() -> None:
    clean = pictures(8)
    known = Known(protected(clean), 8)
    chained = ready_defence("blur-2+mean-residual", known)(known.pictures[0])
    blurred = [replace(p, image=ready_defence("blur-2")(p)) for p in known.pictures]
    alone = ready_defence("mean-residual", Known(blurred, 8))(blurred[0])
    assert torch.equal(chained, alone)
