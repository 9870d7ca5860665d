"""How far the surrogate can be led: its score on protected images beside that on clean ones."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from unseg.data.validation import ValidationBatch
from unseg.engine.bilevel import hard_region, shrink
from unseg.engine.metric_log import MetricLog
from unseg.io.files import atomic_write_bytes
from unseg.metrics import boundary_iou, iou
from unseg.models import Generator, Surrogate
from unseg.noise import Enlarge, compose, upsample_noise
from unseg.types import Batch
from unseg.utils.distributed import all_gather_object, all_reduce_sum, is_main

SATURATED = 0.9
"""Noise above this magnitude counts as saturated."""

OUTLINE = (255, 196, 0)
"""Colour of a predicted mask's border, RGB; the true mask's is white."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class MeasuredBudget:
    """A pair of bounds to measure at, in grey levels."""

    epsilon: float
    epsilon_bg: float

    @property
    def name(self) -> str:
        """As it stands in metric names, for example `eps8_2`."""
        return f"eps{self.epsilon:g}_{self.epsilon_bg:g}"


@dataclass(frozen=True)
class _Noise:
    """Unit noise (B, 3, n, n) of a batch, and how it becomes pixels."""

    unit: Tensor
    enlarge: Enlarge

    def enlarged(self, size: tuple[int, int]) -> Tensor:
        return upsample_noise(self.unit, size, enlarge=self.enlarge)


@dataclass(frozen=True)
class Validator:
    """Measures the unlearnability gap on every validation set; all ranks call it together.

    Box prompts, images squashed to the square, logits resized to the native size, positive above
    0, mean per image (docs/METHOD.md, "4. Training"). The gap is IoU(protected) - IoU(clean): how
    much more the surrogate finds on a protected image than on the same image clean, having learnt
    from protected ones. Without a generator, clean images are measured alone.

    Attributes:
        loaders: set name -> this rank's share, each sample on one rank.
        budgets: the training budget and the one of generation; `gap` is that of the last. None
            where there is no generator.
        run_dir: pictures go to its `images/`.
        metrics: pictures go to its TensorBoard.
        num_images: pictured samples of each set.
        autocast: run the networks in bfloat16.
    """

    loaders: Mapping[str, Iterable[ValidationBatch]]
    budgets: tuple[MeasuredBudget, ...]
    run_dir: Path
    metrics: MetricLog
    num_images: int = 4
    autocast: bool = False

    def __call__(
        self, generator: Generator | None, surrogate: Surrogate, step: int
    ) -> dict[str, float]:
        """Metrics by name; `gap` is the mean over the sets (absent where there is no set)."""
        if generator is not None:
            generator.eval()
        surrogate.eval()
        values: dict[str, float] = {}
        gaps = []
        for name, loader in self.loaders.items():
            found = self._validate_set(name, loader, generator, surrogate, step)
            values.update({f"val/{name}/{key}": value for key, value in found.items()})
            gaps += [found[f"{budget.name}/gap"] for budget in self.budgets[-1:]]
            _log_line(name, found, self.budgets)
        if gaps:
            values["gap"] = sum(gaps) / len(gaps)
        return values

    @torch.no_grad()
    def _validate_set(
        self,
        name: str,
        loader: Iterable[ValidationBatch],
        generator: Generator | None,
        surrogate: Surrogate,
        step: int,
    ) -> dict[str, float]:
        device = next(surrogate.parameters()).device
        keys = metric_names(self.budgets)
        # Sums in float64, so that the mean does not depend on how samples are spread over ranks.
        sums = torch.zeros(len(keys) + 1, dtype=torch.float64)
        panels: list[np.ndarray] = []
        for batch in loader:
            rows, pictures = self._measure(
                batch, generator, surrogate, device, self.num_images - len(panels)
            )
            sums[:-1] += rows.sum(dim=0)
            sums[-1] += len(rows)
            panels += pictures
        *totals, count = all_reduce_sum(sums).tolist()
        self._write_pictures(name, panels, step)
        means = {k: total / max(count, 1) for k, total in zip(keys, totals, strict=True)}
        for budget in self.budgets:
            means[f"{budget.name}/gap"] = means[f"{budget.name}/iou"] - means["clean/iou"]
        return {**means, "num_samples": count}

    def _measure(
        self,
        batch: ValidationBatch,
        generator: Generator | None,
        surrogate: Surrogate,
        device: torch.device,
        num_pictures: int,
    ) -> tuple[Tensor, list[np.ndarray]]:
        """(B, metrics) float64 in the order of `metric_names`, and at most so many pictures."""
        inputs = batch.batch.to(device)
        side = surrogate.image_size
        seen, region = {"clean": shrink(inputs.image, side)}, hard_region(inputs.mask, side)
        noise = None
        if generator is not None:
            noise = self._noise(generator, inputs)
            seen |= self._protected(seen["clean"], noise, region)
        with self._precision(device):
            logits = {
                key: surrogate(picture, inputs.surrogate_prompts).float()
                for key, picture in seen.items()
            }
        columns = [
            torch.tensor(
                [scores(logits[key][i], mask) for i, mask in enumerate(batch.native_masks)]
            )
            for key in seen
        ]
        if noise is not None:
            magnitude = noise.unit.abs().flatten(1)
            saturated = (magnitude > SATURATED).float().mean(1)
            columns.append(torch.stack([saturated, magnitude.mean(1)], 1).cpu())
        shown = ["clean", *(budget.name for budget in self.budgets[-1:])]
        pictures = [
            panel(
                views=[seen[key][i] for key in shown],
                noise=None if noise is None else noise.enlarged((side, side))[i],
                logits=[_resized(logits[key][i : i + 1], (side, side))[0] for key in shown],
                mask=region[i],
            )
            for i in range(min(len(region), max(num_pictures, 0)))
        ]
        return torch.cat([c.double() for c in columns], dim=1), pictures

    def _noise(self, generator: Generator, inputs: Batch) -> _Noise:
        with self._precision(inputs.image.device):
            noise = generator(inputs.image, inputs.generator_prompts).float()
        return _Noise(noise, generator.noise_carrier.enlarge)

    def _protected(self, clean: Tensor, noise: _Noise, region: Tensor) -> dict[str, Tensor]:
        """The protected images at each budget."""
        return {
            budget.name: compose(
                clean, noise.unit, region=region, epsilon=budget.epsilon,
                epsilon_bg=budget.epsilon_bg, enlarge=noise.enlarge,
            )
            for budget in self.budgets
        }  # fmt: skip

    def _precision(self, device: torch.device) -> torch.autocast:
        return torch.autocast(device.type, torch.bfloat16, enabled=self.autocast)

    def _write_pictures(self, name: str, panels: list[np.ndarray], step: int) -> None:
        """One PNG and one TensorBoard image of a set, from the first samples of every rank."""
        if not self.num_images:
            return
        gathered = [p for rank in all_gather_object(panels) for p in rank][: self.num_images]
        if gathered and is_main():
            picture = np.concatenate(gathered, axis=0)
            write_png(self.run_dir / "images" / f"step_{step:08d}_{name}.png", picture)
            self.metrics.image(step, f"val/{name}", picture)


def metric_names(budgets: Iterable[MeasuredBudget]) -> list[str]:
    """Names of what is measured on each image, in the order of `Validator`'s columns."""
    views = ["clean", *(budget.name for budget in budgets)]
    names = [f"{view}/{metric}" for view in views for metric in ("iou", "boundary_iou")]
    return [*names, "noise_saturated", "noise_mean_abs"] if len(views) > 1 else names


def scores(logits: Tensor, mask: Tensor) -> tuple[float, float]:
    """(IoU, boundary IoU) of one image at its native size.

    Args:
        logits: (1, h, w), of the image squashed to a square.
        mask: (H, W) bool, native.
    """
    true = mask.to(logits.device)[None, None]
    predicted = _resized(logits[None], (mask.shape[0], mask.shape[1])) > 0
    return float(iou(predicted, true)), float(boundary_iou(predicted, true))


def _resized(logits: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(logits, size, mode="bilinear", align_corners=False)


def _log_line(name: str, found: dict[str, float], budgets: tuple[MeasuredBudget, ...]) -> None:
    parts = [f"clean IoU {found['clean/iou']:.3f}"]
    for budget in budgets:
        protected, gap = found[f"{budget.name}/iou"], found[f"{budget.name}/gap"]
        parts.append(f"{budget.name} IoU {protected:.3f} gap {gap:+.3f}")
    if budgets:
        saturated, magnitude = found["noise_saturated"], found["noise_mean_abs"]
        parts.append(f"saturated {saturated:.2f} mean|n| {magnitude:.2f}")
    _log.info("val %s (%d): %s", name, found["num_samples"], ", ".join(parts))


def to_uint8(image: Tensor) -> np.ndarray:
    """(3, H, W) float in [0, 1] -> (H, W, 3) uint8."""
    return torch.round(image.detach().float().cpu() * 255).byte().permute(1, 2, 0).numpy()


def noise_picture(noise: Tensor) -> np.ndarray:
    """(3, H, W) noise in [-1, 1] -> (H, W, 3) uint8, zero is middle grey."""
    return to_uint8((noise + 1) / 2)


def with_masks(image: np.ndarray, *, predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
    """The image with the predicted mask tinted and both borders drawn.

    Args:
        image: (H, W, 3) uint8.
        predicted: (H, W) bool.
        true: (H, W) bool.
    """
    shown = image.copy()
    tint = 0.6 * shown[predicted] + 0.4 * np.array(OUTLINE)
    shown[predicted] = np.round(tint).astype(np.uint8)
    for mask, colour in ((true, (255, 255, 255)), (predicted, OUTLINE)):
        # findContours and drawContours do not care about the order of channels.
        found, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(shown, found, -1, colour, 1)
    return shown


def panel(
    *, views: list[Tensor], noise: Tensor | None, logits: list[Tensor], mask: Tensor
) -> np.ndarray:
    """Views | noise | prediction on each view, as one row.

    Args:
        views: (3, H, W) in [0, 1] each: the clean image, and the protected one if there is one.
        noise: (3, H, W) in [-1, 1], before the budget: full contrast shows it amplified. None is
            left out.
        logits: (1, H, W) of the surrogate, for each view.
        mask: (1, H, W), true where > 0.5.

    Returns:
        (H, 5 W, 3) uint8; 2 W for a clean image alone.
    """
    true = (mask[0] > 0.5).cpu().numpy()
    pictures = [to_uint8(view) for view in views]
    predictions = [
        with_masks(picture, predicted=(values[0] > 0).cpu().numpy(), true=true)
        for picture, values in zip(pictures, logits, strict=True)
    ]
    middle = [] if noise is None else [noise_picture(noise)]
    return np.concatenate([*pictures, *middle, *predictions], axis=1)


def write_png(path: Path, image: np.ndarray) -> None:
    """Write (H, W, 3) uint8 RGB as PNG; the folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    done, data = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    assert done
    atomic_write_bytes(path, data.tobytes())
