"""Twenty steps of the game give the stored losses: a refactoring changes no number.

After a change that is meant to change them:

    python tests/golden/test_loss_curve_golden.py > tests/golden/loss_curve.json
"""

import json
import sys
import tempfile
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from engine_cases import Loader, trainer  # noqa: E402

from unseg.engine.bilevel import BilevelSchedule, Game  # noqa: E402

STORED = Path(__file__).with_name("loss_curve.json")
STEPS = 20


def loss_curve(folder: Path) -> list[float]:
    """The mean loss of each of twenty steps: rounds of two surrogate and three generator steps."""
    run = trainer(
        folder,
        steps=STEPS,
        loader=Loader(10, 4),
        game=Game(num_points=64),
        schedule=BilevelSchedule("steps", period=5, surrogate=2),
        log_every=1,
        validate_epochs=None,
    )
    run.fit()
    run.metrics.close()
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [
        value
        for record in records
        for key, value in record.items()
        if key in ("train/generator/loss", "train/surrogate/loss")
    ]


@pytest.mark.golden
def test_twenty_steps_give_the_stored_losses(tmp_path):
    stored = json.loads(STORED.read_text())
    found = loss_curve(tmp_path)
    assert len(found) == STEPS
    # Another processor or library rounds otherwise, and Adam's first steps amplify that; an error
    # in the method shows from the first steps on.
    assert found[:4] == pytest.approx(stored[:4], rel=1e-4)
    assert found == pytest.approx(stored, rel=5e-3)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        print(json.dumps(loss_curve(Path(temporary)), indent=1))
