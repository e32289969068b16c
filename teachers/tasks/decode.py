"""Image files into one uint8 tensor: decoded by threads, and kept beside the data so that it happens once."""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".webp")
_WAY = "fit-bilinear-1"  # goes into the cache's name: change it with the way files are decoded


class File(NamedTuple):
    """An image file: where it is, and what tells that it changed."""

    path: str
    bytes: int
    changed: int


def image_files(folder: Path) -> list[File]:
    """The images of a folder by name; hidden files and other kinds are passed over."""
    found = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.lower().endswith(SUFFIXES) and not entry.name.startswith(".") and entry.is_file():
                status = entry.stat()
                found.append(File(entry.path, status.st_size, status.st_mtime_ns))
    return sorted(found)


def decoded(
    files: Sequence[File],
    size: tuple[int, int],
    channels: int,
    root: Path,
    name: str,
    *,
    labels: bool = False,
) -> Tensor:
    """All `files`, which lie under `root`, as uint8 of shape (n, height, width, channels).

    With `labels` a pixel's value is a number that must not be blended: it is taken as it is, from the nearest pixel.

    What was decoded is kept as `<root>/.decoct-cache/<name>-...safetensors`, where that can be written; any
    change of a file's name, size or time makes it anew. Raises ValueError naming files that cannot be read.
    """
    shape = (len(files), *size, channels)
    prefix = f"{name}-{size[0]}x{size[1]}x{channels}-"
    cache = root / ".decoct-cache" / f"{prefix}{_digest(files, root)}.safetensors"
    pixels = recall(cache, shape)
    if pixels is None:
        pixels = decode([file.path for file in files], shape, labels=labels)
        keep(cache, prefix, pixels)
    return pixels


def decode(paths: Sequence[str], shape: tuple[int, int, int, int], *, labels: bool = False) -> Tensor:
    """Decode every file into one tensor of `shape` (n, height, width, channels 1 or 3), uint8.

    An image of another size is cut in the middle to the target's proportions, then scaled, `labels` to the nearest
    pixel. Raises ValueError
    naming the files that cannot be read, or where all of it would not fit into memory.
    """
    _, height, width, channels = shape
    needed = math.prod(shape)
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else needed
    if needed > memory:
        raise ValueError(
            f"{len(paths):,} images of {height}x{width}x{channels} take {needed / 2**30:.0f} GiB, "
            f"and this machine has {memory / 2**30:.0f}: use a smaller size or fewer images"
        )
    pixels = torch.empty(shape, dtype=torch.uint8)
    rows: Any = pixels.numpy()

    def fill(start: int) -> list[str]:
        problems = []
        for row in range(start, min(start + 256, len(paths))):
            try:
                rows[row] = _image(paths[row], height, width, channels, labels)
            except (
                Exception
            ) as problem:  # whatever a decoder makes of a damaged file; reported together below
                problems.append(f"{paths[row]} ({type(problem).__name__}: {problem})")
        return problems

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        problems = [line for lines in pool.map(fill, range(0, len(paths), 256)) for line in lines]
    if problems:
        raise ValueError(
            f"{len(problems):,} of {len(paths):,} images cannot be read; repair or remove: "
            + some(problems, 3)
        )
    return pixels


def _image(path: str, height: int, width: int, channels: int, labels: bool) -> Any:
    import numpy as np
    from PIL import Image, ImageOps

    with Image.open(path) as image:
        if labels and image.mode not in ("L", "P"):
            raise ValueError(f"labels are images of one channel or with a palette, not {image.mode}")
        # A palette's colours are for the eye: the numbers are what counts.
        plain = image.copy() if labels else image.convert("RGB" if channels == 3 else "L")
    if plain.size != (width, height):
        plain = ImageOps.fit(
            plain, (width, height), Image.Resampling.NEAREST if labels else Image.Resampling.BILINEAR
        )
    return np.asarray(plain).reshape(height, width, channels)


def _digest(files: Sequence[File], root: Path) -> str:
    start = len(str(root))
    lines = [f"{path[start:]} {size} {changed}" for path, size, changed in files]
    return hashlib.sha256("\n".join([_WAY, *lines]).encode("utf-8", "surrogateescape")).hexdigest()[:16]


def recall(cache: Path, shape: tuple[int, ...], dtype: torch.dtype = torch.uint8) -> Tensor | None:
    """What `keep` wrote; None where it is not there, damaged, or of another shape or type."""
    try:
        pixels = load_file(cache)["pixels"]
    except (OSError, SafetensorError, KeyError):
        return None  # not there or damaged: it is only a cache, and the files are asked again
    return pixels if pixels.shape == shape and pixels.dtype == dtype else None


def keep(cache: Path, prefix: str, pixels: Tensor) -> None:
    """Write the cache in one move and remove what it replaces; a read-only disk stays as it is."""
    half = None
    try:
        cache.parent.mkdir(exist_ok=True)
        handle, half = tempfile.mkstemp(dir=cache.parent, prefix=".half-")
        os.close(handle)
        save_file({"pixels": pixels}, half)
        os.chmod(half, 0o644)
        os.replace(half, cache)
        for old in cache.parent.glob(f"{prefix}*.safetensors"):
            if old != cache:
                old.unlink(missing_ok=True)
    except (OSError, SafetensorError):  # not writable, or full: decoding again next time is all it costs
        if half is not None:
            with contextlib.suppress(OSError):
                os.unlink(half)


def some(names: Iterable[str], most: int = 8) -> str:
    """The first names of a row that may be long."""
    row = list(names)
    return ", ".join(row[:most]) + (f" and {len(row) - most:,} more" if len(row) > most else "")
