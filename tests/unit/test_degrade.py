"""Degradations against the libraries that trainers use, and their gradients."""

from __future__ import annotations

import io

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from unseg import degrade


@pytest.fixture
def picture() -> torch.Tensor:
    rng = torch.Generator().manual_seed(0)
    smooth = torch.rand(2, 3, 6, 7, generator=rng)
    image = torch.nn.functional.interpolate(smooth, (33, 41), mode="bicubic").clamp(0, 1)
    return torch.round(image * 255) / 255


def levels(image: torch.Tensor) -> np.ndarray:
    return torch.round(image[0] * 255).permute(1, 2, 0).to(torch.uint8).numpy()


@pytest.mark.parametrize("quality", [95, 75, 10])
def test_jpeg_equals_pillow(picture: torch.Tensor, quality: int) -> None:
    buffer = io.BytesIO()
    Image.fromarray(levels(picture)).save(buffer, "JPEG", quality=quality)
    expected = np.asarray(Image.open(buffer))
    assert np.array_equal(levels(degrade.jpeg(picture, quality)), expected)


def test_blur_equals_opencv(picture: torch.Tensor) -> None:
    expected = cv2.GaussianBlur(
        picture[0].permute(1, 2, 0).numpy(), (7, 7), 1.0, borderType=cv2.BORDER_REFLECT_101
    )
    found = degrade.gaussian_blur(picture, 1.0)[0].permute(1, 2, 0).numpy()
    assert np.abs(found - expected).max() < 1e-5


def test_median_equals_opencv_inside(picture: torch.Tensor) -> None:
    expected = cv2.medianBlur(levels(picture), 3)
    found = levels(degrade.median(picture, 3))
    assert np.array_equal(found[1:-1, 1:-1], expected[1:-1, 1:-1])


def test_greyscale_equals_pillow_within_rounding(picture: torch.Tensor) -> None:
    expected = np.asarray(Image.fromarray(levels(picture)).convert("L")).astype(int)
    found = levels(degrade.greyscale(picture)).astype(int)
    assert np.abs(found - expected[..., None]).max() <= 1


@pytest.mark.parametrize("bits", [1, 3, 8])
def test_bit_depth_leaves_that_many_levels(picture: torch.Tensor, bits: int) -> None:
    ramp = torch.linspace(0, 1, 256).expand(1, 3, 1, 256)
    assert len(degrade.bit_depth(ramp, bits).unique()) == 2**bits
    assert (degrade.bit_depth(picture, bits) - picture).abs().max() <= 0.5 / (2**bits - 1) + 1e-6


def test_down_up_keeps_size_and_removes_the_finest_grid() -> None:
    checks = (torch.arange(16)[:, None] + torch.arange(16)) % 2
    image = checks.float().expand(1, 3, 16, 16)
    found = degrade.down_up(image, 0.5)
    assert found.shape == image.shape
    assert found.std() < 1e-6


@pytest.mark.parametrize(
    ("function", "value"),
    [
        (degrade.jpeg, 50),
        (degrade.gaussian_blur, 2.0),
        (degrade.bit_depth, 2),
        (degrade.median, 3),
        (degrade.down_up, 0.5),
    ],
)
def test_every_degradation_keeps_shape_and_range(
    function: object, value: float, picture: torch.Tensor
) -> None:
    found = function(picture, value)
    assert found.shape == picture.shape
    assert found.dtype == picture.dtype
    assert float(found.min()) >= -1e-6
    assert float(found.max()) <= 1 + 1e-6


def test_a_picture_smaller_than_the_kernel_is_blurred_all_the_same() -> None:
    assert degrade.gaussian_blur(torch.rand(1, 3, 2, 2), 3.0).shape == (1, 3, 2, 2)
    assert degrade.gaussian_blur(torch.rand(1, 3, 1, 4), 3.0).shape == (1, 3, 1, 4)


def test_straight_through_has_the_value_of_the_codec_and_the_gradient_of_the_identity(
    picture: torch.Tensor,
) -> None:
    image = picture.clone().requires_grad_()
    weights = torch.rand_like(picture)
    coded = degrade.straight_through(degrade.jpeg, image, 30)
    (coded * weights).sum().backward()
    assert torch.allclose(coded, degrade.jpeg(picture, 30), atol=1e-6)
    assert torch.equal(image.grad, weights)


def test_blur_grey_and_scaling_have_their_own_gradients() -> None:
    for function in (
        lambda x: degrade.gaussian_blur(x, 0.8),
        degrade.greyscale,
        lambda x: degrade.down_up(x, 0.5),
    ):
        image = torch.rand(1, 3, 5, 6, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(function, (image,))
