"""All benchmarks against peers, one after the other, and one table of the ratios.

python benchmarks/run.py [--quick] [--output FOLDER]       (what `make bench` runs; under an hour)
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from measurement import show

FOLDER = Path(__file__).parent
NAMES = ("tokenising", "scoring", "training")


def ratios(found: dict[str, Any]) -> list[dict[str, Any]]:
    """One line per peer and workload: how many times as long as holdtrue it takes."""
    lines = []
    for result in found["training"]:
        ours = result["systems"]["holdtrue"]
        for name, system in result["systems"].items():
            if name != "holdtrue":
                lines.append(
                    {
                        "what": f"training {result['workload']}",
                        "against": name,
                        "ratio": system["ratio"],
                        "of it sharing": result["sharing_factor"],
                        "of it all pairs": result["all_pairs_factor"],
                        "of it padding": system["padding"],
                        "holdtrue x floor": ours["times_floor"],
                        "memory ratio": _over(system["peak_memory"], ours["peak_memory"]),
                    }
                )
    for result in found["scoring"]:
        for precision in ("fp32", "bf16"):
            system = result["systems"][f"holdtrue {precision}"]
            lines.append(
                {
                    "what": f"scoring {result['workload']} {precision}",
                    "against": "pipeline, same precision",
                    "ratio": system["against_same_precision"],
                }
            )
    for result in found["tokenising"]:
        lines.append(
            {
                "what": f"tokenising, {result['template']} template",
                "against": "TRL",
                "ratio": result["systems"]["TRL"]["ratio"],
            }
        )
    return lines


def _over(theirs: float | None, ours: float | None) -> float | None:
    return theirs / ours if theirs and ours else None


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="toy sizes, no claim")
    parser.add_argument("--output", type=Path, default=Path("runs/bench"), help="folder for the raw numbers")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {}
    for name in NAMES:
        file = options.output / f"{name}.json"
        command = [sys.executable, str(FOLDER / f"{name}.py"), "--output", str(file)]
        subprocess.run(command + (["--quick"] if options.quick else []), check=True)
        found |= json.loads(file.read_text(encoding="utf-8"))
    lines = ratios(found)
    show("Peer's CPU seconds over holdtrue's", lines, list(lines[0]))


if __name__ == "__main__":
    main()
