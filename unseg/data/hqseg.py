"""Class-agnostic pairs: HQSeg-44K in its published folders, and list files.

Where the seven training parts and four validation sets lie below `data/` is one table
(docs/METHOD.md, "4. Training"); `docs/DATASETS.md` says how to get them.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from unseg.data.pairs import DataError, Dataset, Joined, PairDataset
from unseg.io.suffixes import FORMAT_SUFFIXES, PICTURE_SUFFIXES


@dataclass(frozen=True)
class Part:
    """One part of HQSeg-44K.

    Attributes:
        images, masks: folders below the data root; one folder holds both where they are equal
            (then images are `.jpg` and masks `.png`).
        num_pairs: published number of pairs, or None.
    """

    images: str
    masks: str
    num_pairs: int | None = None


TRAINING_PARTS = {
    "DIS5K-TR": Part("DIS5K/DIS-TR/im", "DIS5K/DIS-TR/gt", 3000),
    "ThinObject5K-TR": Part(
        "thin_object_detection/ThinObject5K/images_train",
        "thin_object_detection/ThinObject5K/masks_train",
        4748,
    ),
    "FSS": Part("cascade_psp/fss_all", "cascade_psp/fss_all", 10_000),
    "DUTS-TR": Part("cascade_psp/DUTS-TR", "cascade_psp/DUTS-TR", 10_553),
    "DUTS-TE": Part("cascade_psp/DUTS-TE", "cascade_psp/DUTS-TE", 5019),
    "ECSSD": Part("cascade_psp/ecssd", "cascade_psp/ecssd", 1000),
    "MSRA10K": Part("cascade_psp/MSRA_10K", "cascade_psp/MSRA_10K", 10_000),
}

VALIDATION_PARTS = {
    "DIS5K-VD": Part("DIS5K/DIS-VD/im", "DIS5K/DIS-VD/gt", 470),
    "COIFT": Part("thin_object_detection/COIFT/images", "thin_object_detection/COIFT/masks", 280),
    "HRSOD": Part(
        "thin_object_detection/HRSOD/images", "thin_object_detection/HRSOD/masks_max255", 287
    ),
    "ThinObject5K-TE": Part(
        "thin_object_detection/ThinObject5K/images_test",
        "thin_object_detection/ThinObject5K/masks_test",
        500,
    ),
}

PARTS = TRAINING_PARTS | VALIDATION_PARTS


def open_part(name: str, root: str | Path) -> PairDataset:
    """The pairs of one part, matched by file stem.

    Args:
        name: key of `PARTS`.
        root: the data folder.

    Raises:
        DataError: a folder is missing or empty, or images and masks do not match.
    """
    part = PARTS[name]
    return open_folders(name, Path(root) / part.images, Path(root) / part.masks)


def open_hqseg(root: str | Path, parts: Sequence[str] = tuple(TRAINING_PARTS)) -> Joined:
    """Several parts of HQSeg-44K as one data set; the faults of all parts are named at once."""
    datasets: list[Dataset] = []
    problems: list[str] = []
    for name in parts:
        try:
            datasets.append(open_part(name, root))
        except DataError as error:
            problems.extend(error.problems)
    if problems:
        raise DataError(problems)
    return Joined(datasets, "HQSeg-44K")


def open_folders(name: str, images: str | Path, masks: str | Path) -> PairDataset:
    """Pairs of two folders, or of one with `.jpg` images and `.png` masks, by file stem.

    Raises:
        DataError: a folder is missing or empty, or a file has no partner.
    """
    images, masks = Path(images), Path(masks)
    missing = [
        f"{name}: folder {folder} is missing; docs/DATASETS.md says how to get it"
        for folder in dict.fromkeys((images, masks))
        if not folder.is_dir()
    ]
    if missing:
        raise DataError(missing)
    if images == masks:
        image_names = _by_stem(images, FORMAT_SUFFIXES["JPEG"])
        mask_names = _by_stem(masks, FORMAT_SUFFIXES["PNG"])
    else:
        image_names, mask_names = _by_stem(images), _by_stem(masks)
    lonely = [
        f"{name}: {images / file} has no mask of that stem in {masks}"
        for stem, file in image_names.items()
        if stem not in mask_names
    ] + [
        f"{name}: {masks / file} has no image of that stem in {images}"
        for stem, file in mask_names.items()
        if stem not in image_names
    ]
    if lonely:
        raise DataError(lonely)
    if not image_names:
        raise DataError([f"{name}: folder {images} holds no images"])
    root = Path(os.path.commonpath((images, masks)))
    image_prefix, mask_prefix = images.relative_to(root), masks.relative_to(root)
    pairs = (
        ((image_prefix / file).as_posix(), (mask_prefix / mask_names[stem]).as_posix())
        for stem, file in sorted(image_names.items())
    )
    return PairDataset(name, root, pairs, links_to=None)


def _by_stem(folder: Path, suffixes: Sequence[str] = PICTURE_SUFFIXES) -> dict[str, str]:
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries)
    return {
        Path(name).stem: name
        for name in names
        if not name.startswith(".") and Path(name).suffix.lower() in suffixes
    }


def open_list(
    path: str | Path,
    root: str | Path | None = None,
    *,
    folders: Sequence[str] = (),
    links_to: Sequence[str] = (),
) -> PairDataset:
    """The pairs of a list file: one `image<TAB>mask` a line, paths relative to `root`.

    Empty lines and lines that begin with `#` are passed over.

    Args:
        path: the list file.
        root: folder of the paths; the list's own by default.
        folders: take only images below one of these folders of `root`; empty: all.
        links_to: folders beside these that symbolic links may lead to.

    Raises:
        DataError: missing list, lines of another form (all of them named), or no line at all.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise DataError([f"{path}: no such list file"]) from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError([f"{path}: cannot be read as UTF-8 text ({error})"]) from None
    pairs: list[tuple[str, str]] = []
    problems: list[str] = []
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        fields = line.split("\t")
        if len(fields) != 2 or not all(field.strip() for field in fields):
            problems.append(f"{path}:{number}: must be image<TAB>mask, found {line[:80]!r}")
        elif not folders or any(Path(fields[0].strip()).is_relative_to(f) for f in folders):
            pairs.append((fields[0].strip(), fields[1].strip()))
    if problems:
        raise DataError(problems)
    if not pairs:
        where = f" below {', '.join(folders)}" if folders else ""
        raise DataError([f"{path}: holds no pairs{where}"])
    root = Path(root) if root is not None else path.parent
    trusted = [*(root / folder for folder in folders), *map(Path, links_to)]
    return PairDataset(path.stem, root, pairs, links_to=trusted)
