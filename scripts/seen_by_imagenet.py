"""Which carrier does a network from ImageNet see best, at all sizes that a trainer draws?

python scripts/seen_by_imagenet.py OUT.md CONFIG [key=value ...]      (needs the extra `eval`)

CONFIG is a file of configs/generate/ with its overrides; its list should be training pictures. Each
picture carries a lure in the region of *another* picture, so that only the noise tells where it is.
It goes the way of a trainer: reduced to a frame, scaled, cropped, relit. A ridge regression on the
features of EfficientNet-Lite0 then predicts the region, from the first half of the pictures for
the second. Printed: the share of variance that it explains (R2; negative: worse than a constant)
and the area under the ROC curve. A lure that such a regression finds is learnt soon.

A second table is of the race between lure and object: each picture is protected in its own region,
the same regression learns from one half of the pictures, and is asked about the *clean* other half.
Printed: its IoU there, and its slope, the rise of the answer from background to object. Less is
better protected. Nothing is trained.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unseg.config.generate import GenerateConfig
from unseg.config.load import load_config
from unseg.data.annotations import build_source
from unseg.io.decode import read_rgb
from unseg.io.files import atomic_write_bytes
from unseg.models.formats.imagenet import load_efficientnet_lite0
from unseg.noise import Carrier, compose
from unseg.protection.reading.region import region_from_annotation
from unseg.utils.errors import UserError
from unseg.utils.seed import torch_generator

CARRIERS = [
    *(f"{cells} opponent, sharp" for cells in (64, 48, 32, 24, 16, 8)),
    "24 opponent, cosine",
    "24 opponent",
    "24 yellow_blue, sharp",
    "24 luma, sharp",
    "24 0.75 luma + 0.25 opponent, sharp",
    "64 0.5 opponent + 0.5 opponent/2, sharp",
]
"""Cells along the side, and the carrier of a chequerboard."""
RANDOM = ["24 opponent, sharp", "32 rgb"]
"""The same of signs drawn by lot; the last one is the control of the paper's own noise."""
BUDGET = (8, 2)
RACES = [
    ("24 opponent, sharp", (0, 0)),
    *((f"{cells} opponent, sharp", (8, 2)) for cells in (48, 32, 24, 16)),
    ("64 0.5 opponent + 0.5 opponent/2, sharp", (8, 2)),
    ("24 luma, sharp", (8, 2)),
    ("24 opponent, sharp", (8, 1)),
    *((f"{cells} opponent, sharp", (8, 0)) for cells in (32, 24, 16)),
    ("24 opponent, sharp", (4, 1)),
    ("24 opponent, sharp", (4, 0)),
]
"""Chequerboards and budgets of the second table; 0/0 is clean."""
FRAME = 128
GRID = 32
"""Side of the map on which regions are predicted."""
PICTURES = 96
VIEWS = 3
RIDGE = 0.03

Pair = tuple[Tensor, Tensor]


def lured(
    image: Tensor,
    region: Tensor,
    noise: Tensor,
    carrier: Carrier,
    budget: tuple[float, float] = BUDGET,
) -> Tensor:
    """(3, F, F) uint8: a picture with a lure in a region, reduced to the trainer's frame."""
    protected = compose(
        image[None], noise, region=region[None], epsilon=budget[0], epsilon_bg=budget[1],
        enlarge=carrier.enlarge,
    )  # fmt: skip
    whole = torch.round(protected * 255)
    small = F.interpolate(whole, (FRAME, FRAME), mode="bilinear", antialias=True)
    return small[0].round().clamp(0, 255).byte()


def lured_pictures(pairs: list[Pair], text: str, *, is_random: bool) -> tuple[Tensor, Tensor]:
    """(N, 3, F, F) uint8 pictures, each with the lure in the next one's region: (N, 1, F, F)."""
    cells, _, written = text.partition(" ")
    carrier = Carrier.parse(written)
    rng = torch_generator(0, "signs")
    fields = carrier.draw_signs(int(cells), rng) if is_random else carrier.checks(int(cells))
    noise = carrier.noise(fields)
    images, regions = [], []
    for (image, _), (_, other) in zip(pairs, pairs[1:] + pairs[:1], strict=True):
        region = F.interpolate(other[None], image.shape[-2:], mode="nearest")
        images.append(lured(image, region[0], noise, carrier))
        regions.append(F.interpolate(region, (FRAME, FRAME), mode="nearest")[0])
    return torch.stack(images), torch.stack(regions)


def trainer_s_view(images: Tensor, regions: Tensor, rng: torch.Generator) -> tuple[Tensor, ...]:
    """Pictures scaled by 0.5 to 2, mirrored, cropped and relit, with regions; and where is void."""
    draw = torch.rand(len(images), 6, generator=rng)
    window = 1 / (0.5 * 4 ** draw[:, 0])
    theta = torch.zeros(len(images), 2, 3)
    theta[:, 0, 0] = torch.where(draw[:, 1] < 0.5, -window, window)
    theta[:, 1, 1] = window
    theta[:, :, 2] = (1 - window)[:, None] * (2 * draw[:, 2:4] - 1)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    shown = F.grid_sample(images / 255, grid, mode="bilinear", align_corners=False)
    mean = shown.mean((1, 2, 3), keepdim=True)
    contrast, brightness = 0.8 + 0.4 * draw[:, 4], 0.2 * draw[:, 5] - 0.1
    shown = mean + contrast.view(-1, 1, 1, 1) * (shown - mean) + brightness.view(-1, 1, 1, 1)
    place = F.grid_sample(regions + 1, grid, mode="nearest", align_corners=False)
    return shown.clamp(0, 1), (place == 2).double(), (place == 0).double()


def seen(network: nn.Module, images: Tensor, regions: Tensor) -> tuple[float, float]:
    """(R2, area under the ROC curve) of the regression, on the second half of the pictures."""
    rng = torch_generator(0, "views")
    half = len(images) // 2
    (x, y), (x_new, y_new) = (
        _views(network, images[rows], regions[rows], rng)
        for rows in (slice(half), slice(half, None))
    )
    predicted = _regression(x, y)(x_new)
    explained = 1 - (y_new - predicted).square().sum() / (y_new - y.mean()).square().sum()
    inside = y_new > 0.5
    ranks = predicted.argsort().argsort().double()
    area = (ranks[inside].mean() - (inside.sum() - 1) / 2) / (~inside).sum()
    return float(explained), float(area)


def left_on_clean(
    network: nn.Module, protected: Tensor, clean: Tensor, regions: Tensor
) -> tuple[float, float]:
    """(IoU, slope) on clean pictures of a regression that learnt from protected ones.

    Means over both halves. (N, 3, F, F) uint8 pictures, (N, 1, F, F) regions in {0, 1}.
    """
    halves = [slice(len(clean) // 2), slice(len(clean) // 2, None)]
    found = []
    for mine, others in (halves, halves[::-1]):
        rng = torch_generator(0, "views")
        predict = _regression(*_views(network, protected[mine], regions[mine], rng))
        x, y = _views(network, clean[others], regions[others], rng)
        answer, inside = predict(x), y > 0.5
        called = answer > 0.5
        iou = (called & inside).sum() / (called | inside).sum()
        y = y - y.mean()
        found.append([float(iou), float((answer * y).mean() / y.square().mean())])
    iou, slope = torch.tensor(found).mean(0).tolist()
    return iou, slope


def _regression(x: Tensor, y: Tensor) -> Callable[[Tensor], Tensor]:
    """What a ridge regression of shares (N,) on features (N, C) answers to new features."""
    mean, deviation = x.mean(0), x.std(0) + 1e-6
    x = (x - mean) / deviation
    covariance = x.T @ x / len(x) + RIDGE * torch.eye(x.shape[1], dtype=x.dtype)
    weights = torch.linalg.solve(covariance, x.T @ (y - y.mean()) / len(x))
    return lambda new: (new - mean) / deviation @ weights + y.mean()


def _views(
    network: nn.Module, images: Tensor, regions: Tensor, rng: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Features (N, C) of all places that show a picture, and their shares of the region (N,)."""
    features, shares = [], []
    for rows in torch.arange(len(images)).repeat(VIEWS).split(16):
        shown, region, void = trainer_s_view(images[rows], regions[rows], rng)
        maps = [_on_grid(stage) for stage in network((shown - 0.5) / 0.5)]
        is_shown = F.adaptive_avg_pool2d(void, GRID)[:, 0] == 0
        features.append(torch.cat(maps, 1).permute(0, 2, 3, 1)[is_shown].double())
        shares.append(F.adaptive_avg_pool2d(region, GRID)[:, 0][is_shown])
    return torch.cat(features), torch.cat(shares)


def _on_grid(stage: Tensor) -> Tensor:
    if stage.shape[-1] >= GRID:
        return F.adaptive_avg_pool2d(stage, GRID)
    return F.interpolate(stage, (GRID, GRID), mode="bilinear")


def read_pairs(config: GenerateConfig) -> list[Pair]:
    """Some pictures (3, H, W) in [0, 1] of a data set with their regions (1, H, W) in {0, 1}."""
    source = build_source(config.data)
    items = source.items()
    pairs = []
    for item in items[:: max(1, len(items) // PICTURES)][:PICTURES]:
        region = region_from_annotation(source.read(item))
        image = torch.from_numpy(read_rgb(item.image_path).copy()).permute(2, 0, 1) / 255
        pairs.append((image, torch.from_numpy(region).float()[None]))
    return pairs


def build_network() -> nn.Module:
    """EfficientNet-Lite0's five stages from ImageNet; normalised by the batch as in training."""
    import timm

    network = timm.create_model("tf_efficientnet_lite0", features_only=True)
    load_efficientnet_lite0(network)
    return network.train()


def lure_lines(network: nn.Module, pairs: list[Pair]) -> Iterator[str]:
    """The first table: lures in the regions of other pictures."""
    yield (
        f"A lure of {BUDGET[0]}/{BUDGET[1]} in the regions of other pictures, frame {FRAME} px, "
        f"sizes 0.5 to 2 ({len(pairs)} training pictures). More is a better lure.\n"
    )
    yield "| cells of 1/n of the side, carrier | R2 | area under ROC |\n|---|---|---|"
    for text, is_random in [(t, False) for t in CARRIERS] + [(t, True) for t in RANDOM]:
        explained, area = seen(network, *lured_pictures(pairs, text, is_random=is_random))
        kind = "random signs" if is_random else "checks"
        yield f"| {kind} {text} | {explained:.2f} | {area:.2f} |"


def race_lines(network: nn.Module, pairs: list[Pair]) -> Iterator[str]:
    """The second table: what is left on clean pictures."""
    yield "\nLearnt from protected pictures, asked about clean ones. Less is better protected.\n"
    yield "| checks of 1/n of the side, carrier | budget | IoU | slope |\n|---|---|---|---|"
    size = (FRAME, FRAME)
    regions = torch.cat([F.interpolate(region[None], size, mode="nearest") for _, region in pairs])
    clean: Tensor | None = None
    for text, budget in RACES:
        cells, _, written = text.partition(" ")
        carrier = Carrier.parse(written)
        noise = carrier.noise(carrier.checks(int(cells)))
        shown = torch.stack([lured(*pair, noise, carrier, budget) for pair in pairs])
        clean = shown if clean is None else clean
        iou, slope = left_on_clean(network, shown, clean, regions)
        yield f"| {text} | {budget[0]}/{budget[1]} | {iou:.2f} | {slope:.2f} |"


def main(argv: list[str]) -> int:
    """Print and write both tables."""
    if len(argv) < 2:
        usage = "usage: python scripts/seen_by_imagenet.py OUT.md CONFIG [key=value ...]"
        print(usage, file=sys.stderr)
        return 2
    out, config_path, *overrides = argv
    try:
        pairs = read_pairs(load_config(GenerateConfig, config_path, overrides))
        network = build_network()
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    lines = []
    for line in itertools.chain(lure_lines(network, pairs), race_lines(network, pairs)):
        print(line, flush=True)
        lines.append(line)
    atomic_write_bytes(out, ("\n".join(lines) + "\n").encode())
    return 0


if __name__ == "__main__":
    with torch.no_grad():
        sys.exit(main(sys.argv[1:]))
