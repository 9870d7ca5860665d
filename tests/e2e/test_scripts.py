"""A wrong call of a script is one line on standard error and exit code 2."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = sorted(p for p in (ROOT / "scripts").iterdir() if p.suffix in (".sh", ".py"))
CALLED = [p for p in SCRIPTS if p.name not in ("_venv.sh", "_launch.sh")]
GENERATE = [p.name for p in SCRIPTS if p.name.startswith("generate_")]
SLURM = {"SLURM_JOB_ID": "7", "SLURM_SUBMIT_DIR": str(ROOT)}

WRONG: dict[str, list[tuple[list[str], dict[str, str], str]]] = {
    "_generate.sh": [([], {}, "usage: bash scripts/_generate.sh")],
    "contact_sheet.py": [
        ([], {}, "usage: python scripts/contact_sheet.py OUT.png"),
        (["sheet.png", "nobody"], {}, "nobody"),
    ],
    "example_photographs.py": [([], {}, "usage: python scripts/example_photographs.py OUT")],
    "quickstart.sh": [(["fast"], {}, "without arguments; found: fast")],
    "quickstart_report.py": [
        ([], {}, "required: CONFIG"),
        (["nowhere.yaml"], {}, "nowhere.yaml: no such configuration file"),
        (["configs/train/quickstart.yaml", "output.dir=nowhere"], {}, "holds no metrics.jsonl"),
    ],
    "readme_picture.py": [([], {}, "usage: python scripts/readme_picture.py OUT.jpg")],
    "reproduce_lab.sh": [
        ([], {}, "usage: bash scripts/reproduce_lab.sh DIR"),
        (["nowhere"], {}, "nowhere: holds no folder Kvasir-SEG"),
    ],
    "run_eval.sh": [
        ([], {}, "usage: bash scripts/run_eval.sh CONFIG"),
        (["nowhere.yaml"], {"NPROC": "2"}, "nowhere.yaml: no such configuration file"),
        (["--unknown", "c.yaml"], {"NPROC": "2"}, "unrecognized arguments: --unknown"),
        (
            ["configs/evaluate/quickstart_debug.yaml", "victims.unet.arch=nobody"],
            {"NPROC": "2"},
            "victims.unet.arch=nobody: unknown",
        ),
        (["c.yaml"], {"NPROC": "abc"}, "NPROC=abc: must be a whole number above 0"),
        (
            ["configs/evaluate/quickstart_debug.yaml", "ranks_per_cell=2"],
            {"NPROC": "3"},
            "NPROC=3: must be a multiple of ranks_per_cell=2",
        ),
        (
            ["configs/evaluate/quickstart_debug.yaml", "ranks_per_cell=5"],
            {"NPROC": "5"},
            "victims.unet.recipe.batch_size=4: must be a multiple of 5",
        ),
    ],
    "run_train.sh": [
        ([], {}, "generator.weights=pretrained_checkpoint/sam_vit_b_01ec64.pth: no such file"),
        (["nowhere.yaml"], {}, "nowhere.yaml: no such configuration file"),
        (["configs/train/quickstart.yaml", "--unknown"], {}, "unrecognized arguments: --unknown"),
        ([], {"NPROC": "abc"}, "NPROC=abc: must be a whole number above 0"),
        ([], {"NPROC": "0"}, "NPROC=0: must be a whole number above 0"),
    ],
    "run_train_slurm.sh": [
        ([], {}, "not a Slurm job; start it with sbatch"),
        (["nowhere.yaml"], SLURM, "nowhere.yaml: no such configuration file"),
        ([], {**SLURM, "NPROC": "abc"}, "NPROC=abc: must be a whole number above 0"),
    ],
    "seen_by_imagenet.py": [
        (["seen.md"], {}, "usage: python scripts/seen_by_imagenet.py OUT.md CONFIG"),
        (["seen.md", "nowhere.yaml"], {}, "nowhere.yaml: no such configuration file"),
        (["seen.md", "configs/generate/folder.yaml", "data.root=nowhere"], {}, "nowhere"),
    ],
    "silent_bands.py": [
        (["bands"], {}, "usage: python scripts/silent_bands.py OUT CONFIG"),
        (["bands", "nowhere.yaml"], {}, "nowhere.yaml: no such configuration file"),
        (["bands", "configs/generate/folder.yaml", "data.root=nowhere"], {}, "nowhere"),
    ],
    "hidden_objects.py": [
        ([], {}, "usage: python scripts/hidden_objects.py CONFIG DATA VICTIM OUT"),
        (["nowhere.yaml", "humans", "unet", "out"], {}, "nowhere.yaml: no such configuration file"),
        (["configs/evaluate/sizes_debug.yaml", "nobody", "unet", "out"], {}, "data.nobody"),
    ],
    "make_pattern.py": [
        ([], {}, "usage: python scripts/make_pattern.py FILE"),
        (["nowhere/pattern.safetensors"], {}, "nowhere"),
    ],
    "without_looking.py": [
        ([], {}, "usage: python scripts/without_looking.py CONFIG TEST_LIST"),
        (["nowhere.yaml", "test.txt"], {}, "nowhere.yaml: no such configuration file"),
        (["configs/generate/folder.yaml", "test.txt", "data.root=nowhere"], {}, "nowhere"),
    ],
    "visibility.py": [
        ([], {}, "usage: python scripts/visibility.py OUT"),
        (["out", "nobody"], {}, "nobody"),
    ],
    "test.sh": [
        (["--unknown"], {}, "pytest does not understand: --unknown"),
        ([], {"UNSEG_TEST_PROCESSES": "abc"}, "UNSEG_TEST_PROCESSES=abc: must be a whole number"),
    ],
}
for name in GENERATE:
    WRONG[name] = [
        (["--unknown"], {"DATA_ROOT": "DATA"}, "unrecognized arguments: --unknown"),
        ([], {"NPROC": "abc"}, "NPROC=abc: must be a whole number above 0"),
    ]
WRONG["generate_medical.sh"] += [
    (["noise.epsilom=3"], {"DATA_ROOT": "DATA"}, "override noise.epsilom=3: unknown key"),
    (
        [],
        {"DATA_ROOT": "nowhere"},
        "none of the folders nowhere/LungCT",
    ),
]
# Several processes are started after a check in one, or the mistake would be torchrun's traceback.
WRONG["generate_coco.sh"].append(([], {"NPROC": "2", "DATA_ROOT": "nowhere"}, "nowhere"))


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """The code, without anybody's data and weights; `DATA` has the folders of some data sets."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("unseg", "configs", "scripts", "train.py", "generate.py", "pyproject.toml"):
        (folder / name).symlink_to(ROOT / name)
    (folder / "data").mkdir()
    (folder / ".venv").symlink_to(sys.prefix)
    for name in ("LungCT", "Kvasir-SEG", "WHU", "SSDD"):
        (folder / "DATA" / name).mkdir(parents=True)
    return folder


@dataclass
class Done:
    returncode: int
    stdout: str
    stderr: str


def run_shell(checkout: Path, path: Path, arguments: list[str], variables: dict[str, str]):
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "UNSEG_NO_INSTALL": "1",
        **variables,
        **({"SLURM_SUBMIT_DIR": str(checkout)} if "SLURM_SUBMIT_DIR" in variables else {}),
    }
    return subprocess.run(
        ["bash", f"scripts/{path.name}", *arguments],
        cwd=checkout, env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


@pytest.fixture
def run(checkout, monkeypatch, capfd):
    """Runs a script: a shell's in a process of its own, Python's here, where torch is loaded."""

    def call(path: Path, arguments: list[str], variables: dict[str, str]):
        if path.suffix == ".sh":
            return run_shell(checkout, path, arguments, variables)
        monkeypatch.chdir(checkout)
        monkeypatch.syspath_prepend(ROOT / "scripts")
        monkeypatch.setattr(sys, "argv", [f"scripts/{path.name}", *arguments])
        with pytest.raises(SystemExit) as stop:
            runpy.run_path(f"scripts/{path.name}", run_name="__main__")
        assert torch.is_grad_enabled(), "a script changes what the rest of this process does"
        return Done(stop.value.code, *capfd.readouterr())

    return call


def test_every_script_has_wrong_calls():
    assert {path.name for path in CALLED} == set(WRONG)


@pytest.mark.parametrize("path", [p for p in SCRIPTS if p.suffix == ".sh"], ids=lambda p: p.name)
def test_every_shell_script_is_well_formed(path):
    subprocess.run(["bash", "-n", str(path)], check=True)
    text = path.read_text(encoding="utf-8")
    assert max(map(len, text.splitlines())) <= 110
    for name in re.findall(r"configs/\w+/\w+\.yaml", text):
        assert (ROOT / name).is_file(), name


@pytest.mark.parametrize("name", GENERATE)
def test_a_generating_script_is_three_lines_that_name_configurations(name):
    lines = (ROOT / "scripts" / name).read_text(encoding="utf-8").splitlines()
    assert len(lines) == 3
    configs = re.search(r'_generate\.sh" "([\w ]+)" "\$@"$', lines[2])[1].split()
    for config in configs:
        text = (ROOT / f"configs/generate/{config}.yaml").read_text(encoding="utf-8")
        assert re.search(r"^  root: data(/\S+)?$", text, re.MULTILINE)


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.parametrize("path", CALLED, ids=lambda p: p.name)
def test_a_wrong_call_is_one_line_and_exit_code_2(path, run):
    for arguments, variables, expected in WRONG[path.name]:
        done = run(path, arguments, variables)
        shown = f"{variables} {path.name} {arguments}:\n{done.stdout}\n{done.stderr}"
        assert done.returncode == 2, shown
        assert len(done.stderr.splitlines()) == 1, shown
        assert expected in done.stderr, shown
        assert done.stdout == "", shown
