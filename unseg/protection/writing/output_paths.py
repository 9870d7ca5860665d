"""Where each output lies, and what must not lie there."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from unseg.config.dataset import DatasetConfig
from unseg.config.generate import ProtectedSetConfig
from unseg.data.annotations.base import Item
from unseg.io.files import resolve_inside
from unseg.io.pictures import OutputFormat
from unseg.io.suffixes import FORMAT_SUFFIXES, PICTURE_SUFFIXES
from unseg.protection.writing.manifest import LOCK, MANIFEST, SETTINGS
from unseg.protection.writing.other_files import OTHER_FILES
from unseg.utils.errors import UserError

NOISE_FOLDER, CONTACT_SHEET = "unseg_noise", "contact_sheet.png"
RECORDS = (
    MANIFEST, SETTINGS, LOCK, OTHER_FILES, "summary.json", "config.yaml", CONTACT_SHEET,
)  # fmt: skip
"""Files of a run; a mirrored data set that was protected before keeps the new ones."""
_LOSSLESS: tuple[OutputFormat, ...] = ("PNG", "TIFF", "BMP", "WEBP")


@dataclass(frozen=True)
class OutputPaths:
    """Maps an image's key to its output.

    Attributes:
        output: the settings.
        base: folder of the images below the output folder, POSIX ("." but for `mirror`).
    """

    output: ProtectedSetConfig
    base: str = "."

    @property
    def folder(self) -> Path:
        """The output folder."""
        return Path(self.output.dir)

    def format_of(self, key: str) -> OutputFormat:
        """Format of the bytes that are written for an image."""
        if self.output.format == "jpeg":
            return "JPEG"
        if self.output.format == "png":
            return "PNG"
        suffix = PurePosixPath(key).suffix.lower()
        return next((f for f in _LOSSLESS if suffix in FORMAT_SUFFIXES[f]), "PNG")

    def name_of(self, key: str) -> str:
        """The image's path below its own folder, POSIX: same tree, same stem."""
        path = PurePosixPath(key)
        if self.output.keep_suffix:
            return key
        own = FORMAT_SUFFIXES[self.format_of(key)]
        if path.suffix.lower() in own:
            return key
        # Not `with_suffix`: a name without a known suffix keeps its dots.
        stem = key.removesuffix(path.suffix) if path.suffix.lower() in PICTURE_SUFFIXES else key
        return stem + own[0]

    def relative(self, key: str) -> str:
        """The output's path below the output folder, POSIX."""
        return (PurePosixPath(self.base) / self.name_of(key)).as_posix()

    def path(self, key: str) -> Path:
        """Where the output lies; refused outside of the output folder."""
        return resolve_inside(self.folder, self.relative(key))

    def noise_path(self, key: str) -> Path:
        """Where the amplified noise of an image lies."""
        return resolve_inside(self.folder, f"{NOISE_FOLDER}/{key}.png")


def build_output_paths(output: ProtectedSetConfig, data: DatasetConfig | None) -> OutputPaths:
    """The layout of a run; `data` is None where single files are protected."""
    if output.layout == "mirror" and data is not None:
        return OutputPaths(output, "." if data.parts else data.images)
    return OutputPaths(output)


def input_folders(data: DatasetConfig, layout: str) -> list[Path]:
    """Folders that the output must not lie in."""
    root = Path(data.root)
    if layout == "mirror":
        return [root]
    return [root / part.images for part in data.parts] or [root / data.images]


def check_outputs(layout: OutputPaths, items: Iterable[Item], folders: Sequence[Path]) -> None:
    """Refuse what would overwrite an input, or two inputs of one output, before anything starts.

    Raises:
        UserError: naming the files.
    """
    out = layout.folder.resolve()
    for folder in folders:
        if out.is_relative_to(folder.resolve()):
            raise UserError(
                f"output.dir={layout.output.dir}: lies in the input {folder}; choose a folder "
                "outside of it"
            )
    seen: dict[str, str] = {}
    inputs = _places(items) if out.is_dir() else {}
    for item in items:
        if item.fault is not None:
            continue
        name = layout.relative(item.key)
        if name in seen:
            raise UserError(
                f"{seen[name]} and {item.key} would both be written to {name}; set "
                "output.keep_suffix=true or rename one of them"
            )
        seen[name] = item.key
        is_record = name in RECORDS and (name != CONTACT_SHEET or layout.output.contact_sheet)
        if is_record or name.startswith(f"{NOISE_FOLDER}/"):
            also = " or set output.contact_sheet=0" if name == CONTACT_SHEET else ""
            raise UserError(
                f"{item.key}: its output {name} has the name of a file of the run; rename it{also}"
            )
        threatened = inputs and inputs.get(_place_of(out / name))
        if threatened:
            by = "its own output" if threatened == item.image_path else f"the output of {item.key}"
            raise UserError(
                f"{threatened}: would be overwritten by {by}; choose another output folder"
            )


def _places(items: Iterable[Item]) -> dict[tuple[int, int] | None, Path]:
    """The images that are there, by their places: links may lead an output to another's input."""
    found = {_place_of(item.image_path): item.image_path for item in items if item.fault is None}
    found.pop(None, None)
    return found


def _place_of(path: Path) -> tuple[int, int] | None:
    """What tells a file from every other, links followed; None where there is none."""
    try:
        found = path.stat()
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino
