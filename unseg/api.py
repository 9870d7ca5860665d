"""UnSeg from Python: the names that `import unseg` offers."""

from unseg.protect.array import Protected, load_generator, protect

__all__ = ["Protected", "load_generator", "protect"]
