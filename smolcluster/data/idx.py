"""IDX, the format MNIST was published in: a few bytes of shape, then the numbers. Plain or gzipped. No torch."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import numpy as np

from smolcluster.errors import ConfigError, Problem

# Zeros, the code of unsigned bytes, the number of dimensions.
BYTES_CODE = 8
GZIP = b"\x1f\x8b"
# More than MNIST's training pictures, so that a broken header cannot ask for all memory.
MOST_BYTES = 1 << 28


def read_idx(file: Path) -> np.ndarray:
    """The array in an IDX file of unsigned bytes. ConfigError when it is none, or is cut short."""
    try:
        data = file.read_bytes()
        if data[:2] == GZIP:
            with gzip.open(file) as packed:
                data = packed.read(MOST_BYTES)
    except (OSError, EOFError, zlib.error) as error:
        raise _broken(file, f"cannot be read: {error}") from error
    if len(data) < 4 or data[:2] != b"\0\0" or data[2] != BYTES_CODE or not data[3]:
        raise _broken(file, "is not an IDX file of unsigned bytes")
    start = 4 + 4 * data[3]
    if len(data) < start:
        raise _broken(file, "ends in the middle of its header")
    shape = tuple(int(size) for size in np.frombuffer(data[4:start], dtype=">u4"))
    if len(data) - start != math.prod(shape):
        whole = " x ".join(map(str, shape))
        raise _broken(file, f"says {whole}, but has {len(data) - start:,} bytes after its header")
    return np.frombuffer(data, dtype=np.uint8, offset=start).reshape(shape)


def _broken(file: Path, what: str) -> ConfigError:
    return ConfigError([Problem(str(file), 0, "data.path", what, "get the file again")])
