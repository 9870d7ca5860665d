"""`unseg.transforms.Protect` gives `unseg.protect`'s result in a torchvision pipeline."""

from __future__ import annotations

import doctest
import importlib
import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import tv_tensors
from torchvision.transforms import v2

import unseg
from unseg.protection.api import load_generator
from unseg.transforms import Protect
from unseg.utils.errors import UserError

SIZE = (40, 56)


@pytest.fixture(scope="module")
def generator():
    return load_generator("default", "cpu")


@pytest.fixture
def pixels() -> np.ndarray:
    """(H, W, 3) uint8 of a smooth scene."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    return np.stack([4 * x, 6 * y, 255 - 2 * x - 2 * y], axis=-1).astype(np.uint8)


def image_of(pixels: np.ndarray) -> tv_tensors.Image:
    return tv_tensors.Image(torch.from_numpy(pixels).permute(2, 0, 1).contiguous())


def array_of(image: torch.Tensor) -> np.ndarray:
    return image.permute(1, 2, 0).cpu().numpy()


def mask_of(y0: int, y1: int) -> np.ndarray:
    mask = np.zeros(SIZE, np.uint8)
    mask[y0:y1, 8:40] = 3
    return mask


def test_a_mask_in_a_nested_sample_gives_the_same_as_the_function(generator, pixels):
    mask = mask_of(5, 30)
    sample = {"image": image_of(pixels), "target": [{"mask": tv_tensors.Mask(mask), "id": 7}]}
    found = Protect(generator)(sample)
    expected = unseg.protect(pixels, mask=mask != 0, generator=generator)
    assert (array_of(found["image"]) == expected.image).all()
    assert isinstance(found["image"], tv_tensors.Image)
    assert found["target"][0]["id"] == 7
    assert torch.equal(found["target"][0]["mask"], sample["target"][0]["mask"])


def test_instance_masks_are_protected_together(generator, pixels):
    masks = np.stack([mask_of(2, 9), mask_of(20, 33)])
    found, _ = Protect(generator, epsilon=4, epsilon_bg=1)(image_of(pixels), tv_tensors.Mask(masks))
    expected = unseg.protect(
        pixels, mask=masks.any(0), generator=generator, epsilon=4, epsilon_bg=1
    )
    assert (array_of(found) == expected.image).all()


@pytest.mark.parametrize(
    ("format", "numbers"),
    [("XYXY", [8, 5, 40, 30]), ("XYWH", [8, 5, 32, 25]), ("CXCYWH", [24, 17.5, 32, 25])],
)
def test_boxes_of_any_format_cover_the_pixels_that_they_cover(generator, pixels, format, numbers):
    boxes = tv_tensors.BoundingBoxes(torch.tensor([numbers]), format=format, canvas_size=SIZE)
    found, _ = Protect(generator)(image_of(pixels), boxes)
    expected = unseg.protect(pixels, boxes=[8, 5, 39, 29], generator=generator)
    assert (array_of(found) == expected.image).all()
    assert expected.region.sum() == 32 * 25


def test_without_labels_the_whole_image_is_protected(generator, pixels):
    expected = unseg.protect(pixels, generator=generator).image
    assert (array_of(Protect(generator)(image_of(pixels))) == expected).all()
    photo = Protect(generator)(Image.fromarray(pixels))
    assert (np.asarray(photo) == expected).all()
    grey = Protect(generator)(image_of(pixels[..., :1]))
    assert grey.shape == (1, *SIZE)


@pytest.mark.parametrize(
    "labels",
    [
        tv_tensors.Mask(torch.zeros(SIZE)),
        tv_tensors.BoundingBoxes(torch.zeros(0, 4), format="XYXY", canvas_size=SIZE),
    ],
)
def test_an_image_without_objects_stays_as_it_is(generator, pixels, labels):
    found, _ = Protect(generator)(image_of(pixels), labels)
    assert (array_of(found) == pixels).all()


def check_batch(generator, pixels: np.ndarray, device: str) -> None:
    masks = np.stack([mask_of(2, 20), mask_of(0, 0), mask_of(10, 39)])
    images = torch.stack([image_of(np.roll(pixels, row, 1)) for row in range(3)]).to(device)
    found, _ = Protect(generator)(tv_tensors.Image(images), tv_tensors.Mask(masks))
    assert found.device == images.device
    for row, mask in enumerate(masks):
        clean = np.roll(pixels, row, 1)
        expected = clean
        if mask.any():
            expected = unseg.protect(clean, mask=mask != 0, generator=generator).image
        assert (array_of(found[row]) == expected).all(), row


def test_a_batch_equals_its_images_one_by_one(generator, pixels):
    check_batch(generator, pixels, "cpu")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_batch_on_the_graphics_card_stays_there(pixels):
    check_batch(load_generator("default", "cuda"), pixels, "cuda")


def test_it_works_in_a_pipeline_and_in_a_loader(generator, pixels):
    pipeline = v2.Compose([Protect(generator), v2.ToDtype(torch.float32, scale=True)])
    images = [image_of(np.roll(pixels, row, 1)) for row in range(4)]
    loader = DataLoader([pipeline(image) for image in images], batch_size=2)
    batches = torch.cat(list(loader))
    assert batches.shape == (4, 3, *SIZE)
    expected = unseg.protect(pixels, generator=generator).image
    assert (array_of(batches[0] * 255).round() == expected).all()


def test_it_is_pickled_for_workers_and_named_shortly(generator, pixels):
    transform = Protect(generator, epsilon=4)
    again = pickle.loads(pickle.dumps(transform))
    assert torch.equal(again(image_of(pixels)), transform(image_of(pixels)))
    assert repr(transform) == "Protect(epsilon=4, epsilon_bg=2)"


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        ([torch.zeros(3, 8, 8)], "found 0 images"),
        ([tv_tensors.Image(torch.zeros(3, 8, 8))] * 2, "found 2 images"),
        ([tv_tensors.Image(torch.zeros(3, 8, 8))], "before ToDtype"),
        (
            [tv_tensors.Image(torch.zeros(3, 8, 8)), tv_tensors.Mask(torch.ones(8, 9))],
            r"Mask is \(8, 9\), its image is \(3, 8, 8\)",
        ),
        (
            [tv_tensors.Image(torch.zeros(3, 8, 8)), *[tv_tensors.Mask(torch.ones(8, 8))] * 2],
            "found 2 Mask",
        ),
        (
            [
                tv_tensors.Image(torch.zeros(2, 3, 8, 8)),
                tv_tensors.BoundingBoxes([[0, 0, 1, 1]], format="XYXY", canvas_size=(8, 8)),
            ],
            "belong to one image",
        ),
    ],
)
def test_a_sample_that_does_not_fit_is_refused_in_one_line(generator, sample, message):
    with pytest.raises(UserError, match=message):
        Protect(generator)(*sample)


@pytest.mark.parametrize("name", ["unseg.transforms", "unseg.protection.api"])
def test_the_examples_in_public_docstrings_hold(name):
    found = doctest.testmod(importlib.import_module(name))
    assert found.attempted > 0
    assert found.failed == 0
