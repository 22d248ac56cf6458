"""Try damaged files on the command line: `PYTHONPATH=tests python tests/fuzz/campaign.py models --count 2000`.

Every run has to end in success, with a file that loads, or in one line and the exit code 1 or 2, with no file at all.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from isolated import Outcome, prepare, run
from mutants import TRIALS, Trial


def tried(kind: str, number: int, folder: Path) -> tuple[Outcome, str | None]:
    """What one damaged file comes to, and what is wrong with that."""
    folder.mkdir()
    trial = TRIALS[kind](number, folder)
    before = _names(folder)
    outcome = run(trial.arguments, folder, trial.written)
    return outcome, outcome.fault(reported=trial.reports) or _left(trial, outcome, _names(folder) - before)


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def _left(trial: Trial, outcome: Outcome, left: set[str]) -> str | None:
    """What is wrong with the files that a run leaves."""
    wanted = {trial.written.name} if trial.written is not None and not outcome.code else set()
    return None if left == wanted else f"it leaves {sorted(left)}, and should {sorted(wanted)}"


def campaign(kind: str, numbers: range, keep: Path | None = None) -> dict[str, object]:
    """Try files; how many came to what, in how many seconds, and the faults by the number of the file."""
    start, codes, faults = time.perf_counter(), Counter[int](), dict[int, str]()
    slowest = (0.0, -1)
    for number in numbers:
        with tempfile.TemporaryDirectory(prefix="ptq-fuzz-") as scratch:
            folder, began = Path(scratch) / "trial", time.perf_counter()
            outcome, fault = tried(kind, number, folder)
            slowest = max(slowest, (time.perf_counter() - began, number))
            codes[outcome.code] += 1
            if fault is not None:
                faults[number] = fault
                if keep is not None:
                    shutil.copytree(folder, keep / f"{kind}-{number}", dirs_exist_ok=True)
    seconds = time.perf_counter() - start
    return {
        "kind": kind,
        "files": len(numbers),
        "codes": {str(code): count for code, count in sorted(codes.items())},
        "seconds": round(seconds, 1),
        "slowest": {"seconds": round(slowest[0], 1), "number": slowest[1]},
        "faults": faults,
    }


def main() -> None:
    """Try the files that are asked for, and print what they came to as JSON; the exit code tells of faults."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=TRIALS)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--step", type=int, default=1)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--keep", type=Path, help="a folder for the files with faults")
    options = parser.parse_args()
    prepare()
    last = options.first + options.step * options.count
    found = campaign(options.kind, range(options.first, last, options.step), options.keep)
    json.dump(found, sys.stdout, indent=1)
    sys.stdout.write("\n")
    sys.exit(1 if found["faults"] else 0)


if __name__ == "__main__":
    main()
