"""UnSeg: one promptable noise generator that makes any image unlearnable for segmentation."""

__version__ = "0.1.0"
