"""`unseg.protect` and `unseg.load_generator`, as a user calls them."""

import numpy as np
import pytest
import torch
from generate_cases import make_image, make_mask, saturated_generator, save_generator

import unseg
from unseg.utils.errors import UserError

MASK = make_mask(30, 40) > 0


def array(channels, dtype):
    image = make_image(3, 30, 40, channels or 1)
    image = image if dtype == np.uint8 else image.astype(np.uint16) * 257 + 3
    return image[:, :, 0] if channels == 0 else image


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [0, 1, 2, 3, 4])
def test_type_and_shape_stay_and_the_budget_holds(channels, dtype):
    image = array(channels, dtype)
    result = unseg.protect(image, mask=MASK, generator=saturated_generator())
    assert result.image.dtype == dtype
    assert result.image.shape == image.shape
    assert np.array_equal(result.noise, result.image.astype(int) - image)
    scale = 1 if dtype == np.uint8 else 257
    noise = np.abs(result.noise.reshape(30, 40, -1))
    colour = noise[:, :, :-1] if channels in (2, 4) else noise
    assert colour[MASK].max() <= 8 * scale
    assert colour[~MASK].max() <= 2 * scale
    # Grey pictures carry the mean of three signs, so they need not reach the whole budget.
    assert colour[MASK].max() > (2 if channels in (0, 1, 2) else 6) * scale
    if channels in (2, 4):
        assert not noise[:, :, -1].any()
    assert result.report["linf_inside"] == pytest.approx(colour[MASK].max() / scale, abs=1e-6)
    assert np.array_equal(result.region, MASK)


def test_the_region_is_the_explicit_one_else_the_mask_the_box_the_points_or_everything():
    image, generator = array(3, np.uint8), saturated_generator()

    def region(**given):
        result = unseg.protect(image, generator=generator, **given)
        assert np.abs(result.noise).max(axis=2)[~result.region].max(initial=0) <= 2
        return result.region, result.report["region_source"]

    box = np.zeros((30, 40), bool)
    box[3:9, 5:12] = True
    other = np.roll(MASK, 5, axis=1)
    assert region()[1] == "whole"
    assert np.array_equal(region(boxes=[5, 3, 11, 8])[0], box)
    assert np.array_equal(region(boxes=[5, 3, 11, 8], mask=MASK)[0], MASK)
    assert np.array_equal(region(mask=MASK, region=other)[0], other)
    assert np.array_equal(region(mask=MASK.astype(np.uint8))[0], MASK)  # {0, 1}
    assert np.array_equal(region(mask=MASK.astype(np.uint8) * 255)[0], MASK)
    found, source = region(points=[[20, 15], [2, 2]], point_labels=[1, 0])
    assert source.startswith("points:")
    assert 0 < found.sum() < found.size
    two = region(boxes=[[5, 3, 11, 8], [20, 10, 30, 20]])[0]
    assert two.sum() == box.sum() + 11 * 11


def test_the_prompt_steers_the_noise_under_the_same_region():
    image, generator = array(3, np.uint8), saturated_generator()
    by_box = unseg.protect(image, boxes=[5, 3, 11, 8], region=MASK, generator=generator)
    by_mask = unseg.protect(image, mask=MASK, region=MASK, generator=generator)
    assert not np.array_equal(by_box.image, by_mask.image)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image": np.zeros((4, 4, 3), np.float32)}, "float32.*uint8"),
        ({"image": [[1, 2]]}, "list"),
        ({"image": np.zeros((4, 4, 5), np.uint8)}, "1 to 4 channels"),
        ({"image": np.zeros((0, 4), np.uint8)}, "shape"),
        ({"mask": np.zeros((3, 3), bool)}, "3 x 3 but the image 4 x 4"),
        ({"mask": np.zeros((4, 4, 3), bool)}, r"give \(H, W\)"),
        ({"boxes": [0, 0, 99, 2]}, "outside"),
        ({"points": [[1, 1]], "point_labels": [7]}, "0 or 1"),
        ({"point_labels": [1]}, "without points"),
        ({"epsilon": 2, "epsilon_bg": 4}, "epsilon_bg"),
        ({"epsilon": float("nan")}, "epsilon"),
    ],
)
def test_mistakes_are_named(arguments, message):
    arguments = {"image": np.zeros((4, 4, 3), np.uint8), "generator": saturated_generator()} | (
        arguments
    )
    with pytest.raises(UserError, match=message):
        unseg.protect(**arguments)


def test_generators_load_by_path_and_a_missing_one_names_the_options(tmp_path):
    path = save_generator(tmp_path / "g.safetensors")
    generator = unseg.load_generator(path, device="cpu")
    image = array(3, np.uint8)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    loaded = unseg.protect(image, mask=MASK, generator=generator).image
    same = unseg.protect(image, mask=MASK, generator=saturated_generator()).image
    torch.set_num_threads(threads)
    assert np.array_equal(loaded, same)
    with pytest.raises(UserError, match=r"no such weight file.*Generator_\*\.pth.*safetensors"):
        unseg.load_generator(tmp_path / "none.pth", device="cpu")


def test_the_embedded_generator_is_taken_when_none_is_named():
    given, default = (unseg.load_generator(*names, device="cpu") for names in (["default"], []))
    wanted = given.state_dict()
    assert all(torch.equal(value, wanted[name]) for name, value in default.state_dict().items())


def test_unseg_protect_stays_callable_when_its_modules_are_imported():
    import unseg.protection.writing.manifest

    assert callable(unseg.protect)
    assert unseg.protection.writing.manifest.MANIFEST == "manifest.jsonl"
