"""A configuration file on the disk, and the one beside it that it is based on.

A file may name another of its folder in `base:` and hold only the keys that differ from it. The
base has no base itself. Sections are merged key by key; a list or a value replaces the base's.
"""

from __future__ import annotations

import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from unseg.utils.errors import ConfigError

BASE = "base"


@dataclass(frozen=True)
class YamlFile:
    """What a file says, and what its base says.

    Attributes:
        path: the file.
        values: its own keys, without `base`.
        base: the file that it is based on, or None.
    """

    path: Path
    values: dict[str, Any]
    base: YamlFile | None = None

    @classmethod
    def read(cls, path: Path) -> YamlFile:
        """The file and its base.

        Raises:
            ConfigError: one of them is missing or no YAML, or `base` names no file that may serve.
        """
        values = _read(path)
        if BASE not in values:
            return cls(path, values)
        name = values.pop(BASE)
        base_path = _beside(path, name)
        base_values = _read(base_path)
        if BASE in base_values:
            raise ConfigError([f"{path}: base={name}: has a base itself; name {base_values[BASE]}"])
        return cls(path, values, cls(base_path, base_values))

    def merged(self) -> dict[str, Any]:
        """All keys, this file's above its base's."""
        return self.values if self.base is None else _merged(self.base.values, self.values)

    def holder(self, key: str) -> Path:
        """The file that a dotted key stands in; this one where it stands in neither."""
        if self.base is None or _holds(self.values, key) or not _holds(self.base.values, key):
            return self.path
        return self.base.path


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ConfigError([f"{path}: no such configuration file"])
    try:
        values = OmegaConf.to_container(OmegaConf.load(path))
    except RecursionError:
        raise ConfigError([f"{path}: nested too deeply for a configuration"]) from None
    # ValueError: not UTF-8, or a number of thousands of digits.
    except (yaml.YAMLError, OmegaConfBaseException, ValueError, OSError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError([f"{path}: not readable as YAML: {reason}"]) from None
    if not isinstance(values, dict):
        raise ConfigError([f"{path}: must hold `key: value` pairs"])
    return typing.cast(dict[str, Any], values)


def _beside(path: Path, name: Any) -> Path:
    """The file `name` of the folder of `path`."""
    where = f"{path}: base={name}:"
    if not isinstance(name, str) or name in ("", ".", "..") or Path(name).name != name:
        raise ConfigError(
            [f"{where} must be the name of a file in the same folder, without a path"]
        )
    found = path.parent / name
    if not found.is_file():
        raise ConfigError([f"{where} no such file in {path.parent}"])
    if found.resolve().parent != path.parent.resolve():
        raise ConfigError([f"{where} is a link out of {path.parent}"])
    return found


def _merged(base: Any, own: Any) -> Any:
    if not (isinstance(base, dict) and isinstance(own, dict)):
        return own
    changed = {key: _merged(base.get(key), value) for key, value in own.items()}
    return {**base, **changed}


def _holds(values: Any, key: str) -> bool:
    """Whether a dotted key, or a list or value on the way to it, stands in the values."""
    for part in key.split("."):
        if not isinstance(values, dict):
            return True
        known = {str(name): value for name, value in values.items()}
        if part not in known:
            return False
        values = known[part]
    return True
