"""The files of `configs/`: they load, say what they are for, and hold only what differs."""

from __future__ import annotations

import ast
import dataclasses
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

from unseg.config.evaluate import EvaluateConfig
from unseg.config.generate import GenerateConfig
from unseg.config.load import load_config, to_dict
from unseg.config.pretrain import PretrainConfig, PretrainSamConfig
from unseg.config.train import TrainConfig
from unseg.config.yaml_file import YamlFile

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "configs"
CONFIGS = sorted(FOLDER.rglob("*.yaml"))
SCHEMAS: dict[str, Any] = {
    "train": TrainConfig,
    "pretrain": PretrainConfig,
    "pretrain/sam": PretrainSamConfig,
    "generate": GenerateConfig,
    "evaluate": EvaluateConfig,
    "benchmark": EvaluateConfig,
}
MAX_WIDTH = 110
LABELS = {"Purpose", "Command", "Needs", "Published", "Expected", "Measured"}

RECIPE_SIZES = "image_size|steps|epochs|batch_size|eval_batch_size|eval_every"
SIZES_AND_PATHS = {
    "train": r"name|data\..*|(generator|surrogate)\.(size|image_size|weights)|loss\.num_points|"
    r"schedule\.(period|surrogate|epochs|steps)|optim\.(batch_size|drop_at)|"
    r"validate\.(every|limit|num_images)|output\.(log_every|tensorboard|export_official)",
    "pretrain": r"name|data\..*|size|image_size|decoder_(dim|depth)|steps|batch_size|log_every|"
    r"num_points|drop_at|validate_(every|limit)",
    "evaluate": rf"run_dir|title|num_examples|grid|data\.\w+\.(train|test|synthetic.*)|"
    rf"methods\.\w+\.(train_root|options\.noise\.grid)|"
    rf"victims\.\w+\.(tiny|width|recipe\.({RECIPE_SIZES}))",
}
SIZES_AND_PATHS["benchmark"] = SIZES_AND_PATHS["evaluate"]
"""What a tiny twin may change. A synthetic data set takes the place of files on the disk."""

each_config = pytest.mark.parametrize(
    "path", CONFIGS, ids=lambda p: p.relative_to(FOLDER).with_suffix("").as_posix()
)


@cache
def resolved(path: Path) -> dict[str, Any]:
    """A file's configuration as plain containers."""
    is_sam = path.parent.name == "pretrain" and path.name.startswith("sam_")
    return to_dict(load_config(SCHEMAS["pretrain/sam" if is_sam else path.parent.name], path))


def header(path: Path) -> list[str]:
    """The comment that a file begins with."""
    lines = path.read_text(encoding="utf-8").splitlines()
    length = next(i for i, line in enumerate(lines) if not line.startswith("#"))
    return lines[:length]


def differences(one: Any, other: Any, prefix: str = "") -> Iterator[str]:
    """Dotted keys in which two configurations differ; a missing key counts as null."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in one.keys() | other.keys():
            full = f"{prefix}.{key}" if prefix else key
            yield from differences(one.get(key), other.get(key), full)
    elif one != other:
        yield prefix


@each_config
def test_every_configuration_loads_with_its_schema(path):
    assert resolved(path)
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"[:\s]/[A-Za-z]", re.sub("#.*", "", text)), "paths are relative"
    assert max(map(len, text.splitlines())) <= MAX_WIDTH


@each_config
def test_a_header_says_purpose_and_command_and_whether_its_numbers_were_measured(path):
    lines = header(path)
    labels = [m[1] for line in lines if (m := re.match(r"# (\w+): ", line))]
    assert labels[:1] == ["Purpose"]
    assert labels.count("Command") == 1
    assert set(labels) <= LABELS, "a result is Published, Expected or Measured"
    assert {"Published", "Expected", "Measured"} & set(labels)
    assert all(line.startswith(("# ", "#   ")) for line in lines)
    command = next(line for line in lines if line.startswith("# Command: "))
    script = re.search(r"scripts/generate_\w+\.sh", command)
    place = (ROOT / script[0]).read_text(encoding="utf-8") if script else command
    assert path.stem in re.findall(r"\w+", place), "the command runs this file"


# A generation configuration has no size of its own: with `generator.path=TINY` it runs as it is,
# and tests/e2e runs each of them so. The paper's tables are dry-run by
# tests/e2e/test_evaluate_objects.py.
@pytest.mark.parametrize("folder", SIZES_AND_PATHS)
def test_every_configuration_has_a_tiny_twin_that_differs_by_size_and_paths_only(folder):
    paths = {p.stem: p for p in CONFIGS if p.parent.name == folder}
    wrong = {}
    for name, path in paths.items():
        if name.endswith("_debug") or name.startswith("paper_"):
            continue
        keys = differences(resolved(path), resolved(paths[f"{name}_debug"]))
        other = sorted(k for k in keys if not re.fullmatch(SIZES_AND_PATHS[folder], k))
        if other:
            wrong[name] = other
    assert wrong == {}


@each_config
def test_a_file_with_a_base_repeats_nothing_of_it(path):
    file = YamlFile.read(path)
    if file.base is not None:
        assert list(repeated(file.values, file.base.values)) == []


def repeated(own: Any, base: Any, prefix: str = "") -> Iterator[str]:
    """Dotted keys that stand in both with one value."""
    if isinstance(own, dict) and isinstance(base, dict):
        for key in own.keys() & base.keys():
            yield from repeated(own[key], base[key], f"{prefix}.{key}")
    elif own == base:
        yield prefix.removeprefix(".")


def sections(schema: Any) -> set[Any]:
    """A schema and all the sections in it."""
    found, waiting = set(), [schema]
    while waiting:
        hint = waiting.pop()
        waiting += get_args(hint)
        if dataclasses.is_dataclass(hint) and hint not in found:
            found.add(hint)
            waiting += get_type_hints(hint).values()
    return found


def test_no_key_is_without_a_reader():
    read = set()
    for path in (ROOT / "unseg").rglob("*.py"):
        tree = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        read |= {node.attr for node in tree if isinstance(node, ast.Attribute)}
    keys = {
        f"{section.__module__}.{section.__name__}.{field.name}"
        for schema in SCHEMAS.values()
        for section in sections(schema)
        for field in dataclasses.fields(section)
    }
    assert {key for key in keys if key.rsplit(".", 1)[1] not in read} == set()
