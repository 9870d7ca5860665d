"""Reading one image for the generator: its pixels, its region, its prompts, its checksums."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from unseg.config.generate import PromptConfig, PromptKind, RegionConfig
from unseg.data.annotations.base import Annotation, AnnotationSource, Item
from unseg.io.decode import MAX_PIXELS
from unseg.io.files import FileContent, read_file, sha256_file
from unseg.io.pictures import Picture, read_picture
from unseg.protection.reading.prompts import model_prompts, union_box
from unseg.protection.reading.region import (
    class_map_of,
    fit_annotation,
    instance_regions,
    official_region,
    region_from_annotation,
    region_from_prompt,
)
from unseg.types import VOID_CLASS, Prompts
from unseg.utils.errors import UserError
from unseg.utils.seed import numpy_generator


@dataclass(frozen=True)
class ModelFrame:
    """What prompts and the official region map depend on.

    Attributes:
        image_size: side S of the generator's input.
        mask_size: side of mask prompts, 4g.
    """

    image_size: int = 1024
    mask_size: int = 256


@dataclass(frozen=True)
class Subject:
    """One image, read and understood.

    Attributes:
        key: name in the data set.
        picture: the clean image, upright.
        region: (H, W) bool.
        prompts: the union's prompt, then one for each of `instances`; each of a batch of one.
        instances: (H, W) bool masks of the objects that have a prompt of their own.
        prompt_kind: for the manifest: "mask", "box", "points", "whole".
        region_source: "label", or what `region_from_prompt` used.
        notes: what the user should know.
        label_sha256: SHA-256 of the label's own file, where it has one.
        classes: (H, W) int32 class of each pixel, `VOID_CLASS` where there is none; for methods
            that go by classes.
    """

    key: str
    picture: Picture
    region: np.ndarray
    prompts: tuple[Prompts, ...]
    instances: tuple[np.ndarray, ...]
    prompt_kind: str
    region_source: str
    notes: tuple[str, ...] = ()
    label_sha256: str | None = None
    classes: np.ndarray | None = None

    @property
    def has_work(self) -> bool:
        """Whether there is a pixel to protect: of the region, or of any class."""
        if self.classes is not None:
            return bool((self.classes != VOID_CLASS).any())
        return bool(self.region.any())


@dataclass(frozen=True)
class SubjectReader:
    """Reads images of a source; stateless, so that many threads may use one.

    Attributes:
        source: the data set.
        region: how the region follows from a label.
        prompt: how prompts follow from a label.
        frame: the model's frame.
        seed: of drawn points.
        max_pixels: larger pictures are refused.
        classes: read a class map too: the label's, or that of region and rest.
        has_open_background: pixels of no object are background rather than void.
    """

    source: AnnotationSource
    region: RegionConfig = RegionConfig()
    prompt: PromptConfig = PromptConfig()
    frame: ModelFrame = ModelFrame()
    seed: int = 42
    max_pixels: int = MAX_PIXELS
    classes: Literal["label", "region"] | None = None
    has_open_background: bool = False

    def file(self, item: Item) -> FileContent:
        """The image's file, read once: for its checksum and for `read`."""
        if item.fault is not None:
            raise UserError(item.fault)
        return read_file(item.image_path)

    def checksums(self, item: Item) -> tuple[str, str | None]:
        """SHA-256 of the image and, where the label is a file of its own, of the label.

        Nothing is decoded, nor held in memory: this is how an image is recognised as done.
        """
        if item.fault is not None:
            raise UserError(item.fault)
        label = item.label if isinstance(item.label, Path) and item.label.is_file() else None
        return sha256_file(item.image_path), sha256_file(label) if label is not None else None

    def read(self, item: Item, file: FileContent | None = None) -> Subject:
        """The image with its region and prompts.

        Args:
            item: the image.
            file: its file, where it was read already.

        Raises:
            UserError: naming the file and the fault.
        """
        file = self.file(item) if file is None else file
        picture = read_picture(file, max_pixels=self.max_pixels)
        annotation, note = fit_annotation(self.source.read(item), picture)
        notes = picture.notes if note is None else (*picture.notes, note)
        is_labelled = annotation.has_region and not annotation.is_whole
        understand = self._labelled if is_labelled else self._prompted
        subject = understand(item.key, picture, annotation, notes)
        if annotation.label_file is not None:
            subject = replace(subject, label_sha256=annotation.label_file.sha256)
        if self.classes is None:
            return subject
        classes = class_map_of(
            annotation,
            subject.region,
            by_region=self.classes == "region",
            has_open_background=self.has_open_background,
        )
        return replace(subject, classes=classes)

    def _labelled(
        self, key: str, picture: Picture, annotation: Annotation, notes: tuple[str, ...]
    ) -> Subject:
        """Region and prompts from labelled pixels."""
        choice: dict[str, Any] = {"mode": self.region.mode, "classes": self.region.classes}
        native = region_from_annotation(annotation, **choice)
        # The soft mask holds no classes, so it stands for the label in mode "all" alone.
        is_soft = annotation.soft_mask is not None and self.region.mode == "all"
        shape = annotation.soft_mask if is_soft and annotation.soft_mask is not None else native
        region = native
        if self.region.map == "official":
            region = official_region(
                shape, image_size=self.frame.image_size, grid=self.frame.mask_size
            )
        kind: PromptKind = self.prompt.kind
        prompts: list[Prompts] = []
        instances: list[np.ndarray] = []
        if region.any():
            union, kind = self._prompt(key, shape, native, kind)
            prompts.append(union)
            if self.prompt.per_instance:
                instances = instance_regions(annotation, **choice)
                instances = instances if len(instances) > 1 else []
                prompts += [self._prompt(key, m, m, self.prompt.kind)[0] for m in instances]
            if kind != self.prompt.kind:
                side = self.frame.mask_size
                notes = (*notes, f"the mask vanishes on the grid of {side}; prompted by its box")
        return Subject(
            key=key,
            picture=picture,
            region=region,
            prompts=tuple(prompts),
            instances=tuple(instances),
            prompt_kind=kind,
            region_source="label",
            notes=notes,
        )

    def _prompt(
        self, key: str, shape: np.ndarray, mask: np.ndarray, kind: PromptKind
    ) -> tuple[Prompts, PromptKind]:
        """One prompt of that kind for a mask, and the kind it became."""
        size = (mask.shape[0], mask.shape[1])
        if kind == "whole":
            return self._model_prompts(size, mask=np.ones(size, bool)), kind
        if kind == "points":
            rows, columns = _drawn_points(mask, self.prompt.num_points, self.seed, key)
            points = np.stack([columns, rows], axis=1).astype(np.float64)
            return self._model_prompts(size, point_coords=points), kind
        if kind == "mask":
            prompts = self._model_prompts(size, mask=shape)
            if prompts.mask_inputs is not None and bool(prompts.mask_inputs.any()):
                return prompts, kind
            if not mask.any():  # a soft mask whose grid shows what its threshold does not
                return prompts, kind
        return self._model_prompts(size, boxes=_tight_box(mask)), "box"

    def _prompted(
        self, key: str, picture: Picture, annotation: Annotation, notes: tuple[str, ...]
    ) -> Subject:
        """Region and prompts from boxes, points or nothing."""
        boxes, points = annotation.boxes, annotation.point_coords
        found = region_from_prompt(
            picture.rgb8(),
            boxes=boxes,
            point_coords=points,
            point_labels=annotation.point_labels,
        )
        size = picture.size
        region = found.mask
        if self.region.map == "official":
            region = official_region(
                region, image_size=self.frame.image_size, grid=self.frame.mask_size
            )
        instances: tuple[np.ndarray, ...] = ()
        if boxes is not None and len(boxes):
            rows = np.asarray(boxes, np.float64).reshape(-1, 4)
            prompts = [self._model_prompts(size, boxes=union_box(rows))]
            if len(rows) > 1:
                prompts += [self._model_prompts(size, boxes=row) for row in rows]
                instances = tuple(
                    region_from_prompt(picture.rgb8(), boxes=row[None]).mask for row in rows
                )
            kind = "box"
        elif points is not None and len(points):
            prompts = [
                self._model_prompts(size, point_coords=points, point_labels=annotation.point_labels)
            ]
            kind = "points"
        else:
            prompts, kind = [self._model_prompts(size, mask=np.ones(size, bool))], "whole"
        return Subject(
            key=key,
            picture=picture,
            region=region,
            prompts=tuple(prompts),
            instances=instances,
            prompt_kind=kind,
            region_source=found.source,
            notes=notes,
        )

    def _model_prompts(self, size: tuple[int, int], **given: Any) -> Prompts:
        return model_prompts(
            size, image_size=self.frame.image_size, mask_size=self.frame.mask_size, **given
        )


def _tight_box(mask: np.ndarray) -> np.ndarray:
    """(4,) XYXY inclusive."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return np.array([columns[0], rows[0], columns[-1], rows[-1]], np.float64)


def _drawn_points(
    mask: np.ndarray, count: int, seed: int, key: str
) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of distinct pixels of the mask; all of them where it has fewer."""
    pixels = np.flatnonzero(mask)
    if len(pixels) == 0:
        raise UserError(f"{key}: has no pixel inside the region to draw a point from")
    rng = numpy_generator(seed, "points", key)
    chosen = rng.choice(pixels, size=min(count, len(pixels)), replace=False)
    rows, columns = np.unravel_index(chosen, mask.shape)
    return rows, columns
