"""Say what the quickstart's training reached: the gap, one picture, what to run next.

python scripts/quickstart_report.py configs/train/quickstart.yaml [key=value ...]
"""

import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from unseg.commands._run import config_command, user_errors
from unseg.config.train import TrainConfig
from unseg.utils.errors import UserError

WEAK = 0.05
"""A gap below this could be luck on so few scenes."""


@user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Read the run directory that a training call wrote and print a summary."""
    config = config_command(argv, TrainConfig, prog="quickstart_report.py", doc=__doc__)
    if config is None:
        return 0
    run_dir = Path(config.output.dir) / config.name
    if not (run_dir / "metrics.jsonl").is_file():
        raise UserError(f"{run_dir}: holds no metrics.jsonl; train with this configuration first")
    lines = (run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    measured = [record for line in lines if "gap" in (record := json.loads(line))]
    last = measured[-1]
    budget = f"eps{config.validate.epsilon:g}_{config.validate.epsilon_bg:g}"
    clean, protected = (last[f"val/synthetic/{view}/iou"] for view in ("clean", budget))
    print(f"\nsurrogate after {last['step']} steps, on scenes it has not seen:")
    print(f"  IoU on clean scenes      {clean:.3f}")
    print(f"  IoU on protected scenes  {protected:.3f}")
    print(f"  unlearnability gap       {last['gap']:+.3f}")
    if last["gap"] < WEAK:
        print("  This gap is weak: so short a run has not taught the generator to lead yet.")
    else:
        print("  The surrogate leans on the noise: it finds objects better where the noise is.")
    pictures = sorted((run_dir / "images").glob("step_*.png"))
    if pictures:
        picture = run_dir / "quickstart.png"
        shutil.copyfile(pictures[-1], picture)
        print(f"picture: {picture}")
        print("  clean | protected | noise, amplified | found on clean | found on protected")
    print(f"generator: {run_dir / f'generator_{config.name}.safetensors'}")
    print("next: unseg train configs/train/lab_cpu.yaml data.root=DIR   (real pairs; see there)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
