r"""Weights: what is at hand, published files, what a file holds, and other layouts of it.

    unseg weights list
    unseg weights download sam_vit_b mae_vit_b
    unseg weights inspect weight_dir/Generator_unseg_final.pth
    unseg weights export work_dirs/run/checkpoints/best.pt weight_dir/Generator_run_final.pth
    unseg weights export work_dirs/run/checkpoints/best.pt weight_dir/run.safetensors \
        --parent pretrained_checkpoint/sam_vit_b_01ec64.pth
    unseg weights export-onnx default default.onnx
    unseg weights convert-mae pretrained_checkpoint/mae_pretrain_vit_base.pth encoder.pth

Exit codes: 0 done, 1 a download failed, 2 bad call or a file that does not fit.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from unseg.commands._run import EXIT_BAD_CALL, EXIT_DONE, EXIT_SOME_FAILED, user_errors
from unseg.commands._screen import Screen, add_screen_flags
from unseg.io.files import sha256_file
from unseg.io.suffixes import WEIGHT_SUFFIXES
from unseg.models.embedded import EMBEDDED, embedded_path, resolve_weights
from unseg.models.formats.download import PARENT_DIR, SOURCES, download
from unseg.utils.errors import UserError

_WEIGHT_DIR = Path("weight_dir")

Run = Callable[[argparse.Namespace, Screen], int]


@user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Run `unseg weights`; returns the exit code."""
    parser = _parser()
    options = parser.parse_args(argv)
    if not hasattr(options, "run"):
        parser.print_help()
        return EXIT_BAD_CALL
    return int(options.run(options, Screen.of(options)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="unseg weights",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = "{list,download,inspect,export,export-onnx,convert-mae}"
    commands = parser.add_subparsers(metavar=names)

    def command(name: str, run: Run, text: str, json_help: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text)
        added.set_defaults(run=run)
        add_screen_flags(added, json_help=json_help)
        return added

    one = "print one JSON object"
    command("list", _list, "weights at hand and weights to fetch", one)

    added = command(
        "download", _download, "fetch published weights, verified", "print one JSON object a file"
    )
    added.add_argument("names", nargs="+", metavar="NAME", help=", ".join(SOURCES))
    added.add_argument("--to", type=Path, default=PARENT_DIR, help="folder (default: %(default)s/)")

    added = command("inspect", _inspect, "say what a weight file holds", one)
    added.add_argument("path", help="weight file, or the name of embedded weights")

    added = command("export", _export, "write a generator in another layout", one)
    added.add_argument("source", help="released .pth, training checkpoint or .safetensors")
    added.add_argument("target", type=Path, help=".pth (released layout) or .safetensors")
    added.add_argument(
        "--parent",
        type=Path,
        help="Segment Anything file the frozen part came from: a .safetensors target then holds "
        "the trained tensors only; also where SOURCE finds its parent",
    )
    added.add_argument(
        "--dtype",
        choices=("float32", "float16"),
        default="float32",
        help="how a .safetensors target stores parameters (default: %(default)s)",
    )

    added = command("export-onnx", _export_onnx, "write a small generator as ONNX", one)
    added.add_argument("source", help="embedded generator or weight file")
    added.add_argument("target", type=Path, help=".onnx file to write")

    added = command("convert-mae", _convert_mae, "rename MAE weights to encoder names", one)
    added.add_argument("source", type=Path, help="mae_pretrain_vit_base.pth or the like")
    added.add_argument("target", type=Path, help="file to write")
    added.add_argument(
        "--image-size", type=int, help="resample the positions for a surrogate of this input side"
    )
    return parser


def _list(_: argparse.Namespace, screen: Screen) -> int:
    found = {
        "embedded": [
            {"name": name, "use": use, **_size(embedded_path(name))}
            for name, use in EMBEDDED.items()
        ],
        "published": [
            {"name": name, "file": s.name, "use": s.use, **_size(PARENT_DIR / s.name)}
            for name, s in SOURCES.items()
        ],
        "files": [
            {"path": str(path), **_size(path)}
            for path in sorted(_WEIGHT_DIR.glob("*"))
            if path.suffix in WEIGHT_SUFFIXES
        ],
    }
    screen.give(found)
    screen.say("embedded")
    for one in found["embedded"]:
        state = _bytes(one) or "not in this installation"
        screen.say(f"  {one['name']:<10} {one['use']}: {state}")
    screen.say(f"published (unseg weights download NAME; kept in {PARENT_DIR}/)")
    for one in found["published"]:
        state = _bytes(one) or "not here"
        screen.say(f"  {one['name']:<10} {one['file']}, {one['use']}: {state}")
    screen.say(f"{_WEIGHT_DIR}/")
    for one in found["files"]:
        screen.say(f"  {Path(one['path']).name}: {_bytes(one)}")
    if not found["files"]:
        screen.say("  no weights here")
    return EXIT_DONE


def _size(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size if path.is_file() else None}


def _bytes(one: dict[str, Any]) -> str | None:
    return None if one["bytes"] is None else f"{one['bytes']:,} bytes"


def _download(options: argparse.Namespace, screen: Screen) -> int:
    unknown = [name for name in options.names if name not in SOURCES]
    if unknown:
        raise UserError(f"weights {unknown[0]!r}: choose from {', '.join(SOURCES)}")
    failed = False
    is_waiting = sys.stderr.isatty() and not screen.quiet
    for name in options.names:
        try:
            _written(screen, download(SOURCES[name], options.to, progress=is_waiting), "verified, ")
        except UserError as error:
            failed = True
            screen.warn(str(error))
    return EXIT_SOME_FAILED if failed else EXIT_DONE


def _written(screen: Screen, path: Path, how: str = "", **more: Any) -> int:
    """Say what lies in a file now."""
    size, digest = path.stat().st_size, sha256_file(path)
    screen.give({"path": str(path), "bytes": size, "sha256": digest, **more})
    screen.say(f"{path}: {size:,} bytes, {how}sha256 {digest}")
    return EXIT_DONE


def _inspect(options: argparse.Namespace, screen: Screen) -> int:
    from unseg.commands._weight_facts import describe
    from unseg.io.weight_files.read import read_weight_file

    facts = describe(read_weight_file(resolve_weights(options.path)))
    screen.give(facts)
    for key, value in facts.items():
        text = json.dumps(value) if isinstance(value, dict) else value
        screen.say(f"{key:<16} {f'{value:,}' if isinstance(value, int) else text}")
    return EXIT_DONE


def _export(options: argparse.Namespace, screen: Screen) -> int:
    target: Path = options.target
    if target.suffix not in (".pth", ".safetensors"):
        raise UserError(
            f"{target}: the layout follows from the suffix; end the name in .pth (released layout) "
            "or .safetensors"
        )
    if target.suffix == ".pth" and options.dtype != "float32":
        raise UserError(f"--dtype={options.dtype}: the released layout is float32")
    from unseg.commands._weight_facts import origin
    from unseg.io.weight_files.read import read_weight_file
    from unseg.models.weights import export_official, load_generator, save_release

    generator = load_generator(options.source, parent=options.parent)
    if target.suffix == ".pth":
        export_official(generator, target)
    else:
        source = resolve_weights(options.source)
        metadata = {"exported_from": source.name, **origin(read_weight_file(source))}
        save_release(
            generator, target, metadata=metadata, parent_path=options.parent, dtype=options.dtype
        )
    return _written(screen, target)


def _export_onnx(options: argparse.Namespace, screen: Screen) -> int:
    from unseg.models.formats.onnx import OPSET, save_onnx
    from unseg.models.weights import load_generator

    save_onnx(load_generator(options.source), options.target)
    return _written(screen, options.target, f"opset {OPSET}, ", opset=OPSET)


def _convert_mae(options: argparse.Namespace, screen: Screen) -> int:
    from unseg.models.build import SIZES
    from unseg.models.formats.mae import read_mae, save_mae
    from unseg.models.formats.transfer import ENCODER, encoder_shape

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
    taken = {"path": str(options.target), "tensors": len(encoder.state), "encoder": str(shape)}
    screen.give({**taken, "unused": list(encoder.unused)})
    screen.say(f"{options.target}: {len(encoder.state)} tensors taken, {shape}; {sizes}")
    for name in encoder.unused:
        screen.say(f"  unused {name}", "dim")
    return EXIT_DONE
