"""What a command imports: nothing that it does not need."""

from __future__ import annotations

import json
import subprocess
import sys

import cv2
import numpy as np

from unseg.cli import COMMANDS

TORCHS_COMPILER = {"torch._dynamo", "torch._inductor", "torch.fx.experimental.symbolic_shapes"}
NOT_FOR_PROTECTING = TORCHS_COMPILER | {
    "torchvision",
    "segment_anything",
    "timm",
    "sympy",
    "scipy",
    "tensorboard",
    "matplotlib",
    "pooch",
}


def imported(*call: str) -> set[str]:
    """Modules in memory after a call of `unseg`, in a process of its own."""
    code = (
        "import sys; from unseg.cli import main; code = main(sys.argv[1:]); "
        "print('\\n'.join(['', *sys.modules])); sys.exit(code)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, *call], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    return set(result.stdout.splitlines())


def test_protecting_a_picture_imports_torch_and_little_else(tmp_path):
    picture = tmp_path / "photo.png"
    cv2.imwrite(str(picture), np.full((24, 32, 3), 90, np.uint8))
    found = imported("protect", str(picture), "--output", str(tmp_path / "out"))
    assert "torch" in found
    assert found & NOT_FOR_PROTECTING == set()


def test_what_lists_and_helps_imports_no_torch():
    helps = (["weights", "list"], *([name, "--help"] for name in COMMANDS))
    code = (
        "import json, sys; from unseg.cli import main\n"
        "for call in json.loads(sys.argv[1]):\n"
        "    assert main(call) == 0 and 'torch' not in sys.modules, call"
    )
    subprocess.run([sys.executable, "-c", code, json.dumps(helps)], check=True, capture_output=True)


def test_a_wrong_configuration_is_reported_without_torch(tmp_path):
    code = (
        "import sys; from unseg.cli import main\n"
        "for name in ('train', 'generate', 'evaluate', 'pretrain-mae', 'pretrain-sam'):\n"
        "    assert main([name, sys.argv[1]]) == 2 and 'torch' not in sys.modules, name"
    )
    wrong = str(tmp_path / "nowhere.yaml")
    subprocess.run([sys.executable, "-c", code, wrong], check=True, capture_output=True)


def test_checking_a_folder_imports_no_torch(tmp_path):
    for name, level in (("clean", 90), ("out", 94)):
        (tmp_path / name).mkdir()
        picture = np.full((24, 32, 3), level, np.uint8)
        cv2.imwrite(str(tmp_path / name / "photo.png"), picture)
    call = ("check", str(tmp_path / "out"), "--against", str(tmp_path / "clean"))
    assert imported(*call) & (NOT_FOR_PROTECTING | {"torch"}) == set()
