"""The pictures of a proof: clean, protected, and with the untrained control, in victims' frames."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unseg.config.dataset import DatasetConfig
from unseg.config.load import load_sections
from unseg.data.annotations import build_source
from unseg.data.annotations.base import AnnotationSource, Item
from unseg.io.decode import read_rgb
from unseg.io.pictures import Picture
from unseg.protection.compose import protected_pixels
from unseg.protection.methods import Method, untrained_control
from unseg.protection.reading.given_pictures import GivenPictures, GivenPrompts
from unseg.protection.writing.check import Checked, pairs_of
from unseg.utils.errors import UserError
from unseg.utils.logging import Progress
from unseg.utils.seed import derive_seed
from unseg.victims.data.load import has_open_background, training_label
from unseg.victims.data.tensor_set import TensorSet, fit_frame

STATES = ("clean", "protected", "control")
MOST_PICTURES = 300
"""More are not read: they would take longer and tell little more."""
_BUDGET = (8.0, 2.0)


@dataclass(frozen=True)
class ProofPicture:
    """One picture of a proof.

    Attributes:
        keys: names under which its label may be known; the first is its own.
        clean: file.
        protected: file.
    """

    keys: tuple[str, ...]
    clean: Path
    protected: Path


@dataclass(frozen=True)
class ProofSet:
    """What a proof has to work with.

    Attributes:
        pictures: with an object and a rest.
        num_without: pictures without a mask, or with one of a single class.
        budget: (inside, outside) of the protection in grey levels, for the control.
        is_budget_known: whether the manifest says so.
        labels: of the pictures; read again for each, since large ones would not fit the memory.
    """

    pictures: tuple[ProofPicture, ...]
    num_without: int
    budget: tuple[float, float]
    is_budget_known: bool
    labels: ProofLabels


@dataclass(frozen=True, kw_only=True)
class _Recorded:
    """The section of a generation's `config.yaml` that says where its labels lie."""

    data: DatasetConfig


class ProofLabels:
    """Labels by their pictures' names, from a folder of masks or as the generation read them."""

    def __init__(self, folder: Path, clean: Path, masks: Path | None) -> None:
        self.open_background = False
        source: AnnotationSource
        if masks is not None:
            source = GivenPictures([clean], GivenPrompts(mask=masks))
        else:
            data = _recorded_data(folder)
            source, self.open_background = build_source(data), has_open_background(data)
        self.source = source
        self.items = {item.key: item for item in source.items()}

    def find(self, keys: Sequence[str]) -> np.ndarray | None:
        """The label of the picture that has one of these names; None where it has none."""
        item = next((self.items[key] for key in keys if key in self.items), None)
        return None if item is None else self._read(item)

    def _read(self, item: Item) -> np.ndarray | None:
        try:
            annotation = self.source.read(item)
        except UserError:
            return None
        if not annotation.has_region:
            return None
        label = training_label(
            annotation, task="foreground", class_ids=(), open_background=self.open_background
        )
        return label if {0, 1} <= set(np.unique(label).tolist()) else None


def _recorded_data(folder: Path) -> DatasetConfig:
    path = folder / "config.yaml"
    remedy = "give the objects' masks: --masks FOLDER, with the names of the pictures"
    if not path.is_file():
        raise UserError(f"{folder}: has no config.yaml of a generation; {remedy}")
    data = load_sections(_Recorded, path).data
    if data.format == "folder" and not data.labels:
        raise UserError(f"{path}: knows no masks to learn from; {remedy}")
    if not Path(data.root).is_dir():
        raise UserError(f"{path}: data.root={data.root}: no such folder here; {remedy}")
    return data


def find_pictures(folder: Path, clean: Path, masks: Path | None) -> ProofSet:
    """The pairs of a protected set that have a mask to learn, at most `MOST_PICTURES`.

    Args:
        folder: the protected set.
        clean: the clean pictures' folder.
        masks: folder of masks with the pictures' tree and stems; None: as the generation read them.

    Raises:
        UserError: there are no pairs or no masks.
    """
    labels = ProofLabels(folder, clean, masks)
    pictures: list[ProofPicture] = []
    num_without, budget = 0, None
    pairs = list(pairs_of(folder, clean, Checked()))
    if not pairs:
        raise UserError(f"{folder}: no picture has a clean counterpart in {clean}")
    for source, output, entry in sorted(pairs, key=lambda p: derive_seed("proof", p[1].name)):
        if len(pictures) == MOST_PICTURES:
            break
        keys = _keys(source, clean, entry)
        budget = (entry or {}).get("budget") or budget
        label = labels.find(keys)
        if label is None:
            num_without += 1
        else:
            pictures.append(ProofPicture(keys, source, output))
    if not pictures:
        where = masks if masks is not None else folder
        raise UserError(f"{where}: no picture has a mask with an object and a rest")
    levels = (float(budget[0]), float(budget[1])) if budget else _BUDGET
    return ProofSet(tuple(pictures), num_without, levels, budget is not None, labels)


def _keys(source: Path, clean: Path, entry: Mapping[str, Any] | None) -> tuple[str, ...]:
    """Names under which a picture's label may be known."""
    below = source.relative_to(clean).as_posix() if source.is_relative_to(clean) else source.name
    keys = (below, PurePosixPath(below).name)
    return keys if entry is None else (str(entry["key"]), *keys)


def read_sets(
    found: ProofSet, sides: Sequence[int], *, is_shown: bool = True
) -> dict[tuple[int, str], TensorSet]:
    """Every picture in every state, by (side of the frame, state); `is_shown` shows how far it is.

    Raises:
        UserError: a file is damaged, or its size is not that of its mask.
    """
    control = untrained_control(*found.budget)
    frames: dict[tuple[int, str], list[tuple[Tensor, Tensor, tuple[int, int]]]] = {}
    count = len(found.pictures)
    with Progress(count, "read", unit="pictures", every=15, is_shown=is_shown) as progress:
        for picture in found.pictures:
            label, states = _read_picture(picture, found, control)
            classes = torch.from_numpy(label)
            for state, pixels in states.items():
                image = (
                    torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1).float() / 255
                )
                for side in sides:
                    frames.setdefault((side, state), []).append(
                        fit_frame(image, classes, side=side, keep_ratio=False)
                    )
            progress.update()
    keys = tuple(picture.keys[0] for picture in found.pictures)
    return {
        place: TensorSet(
            images=torch.stack([image for image, _, _ in made]),
            labels=torch.stack([label for _, label, _ in made]),
            keys=keys,
            extents=torch.tensor([extent for _, _, extent in made]),
        )
        for place, made in frames.items()
    }


def _read_picture(
    picture: ProofPicture, found: ProofSet, control: Method
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """(H, W) label, and (H, W, 3) uint8 pixels in every state."""
    label = found.labels.find(picture.keys)
    assert label is not None
    clean, protected = read_rgb(picture.clean), read_rgb(picture.protected)
    for path, pixels in ((picture.clean, clean), (picture.protected, protected)):
        if pixels.shape[:2] != label.shape:
            size = label.shape
            raise UserError(f"{path}: is {pixels.shape[:2]} (H, W), but its mask is {size}")
    tile = protected_pixels(
        Picture(pixels=clean),
        key=picture.keys[0],
        region=label == 1,
        method=control,
        noise=None,
        device=torch.device("cpu"),
    )
    return label, dict(zip(STATES, (clean, protected, tile), strict=True))
