"""Image and mask pairs on disk: compact tables of paths, what headers tell, reading.

A table of a million pairs takes about 100 bytes a pair, in arrays that worker processes share.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from unseg.data.known_headers import KnownHeaders, stamps_of
from unseg.data.mask_values import THRESHOLD, ones_to_255
from unseg.io.decode import image_size, read_grey, read_rgb
from unseg.io.files import path_below, resolve_inside
from unseg.types import Sample
from unseg.utils.errors import UserError

_log = logging.getLogger(__name__)

NUM_LOOKED_AT = 32
"""Masks that are read to decide a data set's mask scale."""

NUM_FAULTS_SHOWN = 50
"""Faults printed one by one; the rest is counted."""


class DataError(UserError):
    """Faults of a data set, all reported at once.

    Attributes:
        problems: one line for each fault.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        shown = list(problems[:NUM_FAULTS_SHOWN])
        if len(problems) > len(shown):
            shown.append(f"... and {len(problems) - len(shown)} more ({len(problems)} in all)")
        super().__init__("\n".join(shown))
        self.problems = list(problems)


@dataclass(frozen=True)
class Pair:
    """One pair.

    Attributes:
        image_path, mask_path: existing only once checked.
        name: what messages call it; unique within its data set.
        index: its position in the data set.
    """

    image_path: Path
    mask_path: Path
    name: str
    index: int


class Dataset(Protocol):
    """Anything with samples: pairs on disk, embedded scenes, instances, or several joined."""

    name: str

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample:
        """A sample; UserError where its files are damaged."""
        ...

    def sample_name(self, index: int) -> str:
        """The name of a sample, without reading it."""
        ...

    def fault(self, index: int) -> str | None:
        """What is wrong with a sample as far as headers tell, or None."""
        ...


class StringTable:
    """Many short texts in two arrays, which forked processes share without copying."""

    def __init__(self, texts: Iterable[str]) -> None:
        encoded = [text.encode("utf-8", "surrogateescape") for text in texts]
        self._ends = np.cumsum([len(text) for text in encoded], dtype=np.int64)
        self._bytes = np.frombuffer(b"".join(encoded), np.uint8)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> str:
        start = int(self._ends[index - 1]) if index else 0
        return self._bytes[start : self._ends[index]].tobytes().decode("utf-8", "surrogateescape")

    def digest(self) -> bytes:
        """SHA-256 of all texts and of where they end."""
        return hashlib.sha256(self._ends.tobytes() + self._bytes.tobytes()).digest()


class PairDataset:
    """Image and mask files below a root.

    Args:
        name: what messages call the data set.
        root: folder that no path may leave by `..`.
        pairs: (image, mask) paths relative to `root`, posix.
        links_to: folders beside the root that symbolic links may lead to. None: anywhere, for
            paths that were found in the folders rather than read from a list.
    """

    def __init__(
        self,
        name: str,
        root: str | Path,
        pairs: Iterable[tuple[str, str]],
        *,
        links_to: Sequence[Path] | None = (),
    ) -> None:
        self.name = name
        self.root = Path(root)
        self._links_to = links_to
        kept = list(pairs)
        self._images = StringTable(image for image, _ in kept)
        self._masks = StringTable(mask for _, mask in kept)
        self._scale: int | None = None
        # Resolving symbolic links costs as much as a small decode: once for each pair is enough.
        self._is_inside = np.zeros(len(kept), bool)
        self.headers = KnownHeaders()

    def __len__(self) -> int:
        return len(self._images)

    def pair(self, index: int) -> Pair:
        """The paths of a pair.

        Raises:
            UserError: a path leaves the root.
        """
        if not 0 <= index < len(self):
            raise IndexError(index)
        image, mask = self._images[index], self._masks[index]
        if not self._is_inside[index]:
            for path in (image, mask):
                if self._links_to is None:
                    path_below(self.root, path)
                else:
                    resolve_inside(self.root, path, links_to=self._links_to)
            self._is_inside[index] = True
        return Pair(self.root / image, self.root / mask, image, index)

    def sample_name(self, index: int) -> str:
        """The image's path relative to the root."""
        return self._images[index]

    def fault(self, index: int) -> str | None:
        """Missing file, strange format, or a mask of another size than its image."""
        try:
            pair = self.pair(index)
        except UserError as error:
            return f"{self.name}: {error}"
        stamps = stamps_of(pair.image_path, pair.mask_path)
        if stamps is not None and self.headers.holds(index, stamps):
            return None
        sizes, faults = [], []
        for path in (pair.image_path, pair.mask_path):
            try:
                sizes.append(image_size(path))
            except UserError as error:
                faults.append(str(error))
        if not faults and sizes[0] != sizes[1]:
            image, mask = (f"{width} x {height}" for height, width in sizes)
            faults.append(
                f"{pair.mask_path}: mask is {mask} but its image {pair.image_path.name} is "
                f"{image}; give them one size or drop the pair"
            )
        if not faults and stamps is not None:
            self.headers.learn(index, stamps)
        return "; ".join(faults) or None

    @property
    def key(self) -> bytes:
        """Tells this list of pairs from every other: its root and all its paths."""
        root = os.fsencode(self.root.resolve())
        return b"\0".join((root, self._images.digest(), self._masks.digest()))

    @property
    def mask_scale(self) -> int:
        """Largest value of this data set's masks, 1 or 255, decided by looking at some of them.

        Raises:
            DataError: the masks hold other values, such as class indices.
        """
        if self._scale is None:
            self._scale = self._look_at_masks()
        return self._scale

    def _look_at_masks(self) -> int:
        tops = []
        count = min(NUM_LOOKED_AT, len(self))
        for index in np.linspace(0, len(self) - 1, count).round().astype(int) if count else ():
            try:
                tops.append(int(read_grey(self.pair(int(index)).mask_path).max()))
            except UserError:
                continue  # Named by the header check, or counted as skipped when it is read.
        top = max(tops, default=0)
        if 1 < top <= THRESHOLD:
            raise DataError(
                [
                    f"{self.name}: the largest value in {len(tops)} masks is {top}; masks must "
                    "hold {0, 1} or {0, 255}: convert them (class indices are no object mask)"
                ]
            )
        scale = 1 if top == 1 else 255
        _log.info("%s: %d pairs, masks in {0, %d} (%d seen)", self.name, len(self), scale, count)
        return scale

    def __getitem__(self, index: int) -> Sample:
        pair = self.pair(index)
        scale = self.mask_scale
        image, mask = read_rgb(pair.image_path), read_grey(pair.mask_path)
        if image.shape[:2] != mask.shape:
            raise UserError(
                f"{pair.mask_path}: mask is {mask.shape} (H, W) but its image is "
                f"{image.shape[:2]}; give them one size or drop the pair"
            )
        if scale == 1:
            mask = ones_to_255(mask, place=pair.mask_path, remedy="store it alike")
        return Sample(image, mask, pair.name)


class Subset:
    """Some samples of a data set, by position."""

    def __init__(self, dataset: Dataset, indices: np.ndarray | Sequence[int]) -> None:
        self.dataset, self.indices = dataset, np.asarray(indices, dtype=np.int64)
        self.name = dataset.name

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Sample:
        return self.dataset[int(self.indices[index])]

    def sample_name(self, index: int) -> str:
        """The name of a sample, without reading it."""
        return self.dataset.sample_name(int(self.indices[index]))

    def fault(self, index: int) -> str | None:
        """What is wrong with a sample as far as headers tell, or None."""
        return self.dataset.fault(int(self.indices[index]))

    def prepare(self) -> None:
        """Settle what is decided once for a data set."""
        prepare(self.dataset)


class Joined:
    """Several data sets one after the other; names are preceded by the data set's."""

    def __init__(self, datasets: Sequence[Dataset], name: str = "training data") -> None:
        self.datasets, self.name = list(datasets), name
        self._ends = np.cumsum([len(dataset) for dataset in datasets], dtype=np.int64)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def _locate(self, index: int) -> tuple[Dataset, int]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        part = int(np.searchsorted(self._ends, index, side="right"))
        return self.datasets[part], index - (int(self._ends[part - 1]) if part else 0)

    def __getitem__(self, index: int) -> Sample:
        dataset, position = self._locate(index)
        sample = dataset[position]
        return Sample(sample.image, sample.mask, f"{dataset.name}/{sample.name}")

    def sample_name(self, index: int) -> str:
        """The name of a sample, without reading it."""
        dataset, position = self._locate(index)
        return f"{dataset.name}/{dataset.sample_name(position)}"

    def fault(self, index: int) -> str | None:
        """What is wrong with a sample as far as headers tell, or None."""
        dataset, position = self._locate(index)
        return dataset.fault(position)

    def prepare(self) -> None:
        """Settle what is decided once for a data set."""
        for dataset in self.datasets:
            prepare(dataset)


def prepare(dataset: Dataset) -> None:
    """Decide mask scales now, before workers are forked, so that they are looked at once."""
    if isinstance(dataset, PairDataset):
        _ = dataset.mask_scale
    elif isinstance(dataset, Subset | Joined):
        dataset.prepare()


def pair_sets(dataset: Dataset) -> Iterator[PairDataset]:
    """The sets of pairs on disk that a data set is made of."""
    if isinstance(dataset, PairDataset):
        yield dataset
    elif isinstance(dataset, Subset):
        yield from pair_sets(dataset.dataset)
    elif isinstance(dataset, Joined):
        for part in dataset.datasets:
            yield from pair_sets(part)
