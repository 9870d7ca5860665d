r"""Weights: what is at hand, published files, what a file holds, and other layouts of it.

    unseg weights list
    unseg weights download sam_vit_b mae_vit_b
    unseg weights inspect weight_dir/Generator_unseg_final.pth
    unseg weights export work_dirs/run/checkpoints/best.pt weight_dir/Generator_run_final.pth
    unseg weights export work_dirs/run/checkpoints/best.pt weight_dir/run.safetensors \
        --parent pretrained_checkpoint/sam_vit_b_01ec64.pth
    unseg weights convert-mae pretrained_checkpoint/mae_pretrain_vit_base.pth encoder.pth

Exit codes: 0 done, 1 a download failed, 2 bad call or a file that does not fit.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from torch import Tensor

from unseg.commands._run import EXIT_BAD_CALL, EXIT_DONE, EXIT_SOME_FAILED, user_errors
from unseg.io.files import sha256_file
from unseg.io.suffixes import WEIGHT_SUFFIXES
from unseg.io.tensors import WeightFile, read_weight_file, state_dict_of, tensors_of
from unseg.models.build import SIZES
from unseg.models.formats.download import SOURCES, download
from unseg.models.formats.mae import MAE_FORMAT, read_mae, save_mae
from unseg.models.formats.release import PARENT_DIR, Storage, release_header, save_release
from unseg.models.formats.transfer import ENCODER, encoder_shape
from unseg.models.weights import (
    CHECKPOINT_FORMAT,
    EMBEDDED,
    embedded_path,
    export_official,
    load_generator,
    resolve_weights,
)
from unseg.utils.errors import UserError

_WEIGHT_DIR = Path("weight_dir")


@user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Run `unseg weights`; returns the exit code."""
    parser = _parser()
    options = parser.parse_args(argv)
    if not hasattr(options, "run"):
        parser.print_help()
        return EXIT_BAD_CALL
    return int(options.run(options))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="unseg weights",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(metavar="{list,download,inspect,export,convert-mae}")

    command = commands.add_parser("list", help="weights at hand and weights to fetch")
    command.set_defaults(run=_list)

    command = commands.add_parser("download", help="fetch published weights, verified")
    command.add_argument("names", nargs="+", metavar="NAME", help=", ".join(SOURCES))
    command.add_argument(
        "--to", type=Path, default=PARENT_DIR, help="folder (default: %(default)s/)"
    )
    command.set_defaults(run=_download)

    command = commands.add_parser("inspect", help="say what a weight file holds")
    command.add_argument("path", help="weight file, or the name of embedded weights")
    command.add_argument("--json", action="store_true", help="print one JSON object")
    command.set_defaults(run=_inspect)

    command = commands.add_parser("export", help="write a generator in another layout")
    command.add_argument("source", help="released .pth, training checkpoint or .safetensors")
    command.add_argument("target", type=Path, help=".pth (released layout) or .safetensors")
    command.add_argument(
        "--parent",
        type=Path,
        help="Segment Anything file the frozen part came from: a .safetensors target then holds "
        "the trained tensors only; also where SOURCE finds its parent",
    )
    command.add_argument(
        "--dtype",
        choices=get_args(Storage),
        default="float32",
        help="how a .safetensors target stores parameters (default: %(default)s)",
    )
    command.set_defaults(run=_export)

    command = commands.add_parser("convert-mae", help="rename MAE weights to encoder names")
    command.add_argument("source", type=Path, help="mae_pretrain_vit_base.pth or the like")
    command.add_argument("target", type=Path, help="file to write")
    command.add_argument(
        "--image-size", type=int, help="resample the positions for a surrogate of this input side"
    )
    command.set_defaults(run=_convert_mae)
    return parser


def _list(_: argparse.Namespace) -> int:
    print("embedded")
    for name, use in EMBEDDED.items():
        path = embedded_path(name)
        state = f"{path.stat().st_size:,} bytes" if path.is_file() else "not in this installation"
        print(f"  {name:<10} {use}: {state}")
    print(f"published (unseg weights download NAME; kept in {PARENT_DIR}/)")
    for name, source in SOURCES.items():
        path = PARENT_DIR / source.name
        state = f"{path.stat().st_size:,} bytes" if path.is_file() else "not here"
        print(f"  {name:<10} {source.name}, {source.use}: {state}")
    print(f"{_WEIGHT_DIR}/")
    found = [path for path in sorted(_WEIGHT_DIR.glob("*")) if path.suffix in WEIGHT_SUFFIXES]
    for path in found:
        print(f"  {path.name}: {path.stat().st_size:,} bytes")
    if not found:
        print("  no weights here")
    return EXIT_DONE


def _download(options: argparse.Namespace) -> int:
    unknown = [name for name in options.names if name not in SOURCES]
    if unknown:
        raise UserError(f"weights {unknown[0]!r}: choose from {', '.join(SOURCES)}")
    failed = False
    for name in options.names:
        try:
            path = download(SOURCES[name], options.to, progress=sys.stderr.isatty())
            print(f"{path}: {path.stat().st_size:,} bytes, verified, sha256 {sha256_file(path)}")
        except UserError as error:
            failed = True
            print(error, file=sys.stderr)
    return EXIT_SOME_FAILED if failed else EXIT_DONE


def _inspect(options: argparse.Namespace) -> int:
    path = resolve_weights(options.path)
    facts = describe(read_weight_file(path))
    if options.json:
        print(json.dumps(facts, indent=2))
        return EXIT_DONE
    for key, value in facts.items():
        text = json.dumps(value) if isinstance(value, dict) else value
        print(f"{key:<16} {f'{value:,}' if isinstance(value, int) else text}")
    return EXIT_DONE


def describe(file: WeightFile) -> dict[str, Any]:
    """What a weight file is, as plain data."""
    kind, tensors, more = _kind(file)
    shape = encoder_shape(tensors)
    if shape is not None:
        more = {"encoder": str(shape), **more}
    return {
        "path": str(file.path),
        "kind": kind,
        "bytes": file.path.stat().st_size,
        "sha256": sha256_file(file.path),
        "tensors": len(tensors),
        "values": sum(value.numel() for value in tensors.values()),
        **more,
    }


def _kind(file: WeightFile) -> tuple[str, dict[str, Tensor], dict[str, Any]]:
    """The kind of a file in words, its tensors, and what its header says."""
    content = file.content
    if file.kind == "safetensors":
        header = release_header(file)
        more = {key: header[key] for key in ("build_arguments", "dtype", "parent", "metadata")}
        return "unseg release", tensors_of(content, file.path), more
    if content.get("format") == CHECKPOINT_FORMAT:
        more = {"models": content.get("models"), "progress": content.get("progress")}
        known = {key: value for key, value in more.items() if isinstance(value, Mapping)}
        tensors = tensors_of(content.get("generator"), file.path)
        return "training checkpoint (its generator is counted)", tensors, _plain(known)
    if content.get("format") == MAE_FORMAT:
        tensors = tensors_of(content.get("encoder"), file.path)
        return "pre-trained encoder", {ENCODER + k: v for k, v in tensors.items()}, {}
    tensors = state_dict_of(file)
    if any("noise" in name for name in tensors):
        return "generator in the released layout, read as official", tensors, {}
    if any(name.startswith("mask_decoder.") for name in tensors):
        return "Segment Anything", tensors, {}
    return "state dict", tensors, {}


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """A copy that JSON can hold; what it cannot is written as text."""
    plain: dict[str, Any] = json.loads(json.dumps(values, default=str))
    return plain


def _export(options: argparse.Namespace) -> int:
    target: Path = options.target
    if target.suffix not in (".pth", ".safetensors"):
        raise UserError(
            f"{target}: the layout follows from the suffix; end the name in .pth (released layout) "
            "or .safetensors"
        )
    generator = load_generator(options.source, parent=options.parent)
    if target.suffix == ".pth":
        if options.dtype != "float32":
            raise UserError(f"--dtype={options.dtype}: the released layout is float32")
        export_official(generator, target)
    else:
        source = resolve_weights(options.source)
        metadata = {"exported_from": source.name, **_origin(read_weight_file(source))}
        save_release(
            generator,
            target,
            metadata=metadata,
            parent_path=options.parent,
            dtype=options.dtype,
        )
    print(f"{target}: {target.stat().st_size:,} bytes, sha256 {sha256_file(target)}")
    return EXIT_DONE


def _origin(file: WeightFile) -> dict[str, Any]:
    """What a source says of its training, for the metadata of the release."""
    if file.kind == "safetensors":
        return dict(release_header(file)["metadata"])
    if file.content.get("format") != CHECKPOINT_FORMAT:
        return {}
    kept = ("config", "progress", "best", "provenance")
    return _plain({key: file.content[key] for key in kept if key in file.content})


def _convert_mae(options: argparse.Namespace) -> int:
    encoder = read_mae(options.source)
    shape = encoder_shape({ENCODER + name: value for name, value in encoder.state.items()})
    if shape is None or shape.grid is None:
        raise UserError(
            f"{options.source}: holds no ViT encoder with positions; give an MAE file such as "
            f"{SOURCES['mae_vit_b'].name}"
        )
    side = options.image_size
    if side is not None and (side < shape.patch_size or side % shape.patch_size):
        raise UserError(f"--image-size={side}: must be a multiple of the patch, {shape.patch_size}")
    save_mae(encoder.state, options.target, image_size=side)
    sizes = f"fits {shape.size}" if shape.size else f"fits none of {', '.join(SIZES)}"
    print(f"{options.target}: {len(encoder.state)} tensors taken, {shape}; {sizes}")
    for name in encoder.unused:
        print(f"  unused {name}")
    return EXIT_DONE
