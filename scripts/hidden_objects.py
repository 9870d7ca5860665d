"""Pictures whose objects a network that knows the clean ones no longer sees: half lure, half blind.

python scripts/hidden_objects.py CONFIG DATA VICTIM OUT [key=value ...]

CONFIG is a file of configs/evaluate/ with its overrides; DATA and VICTIM are names in it. A victim
is trained on the clean training pictures, with a seed that no cell uses, and each picture is then
changed by projected gradient descent, through the recipe's random sizes, flips and light, until the
victim takes the object for background and the background for the object (error-maximising noise:
Fowl et al., "Adversarial Examples Make Strong Poisons", NeurIPS 2021). SHARE of the budget is the
checks of the shipped `pattern`, the rest this noise. OUT gets a PNG a training picture, for
`method: folder` with `train_root: OUT`. Printed: IoU of the victim on clean and changed pictures.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from unseg.config.evaluate import EvaluateConfig, RecipeConfig
from unseg.config.load import load_config
from unseg.io.encode import png_bytes
from unseg.io.files import atomic_write_bytes, make_folder
from unseg.models.pattern import Pattern
from unseg.noise import Carrier, add_noise, noise_budget, upsample_noise
from unseg.utils.errors import UserError
from unseg.utils.seed import torch_generator
from unseg.victims.data.augment import crop_grid, relit, sample_labels
from unseg.victims.data.load import PictureFiles
from unseg.victims.data.picture_cache import PictureCache
from unseg.victims.data.picture_set import PictureSet
from unseg.victims.data.splits import make_pictures, split_config
from unseg.victims.data.tensor_set import IGNORED_LABEL, TensorSet, as_input
from unseg.victims.grid.cells import Cell, GridFolders
from unseg.victims.grid.run_cell import PictureSets, PreparedCell, prepare_cell
from unseg.victims.training.fit import fit

SEED, STEPS, BATCH, SHARE = 100, 20, 16, 0.5
EPSILON, EPSILON_BG = 8.0, 2.0
PATTERN = Pattern.checks(24, Carrier.parse("opponent, sharp"))


def trained(config: EvaluateConfig, data: str, victim: str) -> PreparedCell:
    """A victim that knows the clean training pictures, and those pictures."""
    folders = GridFolders(config)
    make_pictures(config.data[data], folders.pictures(data))
    cell = Cell(data=data, victim=victim, seed=SEED)
    ready = prepare_cell(cell, config, folders, PictureSets(config, folders), torch.device("cpu"))
    fit(
        ready.victim,
        ready.data.train,
        recipe=config.victims[victim].recipe,
        task=ready.task,
        validation=ready.data.validation,
        clean_test=ready.data.clean_test,
        seed=SEED,
        epoch_size=ready.data.epoch_size,
    )
    ready.victim.eval().requires_grad_(False)
    return ready


def lure(size: torch.Size) -> Tensor:
    """(1, 3, H, W) the pattern's noise at a picture's own size."""
    return upsample_noise(
        PATTERN.noise[None], (size[0], size[1]), enlarge=PATTERN.noise_carrier.enlarge
    )


def blinding(
    ready: PreparedCell, batch: TensorSet, lures: Tensor, recipe: RecipeConfig, rng: torch.Generator
) -> Tensor:
    """Noise (B, 3, S, S) in [-1, 1] that turns the victim's answers round.

    Args:
        ready: the victim.
        batch: clean pictures in its frame of side S.
        lures: (B, 3, S, S) in [-1, 1], which are there too.
        recipe: of the victim.
        rng: CPU generator.
    """
    image, is_object = as_input(batch.images), (batch.labels == 1)[:, None].float()
    noise = torch.zeros_like(image)
    for step in range(STEPS):
        noise.requires_grad_(True)
        both = SHARE * lures + (1 - SHARE) * noise
        seen = add_noise(image, both, region=is_object, epsilon=EPSILON, epsilon_bg=EPSILON_BG)
        draw = torch.rand(len(batch), 4, generator=rng)
        side = recipe.crop or recipe.image_size
        grid = crop_grid(draw, side, crop=side, scale=recipe.scale, flip=recipe.flip)
        seen = F.grid_sample(seen, grid, mode="bilinear", align_corners=False)
        light = torch.rand(2, len(batch), 1, 1, 1, generator=rng)
        seen = relit(seen, recipe.brightness, recipe.contrast, light)
        label = sample_labels(batch.labels, grid)
        wrong = torch.where(label == IGNORED_LABEL, label, 1 - label)
        logits = ready.victim(seen.contiguous(memory_format=torch.channels_last))
        loss = F.cross_entropy(logits, wrong, ignore_index=IGNORED_LABEL)
        (slope,) = torch.autograd.grad(loss, noise)
        rate = 3 / STEPS * (1 if step < 0.7 * STEPS else 0.3)
        noise = (noise.detach() - rate * slope.sign()).clamp(-1, 1)
    return noise


def changed(
    ready: PreparedCell, config: EvaluateConfig, data: str, recipe: RecipeConfig
) -> Iterator[tuple[str, Tensor]]:
    """Key and pixels (3, H, W) uint8 of each training picture, a batch at a time."""
    folder = GridFolders(config).pictures(data)
    dataset = split_config(config.data[data], "train", folder)
    pictures = list(PictureFiles(dataset, "foreground"))
    source = ready.data.train.sources[0]
    rng = torch_generator(SEED, 0, "blinding")
    for first in range(0, len(pictures), BATCH):
        some = pictures[first : first + BATCH]
        rows = range(first, first + len(some))
        batch = TensorSet.joined([source.decode(row) for row in rows])
        frame = batch.images.shape[-2:]
        lures = [lure(p.image.shape[-2:]) for p in some]
        lures = [F.interpolate(n, frame, mode="bilinear", antialias=True) for n in lures]
        noise = blinding(ready, batch, torch.cat(lures), recipe, rng)
        for row, picture in zip(noise, some, strict=True):
            size = picture.image.shape[-2:]
            large = F.interpolate(row[None], tuple(size), mode="bilinear", align_corners=False)
            both = SHARE * lure(size) + (1 - SHARE) * large
            is_object = (picture.label == 1)[None, None].float()
            budget = 255 * noise_budget(is_object, epsilon=EPSILON, epsilon_bg=EPSILON_BG)
            pixels = 255 * picture.image + torch.round(budget * both)[0]
            yield picture.key, pixels.clamp(0, 255).to(torch.uint8)


def main(argv: list[str]) -> int:
    """Write the pictures and print what the victim makes of them."""
    if len(argv) < 4:
        usage = "usage: python scripts/hidden_objects.py CONFIG DATA VICTIM OUT [key=value ...]"
        print(usage, file=sys.stderr)
        return 2
    config_path, data, victim, out, *overrides = argv
    try:
        config = load_config(EvaluateConfig, config_path, overrides)
        for kind, name in (("data", data), ("victims", victim)):
            if name not in getattr(config, kind):
                raise UserError(f"{config_path}: {kind}.{name}: there is none of this name")
        torch.set_num_threads(config.num_threads or torch.get_num_threads())
        ready = trained(config, data, victim)
        recipe, frames = config.victims[victim].recipe, []
        source = ready.data.train.sources[0]
        for row, (key, pixels) in enumerate(changed(ready, config, data, recipe)):
            path = Path(out, key).with_suffix(".png")
            make_folder(path.parent)
            atomic_write_bytes(path, png_bytes(pixels.permute(1, 2, 0).numpy()))
            clean = source.decode(row)
            side = clean.images.shape[-1]
            framed = F.interpolate(
                pixels[None] / 255, (side, side), mode="bilinear", antialias=True
            )
            frames.append(replace(clean, images=(255 * framed).round().to(torch.uint8)))
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    known = PictureSet.of(source, PictureCache())
    for name, pictures in (("clean", known), ("changed", TensorSet.joined(frames))):
        score = ready.task.details(ready.victim, pictures)["score"]
        print(f"{name} training pictures: IoU {100 * score:.1f} %")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
