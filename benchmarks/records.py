"""Results that stay: a file of JSON lines that several processes add to, and what each line says of its origin."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path


def lines(path: Path) -> list[str]:
    """The lines of a file, none if there is no file; one that was cut off when a run was killed is left out."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    return [line for line in text.splitlines(keepends=True) if line.endswith("}\n")]


def append(path: Path, line: str) -> None:
    """One line more, by one call, so that processes can share the file."""
    cut_off = path.exists() and path.read_bytes()[-1:] not in {b"", b"\n"}
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write("\n" * cut_off + line + "\n")


def versions(names: Sequence[str] = ("ptq-toolkit", "torch", "numpy")) -> dict[str, str]:
    """Of what computes; the commit too where this is a checkout, as recipes change from one to the next."""
    found = {name: metadata.version(name) for name in names}
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        commit = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:  # there is no git
        commit = ""
    return found | {"python": platform.python_version()} | ({"commit": commit} if commit else {})
