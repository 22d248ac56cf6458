"""What a file is that no model can be read from: the words for the error message."""

from __future__ import annotations

import stat
import zipfile
from pathlib import Path

_LEADING = (
    (b"\x93NUMPY", "a NumPy array (.npy): that is data, give it with --data"),
    (b"GGUF", "a GGUF file"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file, for example Keras (.h5)"),
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"GIF8", "a GIF image"),
    (b"BM", "a BMP image"),
    (b"II*\0", "a TIFF image"),
    (b"MM\0*", "a TIFF image"),
    (b"%PDF", "a PDF document"),
    (b"\x1f\x8b", "gzip-compressed: unpack it first"),
    (b"BZh", "bzip2-compressed: unpack it first"),
    (b"\xfd7zXZ\0", "xz-compressed: unpack it first"),
    (b"\x28\xb5\x2f\xfd", "zstd-compressed: unpack it first"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive: unpack it first"),
    (b"Rar!", "a RAR archive: unpack it first"),
    (b"\x7fELF", "a compiled program or library"),
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself: run git lfs pull"),
)
_INNER = (
    (0, b"RIFF", 8, b"WEBP", "a WebP image"),
    (4, b"TFL3", 4, b"TFL3", "a TensorFlow Lite model (.tflite)"),
    (4, b"ORTM", 4, b"ORTM", "an ONNX Runtime format model (.ort): give the .onnx that it was made from"),
    (4, b"ET", 4, b"ET", "an ExecuTorch program (.pte)"),
    (257, b"ustar", 257, b"ustar", "a tar archive: unpack it first"),
)
_SPECIAL = (
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a character device"),
    (stat.S_ISBLK, "a block device"),
)
_MEMBERS = (
    ("data/aotinductor/", "a package compiled by AOTInductor: give the program that it was made from"),
    ("model.weights.h5", "a Keras model (.keras)"),
    ("[Content_Types].xml", "an Office document"),
    ("META-INF/MANIFEST.MF", "a Java archive"),
    (".data/extern_modules", "a torch.package archive: save the module in it with torch.export.save"),
)


def special_file(mode: int) -> str | None:
    """The name of what is not a regular file, from its `st_mode`."""
    return next((name for holds, name in _SPECIAL if holds(mode)), None)


def directory(path: Path) -> str:
    """What a folder is."""
    if (path / "saved_model.pb").exists():
        return "a TensorFlow SavedModel folder"
    suffixes = (".onnx", ".pt2", ".pt", ".pth", ".safetensors")
    inside = sorted(child.name for child in path.iterdir() if child.suffix in suffixes)
    return f"a folder: name the file in it: {', '.join(inside[:3])}" if inside else "a folder"


def content(head: bytes) -> str:
    """What a file is that begins with these bytes (the first 512 or all)."""
    for magic, name in _LEADING:
        if head.startswith(magic):
            return name
    for at, magic, then, second, name in _INNER:
        if head.startswith(magic, at) and head.startswith(second, then):
            return name
    return _text(head) or "in no format that is known here"


def archive(names: list[str]) -> str:
    """What a zip archive with these members is."""
    if not names:
        return "an empty zip archive"
    if all(name.endswith(".npy") for name in names):
        return "a NumPy archive (.npz) of arrays: that is data, give it with --data"
    for part, name in _MEMBERS:
        if any(part in member for member in names):
            return name
    first = ", ".join(repr(name[:40]) for name in names[:2])
    return f"a zip archive with no model ({first}, {len(names)} in all)"


def compressed(archive_file: zipfile.ZipFile) -> int:
    """How many bytes the compressed members of an archive claim to have."""
    return sum(info.file_size for info in archive_file.infolist() if info.compress_type != zipfile.ZIP_STORED)


def _text(head: bytes) -> str | None:
    try:
        text = head.decode()
    except UnicodeDecodeError as error:
        if error.start < len(head) - 4:  # the last character may have been cut by reading only the beginning
            return None
        text = head[: error.start].decode()
    if not all(character.isprintable() or character in "\r\n\t\f\ufeff" for character in text):
        return None
    start = text.lstrip("\ufeff \r\n\t")
    if not start:
        return "blank text"
    if start[0] == "<":
        return "an HTML or XML text: if it was downloaded, the address gave a page and not the file"
    return "a JSON text" if start[0] in "{[" else "a text file"
