"""What is added to an image: UnSeg's noise, its controls, and the methods it is compared with.

No claim about the noise counts without the controls. A method is one class, which states every
fact about itself (`Method`), and one line in `METHODS`; everything else (regions, files, resuming,
sharding) is the same for all of them, and no other module names one.
"""

from __future__ import annotations

from unseg.protection.methods.autoregressive import Autoregressive
from unseg.protection.methods.base import Canvas, Method, MethodOptions, budget_outside, strips
from unseg.protection.methods.class_sign import ClassSign
from unseg.protection.methods.cuda import Convolutional
from unseg.protection.methods.jpeg_only import JpegOnly
from unseg.protection.methods.noise_key import NoiseKey
from unseg.protection.methods.signs import Checks, FixedSign, RandomSign, TiledSign
from unseg.protection.methods.synper import LinearSeparable
from unseg.protection.methods.unseg import Flat, Shuffled, UnSeg, full_size_noise

__all__ = [
    "METHODS",
    "Canvas",
    "Method",
    "MethodOptions",
    "NoiseKey",
    "UnSeg",
    "budget_outside",
    "full_size_noise",
    "strips",
    "untrained_control",
]

METHODS: dict[str, type[Method]] = {
    "unseg": UnSeg,
    "random_sign": RandomSign,
    "fixed_sign": FixedSign,
    "tiled_sign": TiledSign,
    "checks": Checks,
    "class_sign": ClassSign,
    "flat": Flat,
    "shuffled": Shuffled,
    "jpeg_only": JpegOnly,
    "synper": LinearSeparable,
    "ar": Autoregressive,
    "cuda": Convolutional,
}


def untrained_control(epsilon: float, epsilon_bg: float) -> Method:
    """What costs nothing: a random tile of cells of 1/32 of the side, green against magenta."""
    return TiledSign(
        MethodOptions(
            epsilon=epsilon, epsilon_bg=epsilon_bg, seed=0, grid=32, carrier="opponent, sharp"
        )
    )
