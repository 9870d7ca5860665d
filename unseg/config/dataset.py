"""Where a labelled data set lies and how its labels are to be read.

One section, `data`, of the generation and evaluation configurations. A new data set is such a
section; only a new *format* of labels needs code (an adapter in `unseg/data/annotations/`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from unseg.config.load import bounded

AnnotationFormat = Literal[
    "class_png", "binary_mask", "colour_map", "coco", "panoptic", "cityscapes", "folder"
]


@dataclass(frozen=True, kw_only=True)
class PartConfig:
    """One image folder of a data set that has several, with its labels."""

    images: str
    """Folder of the images, below `root`."""
    labels: str | None = None
    """Folder of the label pictures, below `root`; None: beside the images."""
    list_file: str | None = None
    """Text file below `root` that names the images of this part."""


@dataclass(frozen=True, kw_only=True)
class DatasetConfig:
    """A labelled data set on the disk."""

    format: AnnotationFormat
    """Which adapter reads the labels."""
    root: str
    """Folder of the data set. No path of a list or a JSON file may lead out of it."""
    links_to: tuple[str, ...] = ()
    """Folders elsewhere that symbolic links may lead to, where a list or JSON file names them."""
    images: str = "."
    """Folder of the images, below `root`. Images are named by their path below it."""
    labels: str | None = None
    """Folder of the label pictures, below `root`, with the same tree as `images`."""
    annotations: str | None = None
    """File below `root`: JSON (coco, panoptic), or JSON/CSV of boxes and points (folder)."""
    list_file: str | None = None
    """Text file below `root`; each line a stem, an image, or image and label; None: all images."""
    parts: tuple[PartConfig, ...] = ()
    """Several image folders instead of `images`, `labels` and `list_file`."""
    image_ending: str | None = None
    """End of an image's file name that its label lacks, `_leftImg8bit.png`; None: the suffix."""
    label_ending: str | None = None
    """What the label's file name has in its place, `_gtFine_instanceIds.png`; None: any suffix."""
    num_classes: int | None = bounded(None, low=1)
    """Valid class ids are 0 to num_classes - 1, after `class_offset`; None: from names or file."""
    class_names: tuple[str, ...] = ()
    """Names of the classes in the order of their ids."""
    colours: dict[str, tuple[int, int, int]] | None = None
    """colour_map: name and RGB colour of each class, in the order of the ids."""
    void: tuple[int, ...] = ()
    """Stored values without a class: never protected, never counted."""
    background: tuple[int, ...] = ()
    """Class ids, after `class_offset`, that are a class but not an object to protect."""
    things: tuple[int, ...] = ()
    """Class ids, after `class_offset`, of countable objects, where the files do not say it."""
    reduce_zero_label: bool = False
    """Stored 0 is void and the others count from 1 (the raw ADE20K release)."""
    class_offset: int = 0
    """Added to every stored value that is not void."""
    mask_values: Literal["auto", "zero_one", "zero_255"] = "auto"
    """binary_mask: whether foreground is 1 or above 127; auto looks at the data set's masks."""
    expected_items: int | None = bounded(None, low=1)
    """Number of images as published; `unseg data check` reports another number as a fault."""
    max_pixels: int = bounded(178_956_970, low=1)
    """Largest label or image opened, by the size in its header."""

    def problems(self) -> Iterator[tuple[str, str]]:
        """What types cannot say: which keys a format needs."""
        in_json = self.format in ("coco", "panoptic")
        has_places = self.labels or self.label_ending or self.list_file or self.parts
        names = len(self.class_names)
        no_classes = self.num_classes is None and not names
        needs = f"format {self.format} needs"
        rules = (
            (in_json and not self.annotations, "annotations", f"{needs} the path of its JSON file"),
            (
                in_json and bool(self.parts or self.list_file),
                "format",
                f"{self.format} takes its images from the JSON, not from parts or list_file",
            ),
            (
                self.format == "panoptic" and not self.labels,
                "labels",
                f"{needs} the folder of its PNG files",
            ),
            (
                not in_json and self.format != "folder" and not has_places,
                "labels",
                f"{needs} the folder of its labels, or a label_ending",
            ),
            (
                self.format == "colour_map" and not self.colours,
                "colours",
                f"{needs} `name: [r, g, b]` for every class",
            ),
            (
                self.format == "class_png" and no_classes,
                "num_classes",
                f"{needs} num_classes or class_names",
            ),
            (
                self.num_classes is not None and names not in (0, self.num_classes),
                "class_names",
                f"has {names} names for {self.num_classes} classes",
            ),
            (
                bool(self.parts) and bool(self.labels or self.list_file or self.images != "."),
                "parts",
                "replaces images, labels and list_file; give them inside each part",
            ),
            (
                self.format == "folder" and bool(self.annotations and self.labels),
                "annotations",
                "a folder has masks or a file of boxes and points, not both",
            ),
        )
        yield from ((key, message) for broken, key, message in rules if broken)
