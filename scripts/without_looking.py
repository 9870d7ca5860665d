"""What does a victim know of a data set without looking at a picture?

python scripts/without_looking.py CONFIG TEST_LIST [key=value ...]

CONFIG is a file of configs/generate/ with its overrides, its list the training pictures. The mean
of their regions, stretched to a square, is cut where that gives the best IoU on the training
pictures, and what lies above is said to be the object in every test picture. Noise cannot take
this knowledge away, so a victim's score is to be read beside it. Printed: IoU in percent over all
pixels of the test list.
"""

from __future__ import annotations

import sys
from dataclasses import replace

import cv2
import numpy as np

from unseg.config.generate import GenerateConfig
from unseg.config.load import load_config
from unseg.data.annotations import build_source
from unseg.protection.reading.region import region_from_annotation
from unseg.utils.errors import UserError

SIDE = 128


def regions(config: GenerateConfig) -> np.ndarray:
    """(N, SIDE, SIDE) bool: the regions of a data set, each stretched to a square."""
    source = build_source(config.data)
    squares = []
    for item in source.items():
        region = region_from_annotation(source.read(item)).astype(np.float32)
        squares.append(cv2.resize(region, (SIDE, SIDE), interpolation=cv2.INTER_AREA) > 0.5)
    return np.array(squares)


def iou(truth: np.ndarray, guess: np.ndarray) -> float:
    """Intersection over union of all pixels together; `guess` is the same for every picture."""
    return float((truth & guess).sum() / max(1, (truth | guess).sum()))


def blind_iou(train: np.ndarray, test: np.ndarray) -> float:
    """IoU on `test` of the best guess from `train`, (N, SIDE, SIDE) bool each."""
    mean = train.mean(0)
    cut = max(np.arange(0.05, 1, 0.05), key=lambda level: iou(train, mean > level))
    return iou(test, mean > cut)


def main(argv: list[str]) -> int:
    """Print the score."""
    if len(argv) < 2:
        usage = "usage: python scripts/without_looking.py CONFIG TEST_LIST [key=value ...]"
        print(usage, file=sys.stderr)
        return 2
    config_path, test_list, *overrides = argv
    try:
        config = load_config(GenerateConfig, config_path, overrides)
        train = regions(config)
        test = regions(replace(config, data=replace(config.data, list_file=test_list)))
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{100 * blind_iou(train, test):.1f} ({len(train)} training, {len(test)} test pictures)")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
