"""Weights that come with the package, by name. Nothing here needs torch."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from unseg.utils.errors import UserError

EMBEDDED = {
    "default": "small generator for any picture",
    "robust": "the same with grey noise, trained through JPEG and blur; for smooth pictures",
    "pattern": "no network: coarse green and magenta checks, the strongest so far; lost in grey",
}
"""Weights that can come with the package, by name."""


def resolve_weights(name_or_path: str | Path) -> Path:
    """The file that a name of embedded weights, or a path, means.

    A bare name in `EMBEDDED` is always the embedded file; write `./default` for a file so named.

    Raises:
        UserError: there is no such file.
    """
    text = str(name_or_path)
    if text in EMBEDDED:
        path = embedded_path(text)
        if path.is_file():
            return path
        raise UserError(f"weights {text!r} do not come with this installation; {_options()}")
    path = Path(name_or_path)
    if path.exists():
        return path
    raise UserError(f"{text}: no such weight file; {_options()}")


def embedded_path(name: str) -> Path:
    """Where embedded weights of this name lie if the package has them."""
    return Path(str(resources.files("unseg"))) / "assets" / f"{name}.safetensors"


def _options() -> str:
    shipped = [name for name in EMBEDDED if embedded_path(name).is_file()]
    named = f"a name ({', '.join(shipped)}), " if shipped else ""
    return (
        f"give {named}a released Generator_*.pth, a training checkpoint or a .safetensors release "
        "(`unseg weights list` shows those at hand)"
    )
