"""A secret that noise depends on, so that whoever has the program cannot compute it: `NoiseKey`."""

from __future__ import annotations

import hashlib
import hmac
import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from unseg.io.files import check_regular
from unseg.utils.errors import UserError

MIN_BYTES = 16
"""Shorter secrets can be guessed, and each guess can be checked by the fingerprint."""
MAX_BYTES = 4096
_ENVIRONMENT = "env:"


class NoiseKey:
    """Signs for each picture that only the owner of a secret can compute.

    Everything derives from HMAC-SHA256(secret, purpose and content). A torch generator would not
    do: on a CPU it takes 32 bits of its seed, and four thousand million can be tried.

    Args:
        secret: at least `MIN_BYTES`, as random as the owner can make them.
    """

    def __init__(self, secret: bytes) -> None:
        assert len(secret) >= MIN_BYTES
        self._secret = secret

    @classmethod
    def of(cls, secret: bytes, *, name: str = "noise.key") -> NoiseKey:
        """The key that a secret makes. White space about it does not count.

        Args:
            secret: at least `MIN_BYTES`.
            name: what the user calls it, for the message.

        Raises:
            UserError: it is too short; the message does not show it.
        """
        secret = secret.strip()
        if len(secret) < MIN_BYTES:
            raise UserError(
                f"{name}: the secret has {len(secret)} bytes, at least {MIN_BYTES} are needed; "
                "make one with openssl rand -hex 32"
            )
        return cls(secret)

    @classmethod
    def read(cls, place: str, *, name: str = "noise.key") -> NoiseKey:
        """The key that a file holds, or an environment variable.

        Args:
            place: path of a file, or `env:NAME`.
            name: what the user calls it, for the message.

        Raises:
            UserError: nothing is there, or too little; the message does not show the secret.
        """
        if place.startswith(_ENVIRONMENT):
            found = os.environ.get(place.removeprefix(_ENVIRONMENT))
            if found is None:
                raise UserError(f"{name}={place}: there is no such environment variable; set it")
            return cls.of(os.fsencode(found), name=name)
        return cls.of(_content(place, name), name=name)

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that tell keys apart and do not lead back to a random secret."""
        return self._derive(b"fingerprint").hex()[:16]

    def picture(self, pixels: np.ndarray) -> str:
        """What stands for a picture: it depends on the secret and on every pixel, not on a name.

        A renamed picture keeps its noise, so that two published copies tell nothing about it; two
        pictures of one name share none, so that their mean tells nothing either.

        Args:
            pixels: (H, W, C), any integer type.
        """
        digest = hashlib.sha256(f"{pixels.shape} {pixels.dtype.str} ".encode())
        digest.update(np.ascontiguousarray(pixels).data)
        return self._derive(b"picture", digest.digest()).hex()

    @staticmethod
    def signs(picture: str, side: int, *, cells: int = 1) -> Tensor:
        """(1, 1, side, side) of -1 and 1, drawn for each square of `cells` x `cells`.

        Signs of larger squares, within which a pattern stays, are learnt from other pictures and
        removed (docs/EXPERIMENTS.md, "Noise under a key").

        Args:
            picture: of `picture`; as secret as the key.
            side: of the noise grid.
            cells: side of the largest cells of a carrier, in cells of the grid.
        """
        count = -(-side // cells)
        stream = hashlib.shake_256(f"signs {picture}".encode()).digest(-(-(count**2) // 8))
        bits = np.unpackbits(np.frombuffer(stream, np.uint8))[: count**2]
        signs = torch.from_numpy(bits.astype(np.float32) * 2 - 1).view(1, 1, count, count)
        return signs.repeat_interleave(cells, -1).repeat_interleave(cells, -2)[..., :side, :side]

    def __repr__(self) -> str:
        return f"NoiseKey({self.fingerprint})"

    def _derive(self, purpose: bytes, content: bytes = b"") -> bytes:
        return hmac.digest(self._secret, b"unseg noise key, " + purpose + b": " + content, "sha256")


def _content(place: str, name: str) -> bytes:
    """Of a small file. Messages leave out what stands in its place: it may be the secret itself."""
    try:
        path = Path(place)
        check_regular(path, max_bytes=MAX_BYTES)
        return path.read_bytes()
    except (OSError, UserError):
        raise UserError(
            f"{name}: names no file of at most {MAX_BYTES} bytes that can be read; write a "
            f"secret to a file (openssl rand -hex 32) and name that, or {_ENVIRONMENT}NAME, never "
            "the secret itself"
        ) from None
