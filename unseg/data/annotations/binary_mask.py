"""One mask picture an image: HQSeg-44K, Kvasir-SEG, lungs, buildings."""

from __future__ import annotations

from functools import cached_property

from unseg.data.annotations.base import Annotation, Item
from unseg.data.annotations.label_pictures import mask_annotation, read_brightness
from unseg.data.annotations.tree import TreeSource
from unseg.data.mask_values import holds_ones, ones_to_255
from unseg.utils.errors import UserError

_MASKS_LOOKED_AT = 16


class BinaryMask(TreeSource):
    """Masks stored as {0, 255} or as {0, 1}; which of them is a property of the data set."""

    @cached_property
    def is_zero_one(self) -> bool:
        """Whether foreground is stored as 1: no mask among the first ones holds a larger value."""
        if self.config.mask_values != "auto":
            return self.config.mask_values == "zero_one"
        seen = 0
        for item in self.items():
            if item.fault is not None:
                continue
            try:
                values, is_scaled = read_brightness(item.label, max_pixels=self.config.max_pixels)
            except (UserError, OSError):
                continue  # reported where this image's turn comes
            if is_scaled or not holds_ones(values):
                return False
            seen += bool(values.any())
            if seen == _MASKS_LOOKED_AT:
                break
        return seen > 0

    def _read(self, item: Item) -> Annotation:
        values, is_scaled = read_brightness(item.label, max_pixels=self.config.max_pixels)
        if self.is_zero_one and not is_scaled:
            remedy = "set data.mask_values=zero_255 if they are not"
            values = ones_to_255(values, place=item.label.path, remedy=remedy)
        return mask_annotation(values)

    @property
    def class_names(self) -> dict[int, str]:
        """Background and object."""
        return dict(enumerate(self.config.class_names or ("background", "object")))

    @property
    def thing_ids(self) -> frozenset[int]:
        """The object."""
        return frozenset({1})
