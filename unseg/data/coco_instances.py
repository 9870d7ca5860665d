"""COCO instances as class-agnostic pairs: each larger instance is one object of its image."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from unseg.data.annotations.json_index import JsonIndex, faults_of
from unseg.data.annotations.raster import decode_segmentation
from unseg.data.pairs import DataError
from unseg.io.decode import image_size, read_rgb
from unseg.io.files import resolve_inside
from unseg.types import Sample
from unseg.utils.errors import UserError

_log = logging.getLogger(__name__)


class InstanceDataset:
    """One sample for each instance that covers enough of its image; crowds are left out.

    Annotations stay in the JSON file and are parsed when they are read.

    Args:
        index: of the JSON file.
        images: folder of its images.
        min_share: smallest share of the image that an instance must cover, in [0, 1].
        links_to: folders beside `images` that symbolic links may lead to.
    """

    def __init__(
        self, index: JsonIndex, images: Path, *, min_share: float, links_to: Sequence[str] = ()
    ) -> None:
        self.name = index.path.stem
        self.images = images
        self._links_to = tuple(links_to)
        self._index = index
        chosen: list[tuple[int, int]] = []
        problems: list[str] = []
        for position, (image_id, name, height, width) in enumerate(index.images):
            if not (isinstance(name, str) and type(height) is int and type(width) is int):
                problems.append(f"{index.path}: image {image_id} lacks file_name, height or width")
                continue
            for number, annotation in enumerate(index.annotations(position)):
                share = _share(annotation, height, width)
                if not annotation.get("iscrowd") and share >= min_share:
                    chosen.append((position, number))
        if problems:
            raise DataError(problems)
        self._chosen = np.array(chosen, np.int32).reshape(-1, 2)
        _log.info("%s: %d instances of %d images", self.name, len(self), len(index.images))

    def __len__(self) -> int:
        return len(self._chosen)

    def _locate(self, index: int) -> tuple[int, int, str]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        position, number = (int(value) for value in self._chosen[index])
        return position, number, self._index.images[position][1]

    def _image(self, name: str) -> Path:
        return resolve_inside(self.images, name, links_to=self._links_to)

    def sample_name(self, index: int) -> str:
        """The image's file name and the instance's number in it."""
        _, number, name = self._locate(index)
        return f"{name}#{number}"

    def fault(self, index: int) -> str | None:
        """Missing or foreign image, or one of another size than the JSON file says."""
        position, _, name = self._locate(index)
        _, _, height, width = self._index.images[position]
        try:
            found = image_size(self._image(name))
        except UserError as error:
            return f"{self.name}: {error}"
        if found != (height, width):
            return f"{self.images / name}: is {found} (H, W), the JSON file says {(height, width)}"
        return None

    def __getitem__(self, index: int) -> Sample:
        position, number, name = self._locate(index)
        _, _, height, width = self._index.images[position]
        image = read_rgb(self._image(name))
        if image.shape[:2] != (height, width):
            raise UserError(f"{self.images / name}: is not of the size that the JSON file says")
        annotation = self._index.annotations(position)[number]
        with faults_of(f"{self._index.path}: instance {number} of {name}"):
            mask = decode_segmentation(annotation["segmentation"], height, width)
        return Sample(image, mask, self.sample_name(index))


def _share(annotation: dict[str, Any], height: int, width: int) -> float:
    """Share of the image that the JSON file says the instance covers; measured where it does not.

    A malformed one counts as large, so that reading it names the fault.
    """
    area = annotation.get("area")
    if isinstance(area, int | float):
        return area / (height * width)
    try:
        return float(decode_segmentation(annotation["segmentation"], height, width).mean())
    except (ValueError, TypeError, KeyError):
        return 1.0


def open_coco_instances(
    annotations: str | Path,
    images: str | Path,
    *,
    min_share: float = 0.01,
    links_to: Sequence[str] = (),
) -> InstanceDataset:
    """The instances of a COCO JSON file that cover at least `min_share` of their image.

    Raises:
        DataError: a missing folder, images without size, or no instance that is large enough.
        UserError: the JSON file is missing or not COCO's.
    """
    images = Path(images)
    if not images.is_dir():
        raise DataError([f"{images}: no such folder; it should hold the images of {annotations}"])
    index = JsonIndex(Path(annotations))
    dataset = InstanceDataset(index, images, min_share=min_share, links_to=links_to)
    if not len(dataset):
        raise DataError([f"{annotations}: no instance covers {min_share:.2%} of its image"])
    return dataset
