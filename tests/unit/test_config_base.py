"""A configuration file that names a base holds only what differs from it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

from unseg.commands._run import config_command, user_errors
from unseg.config.load import load_config, load_sections, to_dict
from unseg.utils.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Budget:
    inner: float = 1.0
    outer: float = 0.25

    def problems(self):
        if self.outer > self.inner:
            yield "outer", "must be <= inner"


@dataclass(frozen=True, kw_only=True)
class Block:
    data: str
    seeds: tuple[int, ...] = (0,)


@dataclass(frozen=True, kw_only=True)
class Config:
    """A run."""

    name: str
    weights: str | None = None
    drop_at: tuple[int, ...] = ()
    budget: Budget = field(default_factory=Budget)
    sets: dict[str, Budget] = field(default_factory=dict)
    grid: tuple[Block, ...] = ()


@dataclass(frozen=True, kw_only=True)
class BudgetSection:
    budget: Budget


FULL = """
name: full
weights: sam.pth
drop_at: [20, 25]
budget: {inner: 8, outer: 2}
sets: {a: {inner: 4, outer: 1}}
grid:
  - {data: a, seeds: [0, 1]}
  - {data: b}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "full.yaml").write_text(FULL)
    return tmp_path


def write(folder: Path, text: str, name: str = "twin.yaml") -> Path:
    (folder / name).write_text(text)
    return folder / name


def faults(folder: Path, text: str, *overrides: str) -> list[str]:
    """The reported lines, with the folder left out."""
    with pytest.raises(ConfigError) as caught:
        load_config(Config, write(folder, text), overrides)
    return [line.replace(f"{folder}/", "") for line in caught.value.problems]


def test_a_file_holds_what_differs_from_its_base(folder):
    config = load_config(
        Config,
        write(folder, "base: full.yaml\nname: twin\nbudget: {outer: 1}\nsets: {b: {inner: 2}}"),
    )
    assert config == Config(
        name="twin",
        weights="sam.pth",
        drop_at=(20, 25),
        budget=Budget(inner=8, outer=1),
        sets={"a": Budget(inner=4, outer=1), "b": Budget(inner=2)},
        grid=(Block(data="a", seeds=(0, 1)), Block(data="b")),
    )


def test_lists_and_values_replace_those_of_the_base(folder):
    text = "base: full.yaml\ndrop_at: [1]\ngrid: [{data: c}]\nweights: null"
    config = load_config(Config, write(folder, text))
    assert (config.drop_at, config.weights) == ((1,), None)
    assert config.grid == (Block(data="c"),)


def test_overrides_come_last_and_cannot_name_a_base(folder):
    twin = write(folder, "base: full.yaml\nname: twin")
    assert load_config(Config, twin, ["budget.inner=16", "name=other"]).budget == Budget(
        inner=16, outer=2
    )
    (line,) = faults(folder, "name: x", "base=full.yaml")
    assert line.startswith("override base=full.yaml: unknown key")


def test_the_resolved_configuration_has_no_base(folder, capsys):
    @user_errors
    def command(argv=None) -> int:
        return config_command(argv, Config, prog="example", doc="") is None

    twin = write(folder, "base: full.yaml\nname: twin")
    command([str(twin), "--print-config"])
    printed = yaml.safe_load(capsys.readouterr().out)
    assert "base" not in printed
    assert printed == to_dict(load_config(Config, twin))
    assert load_config(Config, write(folder, yaml.safe_dump(printed), "saved.yaml")) == load_config(
        Config, twin
    )


def test_sections_are_taken_from_the_base_too(folder):
    twin = write(folder, "base: full.yaml\nbudget: {inner: 9}\nunknown: 1")
    assert load_sections(BudgetSection, twin).budget == Budget(inner=9, outer=2)


def test_an_error_names_the_file_that_holds_the_key(folder):
    write(folder, FULL.replace("data: b", "dato: b").replace("weights", "wights"), "faulty.yaml")
    assert faults(folder, "base: faulty.yaml\nname: [1]\nbudget: {outer: many}", "budget.x=1") == [
        "faulty.yaml: wights=sam.pth: unknown key; did you mean 'weights'?",
        "twin.yaml: name=[1]: must be text",
        "override budget.x=1: unknown key; known keys: inner, outer",
        "twin.yaml: budget.outer=many: must be a number",
        "faulty.yaml: grid.1.dato=b: unknown key; did you mean 'data'?",
        "faulty.yaml: grid.1.data: is required and has no default; set it",
    ]


def test_a_required_key_of_a_replaced_list_is_missing_in_the_file_that_replaces_it(folder):
    (line,) = faults(folder, "base: full.yaml\ngrid: [{seeds: [1]}]")
    assert line == "twin.yaml: grid.0.data: is required and has no default; set it"


def test_a_key_missing_in_both_files_is_missing_in_the_first(folder):
    write(folder, "weights: x", "bare.yaml")
    (line,) = faults(folder, "base: bare.yaml")
    assert line == "twin.yaml: name: is required and has no default; set it"


def test_a_base_has_no_base(folder):
    write(folder, "base: full.yaml\nname: middle", "middle.yaml")
    assert faults(folder, "base: middle.yaml") == [
        "twin.yaml: base=middle.yaml: has a base itself; name full.yaml"
    ]
    (line,) = faults(folder, "base: twin.yaml")
    assert line.startswith("twin.yaml: base=twin.yaml: has a base itself")


@pytest.mark.parametrize(
    "name", ["../full.yaml", "sub/full.yaml", "./full.yaml", "..", ".", "''", "null", "[full.yaml]"]
)
def test_a_base_is_the_plain_name_of_a_file(folder, name):
    (folder / "sub").mkdir()
    write(folder / "sub", FULL, "full.yaml")
    (line,) = faults(folder, f"base: {name}")
    assert line.startswith("twin.yaml: base=")
    assert line.endswith("must be the name of a file in the same folder, without a path")


def test_a_base_has_no_absolute_path(folder):
    (line,) = faults(folder, f"base: {folder / 'full.yaml'}")
    assert line.endswith("must be the name of a file in the same folder, without a path")


def test_a_base_is_no_link_out_of_its_folder(tmp_path):
    inside = tmp_path / "inside"
    inside.mkdir()
    write(tmp_path, FULL, "full.yaml")
    (inside / "full.yaml").symlink_to("../full.yaml")
    (line,) = faults(inside, "base: full.yaml")
    assert line.startswith("twin.yaml: base=full.yaml: is a link out of ")


def test_a_linked_folder_serves(folder, tmp_path_factory):
    write(folder, "base: full.yaml\nname: twin")
    link = tmp_path_factory.mktemp("checkout") / "configs"
    link.symlink_to(folder)
    assert load_config(Config, link / "twin.yaml").weights == "sam.pth"


def test_a_missing_or_broken_base_is_named(folder):
    (line,) = faults(folder, "base: nowhere.yaml")
    assert line.startswith("twin.yaml: base=nowhere.yaml: no such file in ")
    write(folder, "name: [", "broken.yaml")
    (line,) = faults(folder, "base: broken.yaml")
    assert line.startswith("broken.yaml: not readable as YAML: ")
    write(folder, "- 1", "list.yaml")
    assert faults(folder, "base: list.yaml") == ["list.yaml: must hold `key: value` pairs"]
