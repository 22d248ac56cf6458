"""A folder of images as batches: resized, cropped, normalised."""

from __future__ import annotations

import hashlib
import logging
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from calibration.batch import Item
from calibration.contract import LABELS
from calibration.tables import ONLY
from ptq.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

# what it tells to nobody would go to the standard error; what it cannot read is an error
logging.getLogger("PIL").addHandler(logging.NullHandler())

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
"""Whatever a file is called: others have readers that run programs, Ghostscript for one."""

_MOST_PIXELS = 1 << 27
"""Of an image that was resized; one that is long and thin would take any memory."""


@dataclass(frozen=True)
class ImageOptions:
    """What a network wants of an image: side length in pixels, mean and deviation per channel of pixels in 0..1."""

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if self.size < 1:
            raise DataError(f"--image-size {self.size} is not a number of pixels; give for example 224")
        if len(self.mean) != 3 or len(self.std) != 3:
            raise DataError("--image-mean and --image-std take three numbers, for red, green and blue; give three")
        if any(not value > 0 for value in self.std):
            raise DataError(f"--image-std {self.std} must be above 0; give for example 0.229,0.224,0.225")


def image_batches(folder: Path, options: ImageOptions, title: str) -> Iterator[Item]:
    """One batch `(1, 3, size, size)` per image, in the order of their paths; each is decoded when it is read.

    When all images lie in subfolders, the labels are the places of those among the sorted subfolders.
    """
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not files:
        raise DataError(f"{title} holds no images ({', '.join(sorted(SUFFIXES))}); give another folder")
    classes = sorted({path.relative_to(folder).parts[0] for path in files if path.parent != folder})
    labelled = all(path.parent != folder for path in files)
    for path in files:
        label = classes.index(path.relative_to(folder).parts[0]) if labelled else None
        yield Item(1, partial(_batch, path, options, label), partial(_stamp, path, options, label))


def _batch(path: Path, options: ImageOptions, label: int | None) -> Mapping[str, np.ndarray]:
    image = {ONLY: _load(path, options)[None]}
    return image if label is None else {**image, LABELS: np.array([label])}


def _stamp(path: Path, options: ImageOptions, label: int | None) -> bytes:
    """What an image is decoded from, and how."""
    import PIL

    try:
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise _unreadable(path, error) from error
    return f"{content} {label} {options} {PIL.__version__}".encode()


def _unreadable(path: Path, error: Exception) -> DataError:
    return DataError(f"the image {path} cannot be read: {' '.join(str(error).split())}; remove it")


def _load(path: Path, options: ImageOptions) -> np.ndarray:
    from PIL import Image, ImageOps

    if not path.is_file():
        raise DataError(f"the image {path} is no file; remove it")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what is odd and can be read
            with Image.open(path, formats=_FORMATS) as opened:
                image = _in_colour(ImageOps.exif_transpose(opened))
    except Exception as error:  # the readers of formats raise any, by what is damaged
        raise _unreadable(path, error) from error
    scale = options.size / min(image.size)
    width, height = (max(options.size, round(side * scale)) for side in image.size)
    if width * height > _MOST_PIXELS:
        shown = "{} x {}".format(*image.size)
        raise DataError(
            f"the image {path} of {shown} pixels takes {width} x {height} at --image-size {options.size}; crop it, or "
            f"give a smaller size"
        )
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - options.size) // 2, (height - options.size) // 2
    image = image.crop((left, top, left + options.size, top + options.size))
    pixels = np.asarray(image, np.float32) / np.float32(255)
    normal = (pixels - np.array(options.mean, np.float32)) / np.array(options.std, np.float32)
    return np.ascontiguousarray(normal.transpose(2, 0, 1))


def _in_colour(image: Image) -> Image:
    """An image in 8 bits of red, green and blue.

    Raises:
        ValueError: it has pixels of 32 bits, of which nothing says what is white.

    """
    from PIL.Image import fromarray

    if image.mode.startswith("I;16"):  # which Pillow would clip
        return fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in {"I", "F"}:
        raise ValueError("its pixels have 32 bits, and it does not say what is white")
    return image.convert("RGB")
