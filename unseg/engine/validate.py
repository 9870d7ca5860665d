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
from unseg.noise import compose, upsample_noise
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
class Validator:
    """Measures the unlearnability gap on every validation set; all ranks call it together.

    Box prompts, images squashed to the square, logits resized to the native size, positive above
    0, mean per image (docs/METHOD.md, "4. Training"). The gap is IoU(protected) - IoU(clean): how
    much more the surrogate finds on a protected image than on the same image clean, having learnt
    from protected ones.

    Attributes:
        loaders: set name -> this rank's share, each sample on one rank.
        budgets: the training budget and the one of generation; `gap` is that of the last.
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

    def __call__(self, generator: Generator, surrogate: Surrogate, step: int) -> dict[str, float]:
        """Metrics by name; `gap` is the mean over the sets (absent where there is no set)."""
        generator.eval()
        surrogate.eval()
        values: dict[str, float] = {}
        gaps = []
        for name, loader in self.loaders.items():
            found = self._validate_set(name, loader, generator, surrogate, step)
            values.update({f"val/{name}/{key}": value for key, value in found.items()})
            gaps.append(found[f"{self.budgets[-1].name}/gap"])
            _log_line(name, found, self.budgets)
        if gaps:
            values["gap"] = sum(gaps) / len(gaps)
        return values

    @torch.no_grad()
    def _validate_set(
        self,
        name: str,
        loader: Iterable[ValidationBatch],
        generator: Generator,
        surrogate: Surrogate,
        step: int,
    ) -> dict[str, float]:
        device = next(generator.parameters()).device
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
        generator: Generator,
        surrogate: Surrogate,
        device: torch.device,
        num_pictures: int,
    ) -> tuple[Tensor, list[np.ndarray]]:
        """(B, metrics) float64 in the order of `metric_names`, and at most so many pictures."""
        side = surrogate.image_size
        inputs = batch.batch.to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=self.autocast):
            noise = generator(inputs.image, inputs.generator_prompts).float()
        enlarge = generator.noise_carrier.enlarge
        clean = shrink(inputs.image, side)
        region = hard_region(inputs.mask, side)
        seen = {"clean": clean}
        for budget in self.budgets:
            seen[budget.name] = compose(
                clean, noise, region=region, epsilon=budget.epsilon, epsilon_bg=budget.epsilon_bg,
                enlarge=enlarge,
            )  # fmt: skip
        with torch.autocast(device.type, torch.bfloat16, enabled=self.autocast):
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
        magnitude = noise.abs().flatten(1)
        columns += [
            torch.stack([(magnitude > SATURATED).float().mean(1), magnitude.mean(1)], 1).cpu()
        ]
        last = self.budgets[-1].name
        pictures = [
            panel(
                image=clean[i],
                protected=seen[last][i],
                noise=upsample_noise(noise, (side, side), enlarge=enlarge)[i],
                clean_logits=_resized(logits["clean"][i : i + 1], (side, side))[0],
                protected_logits=_resized(logits[last][i : i + 1], (side, side))[0],
                mask=region[i],
            )
            for i in range(min(len(clean), max(num_pictures, 0)))
        ]
        return torch.cat([c.double() for c in columns], dim=1), pictures

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
    return [*names, "noise_saturated", "noise_mean_abs"]


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
    parts.append(f"saturated {found['noise_saturated']:.2f} mean|n| {found['noise_mean_abs']:.2f}")
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
    *,
    image: Tensor,
    protected: Tensor,
    noise: Tensor,
    clean_logits: Tensor,
    protected_logits: Tensor,
    mask: Tensor,
) -> np.ndarray:
    """Clean | protected | noise | prediction on clean | prediction on protected, as one row.

    Args:
        image: (3, H, W) in [0, 1].
        protected: the same after composition.
        noise: (3, H, W) in [-1, 1], before the budget: full contrast shows it amplified.
        clean_logits: (1, H, W) of the surrogate.
        protected_logits: the same for the protected image.
        mask: (1, H, W), true where > 0.5.

    Returns:
        (H, 5 W, 3) uint8.
    """
    true = (mask[0] > 0.5).cpu().numpy()
    clean, shielded = to_uint8(image), to_uint8(protected)
    predictions = [
        with_masks(picture, predicted=(logits[0] > 0).cpu().numpy(), true=true)
        for picture, logits in ((clean, clean_logits), (shielded, protected_logits))
    ]
    return np.concatenate([clean, shielded, noise_picture(noise), *predictions], axis=1)


def write_png(path: Path, image: np.ndarray) -> None:
    """Write (H, W, 3) uint8 RGB as PNG; the folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    done, data = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    assert done
    atomic_write_bytes(path, data.tobytes())
