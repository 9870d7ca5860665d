"""The training-free methods that UnSeg is compared with: what defines each, and their budgets."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from generate_cases import entries_of, make_config, make_image, make_mask, make_set, tree_bytes
from PIL import Image

from unseg.data.annotations.base import Annotation, Segment
from unseg.io.pictures import Picture
from unseg.protection.compose import protected_pixels
from unseg.protection.methods import METHODS, MethodOptions
from unseg.protection.methods.autoregressive import (
    LEAD,
    Autoregressive,
    draw_filter,
    fill,
    is_bounded,
)
from unseg.protection.methods.base import ByClass, Canvas, matched
from unseg.protection.methods.cuda import Convolutional
from unseg.protection.methods.synper import NUM_VALUES, LinearSeparable
from unseg.protection.reading.region import class_map_of
from unseg.protection.run import generate
from unseg.protection.writing.budget_check import measure

SIZE = (40, 56)
CPU = torch.device("cpu")
CLASS_METHODS = [name for name, method in METHODS.items() if issubclass(method, ByClass)]


def canvas_of(size: tuple[int, int] = SIZE, *, channels: int = 3, key: str = "a") -> Canvas:
    """Background 0 with an object 1 and a void band -1 on a mid-grey picture."""
    rng = torch.Generator().manual_seed(0)
    classes = torch.from_numpy((make_mask(*size) > 0).astype(np.int32))
    classes[:3] = -1
    image = 0.3 + 0.4 * torch.rand(1, channels, *size, generator=rng)
    return Canvas(key, image, (classes == 1).float()[None, None], classes=classes[None, None])


def rms(values: torch.Tensor) -> float:
    return 255 * float(values.double().square().mean().sqrt())


def held_out_accuracy(first: torch.Tensor, second: torch.Tensor) -> float:
    """Of a least-squares linear classifier trained on the first two thirds of both (N, d)."""
    cut = 2 * len(first) // 3
    train = torch.cat([first[:cut], second[:cut]]).double()
    target = torch.tensor([1.0] * cut + [-1.0] * cut, dtype=torch.float64)
    gram = train.T @ train + train.square().mean() * torch.eye(train.shape[1])
    weights = torch.linalg.solve(gram, train.T @ target)
    right = torch.cat([first[cut:].double() @ weights > 0, second[cut:].double() @ weights < 0])
    return float(right.double().mean())


def test_synper_fields_of_two_classes_are_linearly_separable_and_random_noise_is_not() -> None:
    method = LinearSeparable(MethodOptions())
    values = [torch.stack([method.values(f"p{i}", c) for i in range(90)]) for c in (0, 7)]
    assert held_out_accuracy(*values) == 1.0
    rng = torch.Generator().manual_seed(0)
    random = [v.std() * torch.randn(v.shape, generator=rng) for v in values]
    assert held_out_accuracy(*random) < 0.75


def test_synper_is_separable_in_the_picture_too_even_inside_the_object_alone() -> None:
    method = LinearSeparable(MethodOptions())
    inside = canvas_of().region[0, 0].bool()

    def change(key: str, label: int) -> torch.Tensor:
        canvas = canvas_of(key=key)
        return (method.of_class(canvas, label) - canvas.image)[0][:, inside].flatten()

    fields = [torch.stack([change(f"p{i}", c) for i in range(30)]) for c in (0, 1)]
    assert held_out_accuracy(*fields) == 1.0


def test_synper_repeats_each_value_over_a_patch_of_the_padded_square() -> None:
    canvas = canvas_of()
    method = LinearSeparable(MethodOptions())
    field = (method.of_class(canvas, 1) - canvas.image)[0]
    values = method.values("a", 1).view(3, 8, 8)
    side = 7  # 56 / 8
    ratio = field[0, 0, 0] / values[0, 0, 0]
    for y, x in ((0, 0), (6, 6), (7, 0), (39, 55), (20, 30)):
        expected = ratio * values[:, y // side, x // side]
        assert torch.allclose(field[:, y, x], expected, rtol=1e-4, atol=1e-6)
    assert NUM_VALUES <= 200


def test_ar_fields_follow_their_own_filter_and_no_other_ones() -> None:
    method = Autoregressive(MethodOptions())
    own, other = method.filters(0), method.filters(1)
    field = method.field("a", 0, 3, (60, 70)).astype(np.float64)

    def surprise(filters: np.ndarray) -> np.ndarray:
        """Per colour: what the windows do not say about the pixel, over what the field varies."""
        windows = np.lib.stride_tricks.sliding_window_view(field, (3, 3), axis=(1, 2))
        foretold = (windows * filters[:, None, None]).sum((3, 4))
        left = field[:, 2:, 2:] - foretold
        return np.sqrt((left**2).mean((1, 2)) / (field**2).mean((1, 2)))

    assert (surprise(own) < 1e-6).all(), surprise(own)
    assert (surprise(other) > 1e-3).all(), surprise(other)


def test_ar_fields_are_those_of_a_loop_in_raster_order() -> None:
    filters = np.stack([draw_filter(np.random.default_rng(i)) for i in range(2)])[None]
    found = fill(filters, (9, 13), np.random.default_rng(5))
    height, width = 9 + LEAD, 13 + LEAD
    rng = np.random.default_rng(5)
    top = rng.standard_normal((2, 2, width))
    left = rng.standard_normal((2, height, 2))
    for c in range(2):
        x = np.zeros((height, width))
        x[:2], x[2:, :2] = top[c], left[c, 2:]
        for i in range(height - 2):
            for j in range(width - 2):
                x[i + 2, j + 2] = (filters[0, c] * x[i : i + 3, j : j + 3]).sum()
        assert np.abs(x[LEAD:, LEAD:] - found[0, c]).max() < 1e-6


def test_ar_filters_are_rejected_exactly_where_their_field_grows() -> None:
    values = np.random.default_rng(0).standard_normal((60, 9))
    values[:, 8] = 0
    drawn = (values / values.sum(1, keepdims=True)).reshape(60, 1, 3, 3)
    with np.errstate(over="ignore", invalid="ignore"):
        fields = np.abs(fill(drawn, (200, 200), np.random.default_rng(1))[:, 0])
    accepted = [is_bounded(weights[0]) for weights in drawn]
    for field, is_accepted, weights in zip(fields, accepted, drawn, strict=True):
        largest = field.max()
        if is_accepted:
            assert largest < 30, (largest, weights)
        else:
            grows = not np.isfinite(largest) or largest > 2 * field[:40, :40].max()
            assert grows, (largest, weights)
    assert 3 < sum(accepted) < 25


def test_cuda_is_the_class_filter_over_the_image_maximum_bit_for_bit() -> None:
    canvas = canvas_of()
    method = Convolutional(MethodOptions())
    result = method(canvas)
    assert canvas.classes is not None
    for label in (0, 1):
        plain = torch.nn.functional.conv2d(
            canvas.image.double(),
            method.kernel(label).double().expand(3, 1, 3, 3),
            padding=1,
            groups=3,
        )
        inside = (canvas.classes == label).expand_as(plain)
        found = result.double()[inside]
        assert (found - (plain / plain.max())[inside]).abs().max() < 1e-6
        whole = method.of_class(canvas, label)
        assert torch.equal(result[inside], whole[inside])
        assert float(whole.max()) == 1.0
    kernel = method.kernel(1).flatten()
    assert int((kernel == 1).sum()) == 1
    assert float(kernel.sort().values[-2]) <= 0.3
    assert not torch.equal(method.kernel(0), method.kernel(1))


def test_a_black_picture_stays_black_through_cuda() -> None:
    canvas = replace(canvas_of(), image=torch.zeros(1, 3, *SIZE))
    assert torch.equal(Convolutional(MethodOptions())(canvas), canvas.image)


@pytest.mark.parametrize("channels", [1, 3])
def test_native_budgets_are_those_of_the_specification(channels: int) -> None:
    canvas = canvas_of(channels=channels)
    synper = METHODS["synper"](MethodOptions()).of_class(canvas, 0) - canvas.image
    assert rms(synper) == pytest.approx(6, rel=1e-5)
    ar = METHODS["ar"](MethodOptions()).of_class(canvas, 0) - canvas.image
    wanted = math.sqrt(channels * SIZE[0] * SIZE[1] / 3072)
    assert float(ar.norm()) == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("name", CLASS_METHODS)
def test_void_stays_as_it_is_and_classes_are_told_apart_by_number_alone(name: str) -> None:
    canvas = canvas_of()
    method = METHODS[name](MethodOptions())
    result = method(canvas)
    assert torch.equal(result[..., :3, :], canvas.image[..., :3, :])
    assert canvas.classes is not None
    # The object's pixels do not depend on which other classes are present.
    alone = replace(canvas, classes=torch.where(canvas.classes == 1, 1, 5))
    inside = (canvas.classes == 1).expand_as(result)
    assert torch.equal(method(alone)[inside], result[inside])
    assert not torch.equal(method(alone)[~inside], result[~inside])


@pytest.mark.parametrize("name", CLASS_METHODS)
def test_randomness_comes_from_seed_class_and_name_alone(name: str) -> None:
    first, again = (METHODS[name](MethodOptions())(canvas_of()) for _ in range(2))
    assert torch.equal(first, again)
    reseeded = METHODS[name](MethodOptions(seed=1))(canvas_of())
    assert not torch.equal(first, reseeded)
    renamed = METHODS[name](MethodOptions())(canvas_of(key="b"))
    assert torch.equal(first, renamed) == (name == "cuda")  # a filter is the class's alone


@pytest.mark.parametrize("name", CLASS_METHODS)
@pytest.mark.parametrize("psnr", [30.0, 40.0])
def test_a_wanted_psnr_is_reached_on_the_rounded_picture(name: str, psnr: float) -> None:
    pixels = make_image(1, *SIZE)  # with areas at 0 and 255, where changes are clipped
    classes = (make_mask(*SIZE) > 0).astype(np.int32)
    method = METHODS[name](MethodOptions(psnr=psnr))
    result = protected_pixels(
        Picture(pixels=pixels), key="a", region=classes > 0, method=method, noise=None,
        device=CPU, classes=classes,
    )  # fmt: skip
    found = measure(pixels, result, classes > 0)
    assert found.psnr == pytest.approx(psnr, abs=0.15)


def test_matching_never_makes_cuda_stronger_than_it_is() -> None:
    image = torch.full((1, 3, 8, 8), 0.5)
    changed = image + 0.01
    weaker = matched(image, changed, psnr=20, may_exceed=False)
    assert torch.allclose(weaker, changed)
    assert torch.allclose(matched(image, changed, psnr=20), image + 0.1, atol=1e-4)
    assert torch.equal(matched(image, image, psnr=20), image)


@pytest.mark.parametrize("name", CLASS_METHODS)
def test_a_picture_of_2048_pixels_stays_finite_and_is_changed_everywhere(name: str) -> None:
    canvas = canvas_of((2048, 64) if name == "ar" else (2048, 160))
    result = METHODS[name](MethodOptions())(canvas)
    assert torch.isfinite(result).all()
    bottom = (result - canvas.image)[..., -256:, :]
    assert rms(bottom) > 0.5


@pytest.mark.parametrize("patch", [None, 32])
def test_an_ar_field_of_2048_by_2048_pixels_is_finite(patch: int | None) -> None:
    field = Autoregressive(MethodOptions(patch=patch)).field("a", 0, 1, (2048, 2048))
    assert field.shape == (1, 2048, 2048)
    assert np.isfinite(field).all()
    assert np.abs(field[:, -64:, -64:]).max() > 0


def test_pieces_of_an_ar_field_follow_the_filter_each_on_its_own() -> None:
    method = Autoregressive(MethodOptions(patch=16))
    field = method.field("a", 0, 3, (40, 30)).astype(np.float64)
    assert field.shape == (3, 40, 30)
    windows = np.lib.stride_tricks.sliding_window_view(field, (3, 3), axis=(1, 2))
    left = field[:, 2:, 2:] - (windows * method.filters(0)[:, None, None]).sum((3, 4))
    assert np.abs(left[:, 16:30, 0:14]).max() < 1e-6  # windows of the piece below the first
    assert np.abs(left[:, 14:16]).max() > 1e-2  # windows across a seam


def label_of(classes: np.ndarray, crowd: np.ndarray | None = None) -> Annotation:
    segments = [] if crowd is None else [Segment(crowd, 9, True, True, 1)]
    return Annotation(*classes.shape, class_map=classes, segments=tuple(segments))


def test_the_class_map_keeps_void_and_opens_the_background_of_object_labels() -> None:
    classes = np.array([[-1, 3, 3], [-1, -1, 7]], np.int32)
    crowd = np.array([[0, 0, 0], [1, 0, 0]], bool)
    region = classes >= 0
    label = label_of(classes, crowd)

    def of(**choice: bool) -> list[list[int]]:
        given = {"by_region": False, "has_open_background": False, **choice}
        return class_map_of(label, region, **given).tolist()

    assert of() == [[-1, 3, 3], [-1, -1, 7]]
    assert of(has_open_background=True) == [[-2, 3, 3], [-1, -2, 7]]
    assert of(by_region=True) == [[-1, 1, 1], [-1, -1, 1]]
    assert of(by_region=True, has_open_background=True) == [[0, 1, 1], [-1, 0, 1]]
    boxes = replace(label, boxes=np.array([[0, 0, 1, 1]]))
    assert class_map_of(boxes, region, by_region=False, has_open_background=False).tolist() == (
        region.astype(int).tolist()
    )


@pytest.mark.parametrize("name", CLASS_METHODS)
def test_a_generated_set_is_measured_and_does_not_depend_on_order_or_resuming(
    name: str, tmp_path: Path
) -> None:
    root = make_set(tmp_path / "in", 3)
    # One picture without an object: its background carries the background's pattern.
    Image.fromarray(np.zeros((25, 21), np.uint8)).save(root / "masks/001.png")
    method = [f"method={name}"]
    summary = generate(make_config(root, tmp_path / "a", *method, "run.batch_size=2"))
    assert summary.counts["protected"] == 3
    assert summary.l2_mean is not None
    for key, entry in entries_of(tmp_path / "a").items():
        clean = np.asarray(Image.open(root / "images" / key)).astype(float)
        change = np.asarray(Image.open(tmp_path / "a" / entry["output"])) - clean
        assert entry["budget"] is None
        assert entry["l2"] == pytest.approx(np.sqrt((change**2).sum()) / 255, abs=1e-4)
        assert entry["rms"] > 1
    generate(make_config(root, tmp_path / "b", *method, "run.limit=1"))
    generate(make_config(root, tmp_path / "b", *method))
    assert tree_bytes(tmp_path / "a") == tree_bytes(tmp_path / "b")


@pytest.mark.parametrize("name", CLASS_METHODS)
def test_grey_deep_and_transparent_pictures_keep_their_kind(name: str) -> None:
    method = METHODS[name](MethodOptions())
    classes = (make_mask(*SIZE) > 0).astype(np.int32)
    eight = make_image(3, *SIZE)
    alpha = np.full(SIZE, 255, np.uint8)
    alpha[:, :20] = 0

    def protect(pixels: np.ndarray, alpha: np.ndarray | None = None) -> np.ndarray:
        return protected_pixels(
            Picture(pixels=pixels, alpha=alpha), key="a", region=classes > 0, method=method,
            noise=None, device=CPU, classes=classes,
        )  # fmt: skip

    deep = protect(eight.astype(np.uint16) * 257)
    assert deep.dtype == np.uint16
    assert np.abs(deep / 257 - protect(eight)).max() <= 0.51
    grey = protect(make_image(4, *SIZE, 1))
    assert grey.shape == (*SIZE, 1)
    seen = protect(eight, alpha)
    assert np.array_equal(seen[:, :20], eight[:, :20])
    assert not np.array_equal(seen[:, 20:], eight[:, 20:])
