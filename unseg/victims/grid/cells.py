"""The cells of a grid: what each is, where it lies, and who works on it."""

from __future__ import annotations

import hashlib
import itertools
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from unseg.config.evaluate import CLEAN, DENSE_TASKS, EvaluateConfig, MethodConfig
from unseg.config.load import to_dict
from unseg.io.files import atomic_write, sha256_file
from unseg.protection.methods import METHODS
from unseg.utils.errors import UserError
from unseg.victims.data.defences import alternatives, learnt_defences, needs_generator
from unseg.victims.networks.weights import MODEL_FILES

INDEX = "index.json"
ASSETS = Path(__file__).parents[2] / "assets"


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One training run.

    Attributes:
        data: name of the data set.
        method: name of the protection method, or "clean".
        epsilon: budget inside the region in grey levels; 0 for clean.
        epsilon_bg: budget outside.
        victim: name of the victim.
        defence: written defence.
        clean_share: share of training pictures left clean.
        is_twin: trained on those clean pictures alone; what the protected part is measured against.
        seed: of the training.
    """

    data: str
    method: str = CLEAN
    epsilon: float = 0.0
    epsilon_bg: float = 0.0
    victim: str
    defence: str = "none"
    clean_share: float = 0.0
    is_twin: bool = False
    seed: int = 0

    @property
    def name(self) -> str:
        """Readable and fit for a folder."""
        method = self.method
        if method != CLEAN:
            method += f"@{self.epsilon:g}-{self.epsilon_bg:g}"
        parts = [self.data, method, self.victim, self.defence]
        if self.clean_share:
            parts.append(("part" if self.is_twin else "mix") + f"{100 * self.clean_share:g}")
        return "__".join([*parts, f"s{self.seed}"])


def expand(config: EvaluateConfig) -> list[Cell]:
    """Every cell of the grid once, in order; mixtures bring their clean-part twins."""
    cells: dict[Cell, None] = {}
    for block in config.grid:
        for data, method, victim, defence, share, seed in itertools.product(
            block.data,
            block.methods,
            block.victims,
            [one for written in block.defences for one in alternatives(written)],
            block.clean_shares,
            block.seeds,
        ):
            common: dict[str, Any] = {
                "data": data, "victim": victim, "defence": defence, "seed": seed
            }  # fmt: skip
            # Nobody regenerates the noise of pictures that have none.
            has_clean = not needs_generator(defence)
            if method == CLEAN or share == 1:
                if has_clean:
                    cells[Cell(**common)] = None
                continue
            for epsilon, epsilon_bg in _budgets(config.methods[method], block.budgets):
                cells[
                    Cell(
                        method=method,
                        epsilon=epsilon,
                        epsilon_bg=epsilon_bg,
                        clean_share=share,
                        **common,
                    )
                ] = None
            if share and has_clean:
                cells[Cell(clean_share=share, is_twin=True, **common)] = None
    return list(cells)


def _budgets(method: MethodConfig, written: tuple[str, ...]) -> list[tuple[float, float]]:
    if not has_budget(method):  # what it changes by is its own affair
        return [(0.0, 0.0)]
    if not written:
        return [(method.epsilon, method.epsilon_bg)]
    pairs = [text.split("/") for text in written]
    return [(float(inside), float(outside)) for inside, outside in pairs]


def has_budget(method: MethodConfig) -> bool:
    """Whether a method's change is bounded; of pictures protected before, the grid says by what."""
    facts = METHODS.get(method.method)
    return facts is None or facts.has_budget


def fingerprint(*parts: Any) -> str:
    """Eight hexadecimal digits that change with any of the plain values."""
    text = json.dumps(parts, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


class GridFolders:
    """Folders of a grid. Their names change with what they hold, so nothing stale is reused.

    Args:
        config: of the grid.
        is_recorded: take the folders of cells from the run directory's index, as a report must:
            a generator or weight file may have changed since the run.
    """

    def __init__(self, config: EvaluateConfig, *, is_recorded: bool = False) -> None:
        self.config = config
        self.run_dir = Path(config.run_dir)
        self.cache_dir = Path(config.cache_dir) if config.cache_dir else self.run_dir / "cache"
        self._files: dict[str, str] = {}
        self._index: dict[str, list[str]] = {}
        if is_recorded:
            self._index = read_json(self.run_dir / INDEX) or {}

    def record(self, cells: list[Cell]) -> None:
        """Write down where the cells and their protected pictures lie."""
        index = {
            cell.name: [
                self.cell(cell).name,
                "" if cell.method == CLEAN else self.protected(cell).name,
            ]
            for cell in cells
        }
        with atomic_write(self.run_dir / INDEX, "w") as file:
            json.dump(index, file, indent=1)

    def pictures(self, data: str) -> Path:
        """Clean pictures that had to be reduced or made before they are protected."""
        section = self.config.data[data]
        parts = (section.train, section.test, section.synthetic)
        source: list[Any] = [_content_of(part) for part in parts]
        if section.task not in DENSE_TASKS:
            source.append("objects")
        frame = (section.protect_size, section.protect_square)
        return self.cache_dir / "pictures" / f"{data}-{fingerprint(source, frame)}"

    def protected(self, cell: Cell) -> Path:
        """Protected pictures of a cell: one folder for (data, method, budget, generator)."""
        if cell.name in self._index:
            return self.cache_dir / "protected" / self._index[cell.name][1]
        method = self.config.methods[cell.method]
        facts = METHODS.get(method.method)  # none for pictures protected before
        has_grid = "noise.grid" in method.options
        needs_generator = facts is None or facts.needs_generator(has_grid=has_grid)
        generator = method.generator or ("default" if needs_generator else None)
        key = fingerprint(
            self.pictures(cell.data).name,
            {**to_dict(method), "epsilon": cell.epsilon, "epsilon_bg": cell.epsilon_bg, "title": 0},
            self._content(generator),
            # These protect two classes where a victim learns two.
            *([self.config.data[cell.data].task] if facts and facts.needs_classes else []),
        )
        name = f"{cell.data}__{cell.method}@{cell.epsilon:g}-{cell.epsilon_bg:g}-{key}"
        return self.cache_dir / "protected" / name

    def cell(self, cell: Cell) -> Path:
        """Folder of a cell."""
        if cell.name in self._index:
            return self.run_dir / "cells" / self._index[cell.name][0]
        section, victim = self.config.data[cell.data], self.config.victims[cell.victim]
        published = None if cell.method == CLEAN else self.protected(cell).name
        data = {**to_dict(section), "publishable": 0}
        data |= {"train": _content_of(section.train), "test": _content_of(section.test)}
        del data["public"]
        public = self._public(cell)
        weights = self._content(victim.weights_path)
        entry = {**to_dict(victim), "title": 0}
        # These keys came later: cells without them keep their folders.
        if not victim.train_only:
            del entry["train_only"]
        for name, plain in (
            ("brightness", 0), ("contrast", 0), ("batch_norm", "batch"), ("accumulate", 1)
        ):  # fmt: skip
            if entry["recipe"][name] == plain:
                del entry["recipe"][name]
        del entry["recipe"]["cache_gib"]  # changes no result
        key = fingerprint(data, entry, weights, published, asdict(cell), *public)
        return self.run_dir / "cells" / f"{cell.name}-{key}"

    def _public(self, cell: Cell) -> list[str]:
        """The pictures of which the trainer's pairs are made, where his defence needs any."""
        name = self.config.data[cell.data].public
        if name is None or not any(entry.needs_pairs for entry in learnt_defences(cell.defence)):
            return []
        return [self.protected(replace(cell, data=name)).name]

    def _content(self, path: str | None) -> str | None:
        """Checksum of a file, of a folder's weights or of a shipped generator; else the name."""
        if path is None:
            return None
        shipped = ASSETS / f"{path}.safetensors"
        for file in (Path(path), *(Path(path) / name for name in MODEL_FILES), shipped):
            if file.is_file():
                if path not in self._files:
                    self._files[path] = sha256_file(file)
                return self._files[path]
        return path


def _content_of(part: Any) -> Any:
    """A split as plain values, but for where its links may lead, which changes no picture."""
    plain = to_dict(part)
    return {k: v for k, v in plain.items() if k != "links_to"} if plain else plain


def read_json(path: Path) -> Any:
    """Content of a JSON file, or None where there is none.

    Raises:
        UserError: it is no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{path}: not readable as JSON ({error}); delete it and it is made again"
        ) from None
