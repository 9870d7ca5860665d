"""What this machine has and what is missing: versions, device, weights, data sets.

    unseg doctor
    unseg doctor --data-root /path/to/datasets --no-checksums

It changes nothing and needs no connection. `--quiet` names only what is missing. Exit code 0,
whatever it finds.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from unseg import __version__
from unseg.commands._run import EXIT_DONE, user_errors
from unseg.commands._screen import Screen, add_screen_flags, counted
from unseg.io.files import sha256_file
from unseg.io.suffixes import WEIGHT_SUFFIXES
from unseg.utils.errors import UserError

_REQUIREMENT = re.compile(r"""^(?P<name>[\w.-]+)(.*\bextra == ["'](?P<extra>[\w-]+)["'])?""")
_REMEDY = " -> "
CPU_FEATURES = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_bf16")

PRETRAINED_DIR, RELEASED_DIR = Path("pretrained_checkpoint"), Path("weight_dir")
SPLIT_FILES = (
    "sam_vit_b_backbone.pth",
    "sam_vit_b_maskdecoder.pth",
    "sam_vit_b_prompt_decoder.pth",
)
MAE_FILES = ("mae_pretrain_vit_base.pth", "modified_mae_pretrain_vit_base.pth")
RELEASED_FILE = "Generator_unseg_final.pth"


@dataclass(frozen=True)
class Tree:
    """A data set that is recognised by its folder.

    Attributes:
        folder: below the data root.
        counted: (one of what is counted, pattern below `folder`).
    """

    folder: str
    counted: tuple[tuple[str, str], ...]


TREES = {
    "PASCAL VOC 2012": Tree(
        "VOCdevkit/VOC2012",
        (
            ("image", "JPEGImages/*.jpg"),
            ("mask", "SegmentationClass/*.png"),
            ("augmented mask", "SegmentationClassAug/*.png"),
        ),
    ),
    "ADE20K": Tree(
        "ADEChallengeData2016",
        (("image", "images/*/*.jpg"), ("mask", "annotations/*/*.png")),
    ),
    "COCO 2017": Tree(
        "coco",
        (
            ("training image", "train2017/*.jpg"),
            ("validation image", "val2017/*.jpg"),
            ("annotation file", "annotations/*.json"),
        ),
    ),
    "Cityscapes": Tree(
        "cityscapes",
        (("image", "leftImg8bit/*/*/*.png"), ("label file", "gtFine/*/*/*.png")),
    ),
    "Kvasir-SEG": Tree("Kvasir-SEG", (("image", "images/*"), ("mask", "masks/*"))),
    "NWPU VHR-10": Tree("NWPU_VHR-10", (("image", "*/*.jpg"), ("annotation file", "*.json"))),
}


@user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Print the report."""
    parser = argparse.ArgumentParser(
        prog="unseg doctor",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--data-root",
        type=Path,
        default=Path("data"),
        metavar="DIR",
        help="folder of the data sets (default: data)",
    )
    parser.add_argument(
        "--no-checksums", action="store_true", help="name weight files without reading them"
    )
    add_screen_flags(parser, json_help="print one JSON object")
    options = parser.parse_args(argv)
    sections = {
        "Versions": versions(),
        "Device": device(),
        "Memory and disk": capacity(),
        "Weights": weights(with_checksums=not options.no_checksums),
        f"Data sets below {options.data_root}": data_sets(options.data_root),
    }
    found = {title: list(lines) for title, lines in sections.items()}
    screen = Screen.of(options)
    screen.give({title: [_finding(line) for line in lines] for title, lines in found.items()})
    for title, lines in found.items():
        screen.say(title, "bold")
        for line in lines:
            screen.say(f"  {line}", "yellow" if _REMEDY in line else None)
            if screen.quiet and _REMEDY in line:
                screen.warn(line)
    return EXIT_DONE


def _finding(line: str) -> dict[str, str | None]:
    """A line for programs: what was found, and what to do about it where something is missing."""
    text, _, remedy = line.partition(_REMEDY)
    return {"found": text, "remedy": remedy or None}


def versions() -> Iterator[str]:
    """Python, this package, what it stands on, and which extras are complete."""
    yield f"unseg {__version__}, Python {platform.python_version()}, {platform.platform()}"
    extras = required()
    if not extras:
        yield "unseg is not installed in this Python -> pip install -e ."
    for extra, names in extras.items():
        label, target = (f"extra [{extra}]: ", f"'.[{extra}]'") if extra else ("", ".")
        found = {name: _version(name) for name in names}
        absent = [name for name, version in found.items() if not version]
        if absent:
            yield f"{label}missing {', '.join(absent)} -> pip install -e {target}"
        else:
            yield label + ", ".join(f"{name} {version}" for name, version in found.items())


def required() -> dict[str, list[str]]:
    """Names of the packages that each extra needs ("" is the package itself), as installed."""
    try:
        requirements = importlib.metadata.requires("unseg") or []
    except importlib.metadata.PackageNotFoundError:
        return {}
    extras: dict[str, list[str]] = {}
    for requirement in requirements:
        if found := _REQUIREMENT.match(requirement):
            extras.setdefault(found["extra"] or "", []).append(found["name"])
    return extras


def device() -> Iterator[str]:
    """CPU with the features that matter for speed, and the CUDA cards."""
    import torch

    model, flags = _cpu()
    present = [name for name in CPU_FEATURES if name in flags]
    yield f"CPU: {model}, {_num_cores()} usable cores, {torch.get_num_threads()} torch threads"
    yield f"CPU features: {', '.join(present) or 'none of ' + ', '.join(CPU_FEATURES)}"
    has_bf16 = bool({"avx512_bf16", "amx_bf16"} & set(present))
    yield f"bf16 on this CPU: {'in hardware' if has_bf16 else 'not in hardware'}"
    if not torch.cuda.is_available():
        built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "a CPU build"
        yield f"CUDA: no device (torch is {built}) -> everything runs on the CPU, slower"
        return
    for index in range(torch.cuda.device_count()):
        card = torch.cuda.get_device_properties(index)
        bf16 = "bf16" if card.major >= 8 else "no bf16"
        yield f"cuda:{index}: {card.name}, {_size(card.total_memory)}, {bf16}"


def capacity() -> Iterator[str]:
    """Memory of the machine (or of the container) and space where runs are written."""
    yield f"memory: {_size(_memory())}"
    for folder in (Path("work_dirs"), Path("data")):
        place = folder if folder.exists() else Path()
        yield f"free where {folder}/ lies: {_size(shutil.disk_usage(place).free)}"


def weights(*, with_checksums: bool = True) -> Iterator[str]:
    """Weight files in their places, and for what is missing where it comes from."""
    from unseg.models.formats.download import SOURCES, verify

    published = {source.name: source for source in SOURCES.values()}
    for folder in (PRETRAINED_DIR, RELEASED_DIR):
        for path in _weight_files(folder):
            line = f"found {path}, {_size(path.stat().st_size)}"
            if with_checksums:
                line += f", sha256 {_checksum(path)}"
            if with_checksums and path.name in published:
                fault = verify(published[path.name], path)
                line += f": {fault} -> move it away and download it" if fault else ": as published"
            yield line
    yield from _missing_weights()


def _missing_weights() -> Iterator[str]:
    sam = PRETRAINED_DIR / "sam_vit_b_01ec64.pth"
    split = [PRETRAINED_DIR / name for name in SPLIT_FILES]
    if not sam.is_file() and not all(path.is_file() for path in split):
        yield (
            f"missing {sam} (or {', '.join(SPLIT_FILES)}): the frozen part of the vit_b generator"
            " -> unseg weights download sam_vit_b"
        )
    if not any((PRETRAINED_DIR / name).is_file() for name in MAE_FILES):
        yield (
            f"missing {PRETRAINED_DIR / MAE_FILES[0]} (or {MAE_FILES[1]}): start of the surrogate's"
            " encoder -> unseg weights download mae_vit_b"
        )
    if not (RELEASED_DIR / RELEASED_FILE).is_file():
        yield (
            f"missing {RELEASED_DIR / RELEASED_FILE}: the authors' generator, optional -> the link"
            " is in their repository, see weight_dir/README.md"
        )


def data_sets(root: Path) -> Iterator[str]:
    """Data sets with counts; a part that is there but faulty is named with its first fault."""
    from unseg.data.hqseg import PARTS, TRAINING_PARTS, open_part

    absent = []
    for name, part in PARTS.items():
        if not (root / part.images).is_dir():
            absent.append(name)
            continue
        try:
            count = len(open_part(name, root))
        except UserError as error:
            first, *rest = str(error).splitlines()
            yield f"{name}: {first}" + (f" (and {len(rest)} more faults)" if rest else "")
            continue
        published = f" of {part.num_pairs} published" if part.num_pairs else ""
        yield f"{name}: {counted(count, 'pair')}{published}"
    for name, tree in TREES.items():
        if (root / tree.folder).is_dir():
            counts = [(_count(root / tree.folder, p), what) for what, p in tree.counted]
            yield f"{name}: {', '.join(counted(count, what) for count, what in counts)}"
        else:
            absent.append(name)
    if absent:
        training = [name for name in absent if name in TRAINING_PARTS]
        yield f"missing: {', '.join(absent)} -> docs/DATASETS.md says where each one goes"
        if training:
            yield (
                f"without {len(training)} of the {len(TRAINING_PARTS)} training parts the paper's"
                " recipe cannot run; the synthetic scenes need no data"
            )


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu() -> tuple[str, set[str]]:
    """Model name and feature flags, as Linux tells them."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine(), set()
    values = {k.strip(): v.strip() for k, _, v in (line.partition(":") for line in lines)}
    return values.get("model name", platform.machine()), set(values.get("flags", "").split())


def _num_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _memory() -> int:
    """Bytes this process may use: the machine's, or its container's limit where smaller."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii").strip()
    except OSError:
        return total
    return min(total, int(limit)) if limit.isdecimal() else total


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.1f} GiB" if num_bytes >= 2**30 else f"{num_bytes / 2**20:.1f} MiB"


def _weight_files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if p.suffix in WEIGHT_SUFFIXES and p.is_file())


def _checksum(path: Path) -> str:
    try:
        return sha256_file(path)
    except UserError as error:
        return f"unknown ({error})"


def _count(folder: Path, pattern: str) -> int:
    return sum(1 for _ in folder.glob(pattern))
