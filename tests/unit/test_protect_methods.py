"""The methods, their composition with an image, and the batched forward pass."""

import numpy as np
import pytest
import torch
from generate_cases import make_image, make_mask, saturated_generator

from unseg.io.pictures import Picture
from unseg.noise import upsample_noise
from unseg.protection.compose import protected_pixels
from unseg.protection.methods import METHODS, MethodOptions, full_size_noise
from unseg.protection.noise_maker import NoiseMaker, PromptedImage, model_frame
from unseg.protection.reading.prompts import model_prompts
from unseg.protection.writing.budget_check import fraction_note, limits, measure

CPU = torch.device("cpu")
SIZE = (37, 52)


def protected_by(name, *, key="a", channels=3, dtype=np.uint8, noise=None, **options):
    image = make_image(1, *SIZE, channels)
    pixels = image if dtype == np.uint8 else image.astype(np.uint16) * 257 + 5
    region = make_mask(*SIZE) > 0
    method = METHODS[name](MethodOptions(grid=16, **options))
    saturated = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    saturated = torch.tanh(5 * saturated)
    if noise is None and method.noise_from != "none":
        noise = saturated
    picture = Picture(pixels=pixels)
    classes = region.astype(np.int32) if method.needs_classes else None
    result = protected_pixels(
        picture, key=key, region=region, method=method, noise=noise, device=CPU, classes=classes
    )
    return pixels, result, region, method


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", [n for n in METHODS if METHODS[n].has_budget])
def test_every_bounded_method_reaches_and_keeps_its_budget(name, channels, dtype):
    clean, result, region, method = protected_by(name, channels=channels, dtype=dtype)
    assert result.dtype == dtype
    assert result.shape == clean.shape
    found = measure(clean, result, region)
    inside, outside = method.bounds
    assert found.linf_inside <= inside
    assert found.linf_outside <= outside
    # Bilinear upsampling of saturated noise still has places at the full budget.
    assert found.linf_inside > 0.85 * inside
    assert found.linf_outside >= 0.5 * outside


def test_the_perturbation_is_that_of_a_loop_over_pixels():
    noise = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1
    clean, result, region, _ = protected_by("unseg", noise=noise)
    full = upsample_noise(noise, SIZE)[0].permute(1, 2, 0).numpy()
    for y in range(0, SIZE[0], 5):
        for x in range(0, SIZE[1], 7):
            budget = 8 if region[y, x] else 2
            for c in range(3):
                wanted = round(float(clean[y, x, c]) + budget * float(full[y, x, c]))
                assert abs(int(result[y, x, c]) - min(max(wanted, 0), 255)) <= (
                    # a product that lies within float32's error of one half may round either way
                    abs(budget * float(full[y, x, c])) % 1 - 0.5 < 1e-4
                )


def test_flat_uses_the_inner_budget_everywhere():
    clean, result, region, _ = protected_by("flat")
    assert measure(clean, result, region).linf_outside > 6


def test_random_signs_change_with_the_image_and_fixed_signs_do_not():
    def change(name, key):
        clean, result, _, _ = protected_by(name, key=key)
        return result.astype(int) - clean

    assert np.array_equal(change("random_sign", "a"), change("random_sign", "a"))
    assert not np.array_equal(change("random_sign", "a"), change("random_sign", "b"))
    assert np.array_equal(change("fixed_sign", "a"), change("fixed_sign", "b"))


def test_tiled_signs_repeat_one_tile_over_the_grid_and_over_the_set():
    method = METHODS["tiled_sign"](MethodOptions(grid=10, tile=4))
    signs = method.signs("a")
    assert signs.shape == (1, 3, 10, 10)
    assert set(signs.unique().tolist()) == {-1.0, 1.0}
    assert torch.equal(signs, method.signs("b"))
    for y in range(10):
        for x in range(10):
            assert torch.equal(signs[..., y, x], signs[..., y % 4, x % 4])
    other = METHODS["tiled_sign"](MethodOptions(grid=10, tile=4, seed=43)).signs("a")
    assert not torch.equal(signs, other)


@pytest.mark.parametrize("method", ["random_sign", "fixed_sign", "tiled_sign"])
@pytest.mark.parametrize(
    ("carrier", "equal"),
    [("rgb", set()), ("luma", {(0, 1), (0, 2), (1, 2)}), ("yellow_blue", {(0, 1)})],
)
def test_colours_share_their_signs_as_asked(method, carrier, equal):
    signs = METHODS[method](MethodOptions(grid=8, carrier=carrier)).signs("a")[0]
    assert set(signs.unique().tolist()) == {-1.0, 1.0}
    pairs = [(0, 1), (0, 2), (1, 2)]
    assert {(a, b) for a, b in pairs if torch.equal(signs[a], signs[b])} == equal


def test_jpeg_only_is_the_codec_alone():
    clean, result, _, method = protected_by("jpeg_only", quality=50)
    assert method.bounds is None
    assert np.abs(result.astype(int) - clean).max() > 0
    assert np.abs(result.astype(int) - clean).mean() < 20


def test_a_fractional_budget_rounds_down_and_says_so():
    assert limits((2.5, 0.25), 255) == (2, 0)
    assert limits((2.5, 0.25), 65535) == (642, 64)
    assert "2 levels inside and 0 outside" in fraction_note((2.5, 0.25))
    assert fraction_note((8.0, 2.0)) is None
    clean, result, region, _ = protected_by("random_sign", epsilon=2.5, epsilon_bg=0.25)
    found = measure(clean, result, region)
    assert (found.linf_inside, found.linf_outside) == (2, 0)


def test_colour_under_transparent_pixels_stays_as_it_is():
    image = make_image(2, *SIZE)
    alpha = np.full(SIZE, 255, np.uint8)
    alpha[:, :20] = 0
    method = METHODS["random_sign"](MethodOptions(grid=8))
    region = np.ones(SIZE, bool)
    result = protected_pixels(
        Picture(pixels=image, alpha=alpha),
        key="a",
        region=region,
        method=method,
        noise=None,
        device=CPU,
    )
    assert np.array_equal(result[:, :20], image[:, :20])
    assert not np.array_equal(result[:, 20:], image[:, 20:])


def test_objects_carry_their_own_noise_and_the_smaller_one_lies_on_top():
    noises = torch.arange(3.0).view(3, 1, 1, 1).expand(3, 3, 4, 4) / 4
    large = torch.zeros(6, 8, dtype=torch.bool)
    large[:, :5] = True
    small = torch.zeros(6, 8, dtype=torch.bool)
    small[2:4, 3:6] = True
    result = full_size_noise(noises, [small, large], size=(6, 8))
    assert result.shape == (1, 3, 6, 8)
    expected = torch.zeros(8, 8)
    expected[:6, :5] = 0.5
    expected[2:4, 3:6] = 0.25
    assert torch.equal(result[0, 0], expected[:6])
    assert torch.equal(upsample_noise(result, (6, 8)), result)


def rows(count):
    generator = saturated_generator()
    result = []
    for i in range(count):
        size = (20 + 3 * i, 30 - 2 * i)
        given = (
            {"mask": make_mask(*size) > 0},
            {"boxes": np.array([2, 3, 10, 12])},
            {"point_coords": np.array([[4, 5], [6, 7], [8, 3]][: 1 + i % 3])},
        )[i % 3]
        prompts = model_prompts(
            size, image_size=generator.image_size, mask_size=generator.noise_size, **given
        )
        result.append(PromptedImage(make_image(i, *size), prompts))
    return result


def test_noise_does_not_depend_on_who_shares_the_batch():
    """Bit for bit, for images of different sizes and prompts in one batch."""
    maker = NoiseMaker(saturated_generator(), device=CPU, batch_size=4)
    given = rows(4)
    together = maker(given)
    for slot in range(4):
        alone = maker([row if i == slot else None for i, row in enumerate(given)])
        assert torch.equal(alone[slot], together[slot]), slot
        assert all(noise is None for i, noise in enumerate(alone) if i != slot)


def test_a_batch_gives_the_noise_of_plain_single_forward_passes():
    generator = saturated_generator()
    maker = NoiseMaker(generator, device=CPU, batch_size=3)
    given = rows(3)
    for row, noise in zip(given, maker(given), strict=True):
        frame = model_frame(row.pixels, image_size=generator.image_size, device=CPU)
        with torch.no_grad():
            plain = generator(frame, row.prompts)
        assert (plain - noise).abs().max() < 2e-3  # the saturated weights amplify rounding


def test_several_prompts_of_one_image_run_in_chunks():
    maker = NoiseMaker(saturated_generator(), device=CPU, batch_size=2)
    given = rows(5)
    noises = maker.of_one_image(given)
    assert noises.shape[0] == 5
    single = NoiseMaker(saturated_generator(), device=CPU, batch_size=1)
    for row, noise in zip(given, noises, strict=True):
        assert (single([row])[0][0] - noise).abs().max() < 2e-3


def test_the_model_frame_pads_at_bottom_and_right_and_keeps_16_bit_values():
    image = make_image(0, 10, 40)
    frame = model_frame(image, image_size=40, device=CPU)
    assert torch.equal(frame[0, :, 10:], torch.zeros(3, 30, 40))
    assert (frame[0, :, :10].permute(1, 2, 0) * 255 - torch.from_numpy(image)).abs().max() < 1e-4
    deep = model_frame(image.astype(np.uint16) * 257, image_size=40, device=CPU)
    assert (frame - deep).abs().max() < 1e-6


def test_checks_alternate_from_cell_to_cell_of_each_band():
    options = MethodOptions(grid=8, carrier="0.75 luma/2 + 0.25 opponent, sharp")
    signs = METHODS["checks"](options).signs("a")[0]
    for y in range(8):
        for x in range(8):
            luma, opponent = 0.75 * (-1) ** (y // 2 + x // 2), 0.25 * (-1) ** (y + x)
            expected = torch.tensor([luma + opponent, luma - opponent, luma + opponent])
            assert torch.equal(signs[:, y, x], expected)


def test_an_opposing_carrier_leaves_a_grey_picture_all_of_its_budget():
    clean, result, region, _ = protected_by("checks", channels=1, carrier="opponent, sharp")
    change = np.abs(result.astype(int) - clean)[..., 0]
    free = region & (clean[..., 0] > 8) & (clean[..., 0] < 247)
    assert (change[free] == 8).all()
