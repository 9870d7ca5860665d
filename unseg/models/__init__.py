"""The two players of the bilevel game: the noise generator and the surrogate segmenter."""

from unseg.models.build import SIZES, SizeSpec, build_generator, build_surrogate
from unseg.models.generator import Generator
from unseg.models.surrogate import Surrogate

__all__ = ["SIZES", "Generator", "SizeSpec", "Surrogate", "build_generator", "build_surrogate"]
