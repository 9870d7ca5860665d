"""What is added to an image: UnSeg's noise, its controls, and the methods it is compared with.

No claim about the noise counts without the controls. A method is one class and one line in
`METHODS`; everything else (regions, files, resuming, sharding) is the same for all of them.
"""

from __future__ import annotations

from collections.abc import Callable

from unseg.protect.methods.autoregressive import Autoregressive
from unseg.protect.methods.base import Canvas, Method, MethodOptions, NoiseSource
from unseg.protect.methods.class_signs import ClassSign
from unseg.protect.methods.codec import JpegOnly
from unseg.protect.methods.convolutional import Convolutional
from unseg.protect.methods.error_minimising import ErrorMinimising
from unseg.protect.methods.generated import Flat, Shuffled, UnSeg, full_size_noise
from unseg.protect.methods.signs import FixedSign, RandomSign, TiledSign
from unseg.protect.methods.synper import LinearSeparable

__all__ = [
    "METHODS",
    "Canvas",
    "Method",
    "MethodOptions",
    "NoiseSource",
    "UnSeg",
    "build_method",
    "full_size_noise",
]

METHODS: dict[str, Callable[[MethodOptions], Method]] = {
    "unseg": UnSeg,
    "random_sign": RandomSign,
    "fixed_sign": FixedSign,
    "tiled_sign": TiledSign,
    "class_sign": ClassSign,
    "flat": Flat,
    "shuffled": Shuffled,
    "jpeg_only": JpegOnly,
    "synper": LinearSeparable,
    "ar": Autoregressive,
    "cuda": Convolutional,
    "em": ErrorMinimising,
}


def build_method(name: str, options: MethodOptions) -> Method:
    """The method of that name."""
    return METHODS[name](options)
