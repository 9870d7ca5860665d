"""The shape of the project: imports point down, files stay short."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULES = sorted((ROOT / "unseg").rglob("*.py"))
PYTHON_FILES = [*MODULES, *sorted(ROOT.glob("*.py")), *sorted((ROOT / "tests").rglob("*.py"))]
OWN_NAMES = {path.stem for path in (ROOT / "unseg").iterdir()}
MAX_LINES = 400

PURE = ("types", "noise", "losses", "metrics", "panoptic_quality", "degrade")
BASE = ("config", "io", "utils", *PURE)
VICTIM_ROOMS = ("data", "networks", "training", "grid", "report")
MAY_IMPORT: dict[str, tuple[str, ...]] = {
    "config": ("config", "utils.errors"),
    "utils": ("utils",),
    "io": ("io", "utils"),
    **dict.fromkeys(PURE, PURE),
    "data": (*BASE, "data"),
    "models": (*BASE, "models"),
    "engine": (*BASE, "data", "models", "engine"),
    "protection": (*BASE, "data", "models", "protection"),
    "protection.reading": (*BASE, "data", "models", "protection.reading"),
    "protection.methods": (*BASE, "models", "protection.methods"),
    "page": (*BASE, "data", "models", "page", "protection"),
    # The package's front door and the entry points see everything; nothing below sees them.
    "": ("commands", "cli", *BASE, "data", "models", "engine", "protection", "victims", "page"),
}
MAY_IMPORT |= dict.fromkeys(("cli", "commands"), MAY_IMPORT[""])
for number, room in enumerate(VICTIM_ROOMS, 1):
    below = tuple(f"victims.{name}" for name in VICTIM_ROOMS[:number])
    MAY_IMPORT[f"victims.{room}"] = (*BASE, "data", "models", *below)
MAY_IMPORT["victims.grid"] += ("protection",)
"""Part of the package -> the parts that it may import; the longest matching name decides."""

PURE_LIBRARIES = {"torch", "torchvision", "numpy"}

CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))


def part_of(path: Path) -> str:
    """Dotted name of a module below `unseg`, "" for the package itself."""
    parts = path.relative_to(ROOT / "unseg").with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def imports(path: Path) -> set[str]:
    """Full names of everything a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.relative_to(ROOT)}: imports are absolute"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def is_below(name: str, parts: tuple[str, ...]) -> bool:
    return any(name == part or name.startswith(part + ".") for part in parts)


def test_imports_point_down_only():
    wrong = []
    for path in MODULES:
        part = part_of(path)
        rule = max((r for r in MAY_IMPORT if is_below(part, (r,)) or not r), key=len)
        for name in sorted(imports(path)):
            inner = name.removeprefix("unseg.")
            # Other libraries, and names of the package itself such as `__version__`, are free.
            if inner == name or inner.split(".")[0] not in OWN_NAMES:
                continue
            if not is_below(inner, MAY_IMPORT[rule]):
                wrong.append(f"unseg.{part} imports {name}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("part", PURE)
def test_the_equations_import_tensors_only(part):
    names = {name.split(".")[0] for name in imports(ROOT / "unseg" / f"{part}.py")}
    allowed = PURE_LIBRARIES | set(sys.stdlib_module_names) - {"logging", "pathlib", "os"}
    assert names - allowed - {"unseg"} == set()


def test_nothing_of_the_package_imports_an_entry_file():
    entries = {path.stem for path in ROOT.glob("*.py")}
    for path in MODULES:
        assert not {name.split(".")[0] for name in imports(path)} & entries, path


@pytest.mark.slow
def test_importing_every_module_has_no_effect():
    code = """
        import importlib, logging, os, pkgutil, sys
        import cv2, omegaconf, PIL.Image, timm, torch, torchvision  # these do change it
        before = dict(os.environ)
        import unseg
        for module in pkgutil.walk_packages(unseg.__path__, "unseg."):
            importlib.import_module(module.name)
        heavy = {"transformers", "segmentation_models_pytorch", "gradio", "matplotlib"}
        assert not heavy & set(sys.modules), heavy & set(sys.modules)
        assert dict(os.environ) == before, set(os.environ.items()) ^ set(before.items())
        assert not logging.getLogger("unseg").handlers, "logging was set up"
        assert not sys.modules["torch"].cuda.is_initialized(), "CUDA was initialised"
    """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert result.stdout == ""


def test_files_stay_short_enough_to_read():
    lengths = {p.relative_to(ROOT): len(p.read_text("utf-8").splitlines()) for p in PYTHON_FILES}
    assert {str(path): n for path, n in lengths.items() if n > MAX_LINES} == {}


def test_no_file_knows_a_machine():
    machine = re.compile(r"(?<![\w.])/(?:home|root|tmp|work|mnt|Users)/[A-Za-z]")
    folders = ("unseg", "configs", "scripts", "tests", "docs", "benchmarks", ".ci")
    files = [p for f in folders for p in (ROOT / f).rglob("*") if p.is_file()]
    files += [p for p in ROOT.iterdir() if p.suffix in (".py", ".md", ".toml", ".cff", ".yaml")]
    texts = [p for p in files if p.suffix in (".py", ".md", ".toml", ".cff", ".yaml", ".sh", "")]
    wrong = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in texts
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if machine.search(line)
    ]
    assert not wrong, "\n".join(wrong)


def test_no_two_public_classes_share_a_name():
    where: dict[str, list[str]] = {}
    for path in MODULES:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                where.setdefault(node.name, []).append(part_of(path))
    assert {name: parts for name, parts in where.items() if len(parts) > 1} == {}


def test_no_two_source_files_share_ten_lines():
    seen: dict[tuple[str, ...], Path] = {}
    shared = set()
    for path in MODULES:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
        lines = [line for line in lines if line]
        for first in range(len(lines) - 9):
            run = tuple(lines[first : first + 10])
            other = seen.setdefault(run, path)
            if other != path:
                shared.add((part_of(other), part_of(path), run[0]))
    assert not shared


def test_citations_of_the_method_name_a_heading_of_it():
    """A citation is `docs/METHOD.md, "4. Training"`; lines may break inside of it."""
    method = (ROOT / "docs" / "METHOD.md").read_text(encoding="utf-8")
    headings = set(re.findall(r"^#+ (.+)$", method, re.MULTILINE))
    cited, wrong = 0, []
    for path in [*PYTHON_FILES, *CONFIGS]:
        text = path.read_text(encoding="utf-8")
        for heading in re.findall(r'METHOD\.md,[\s#]+"([^"]+)"', text):
            cited += 1
            if " ".join(heading.replace("#", " ").split()) not in headings:
                wrong.append(f"{path.relative_to(ROOT)}: {heading}")
    assert cited > 20
    assert not wrong, "\n".join(wrong)
