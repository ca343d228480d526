"""What README's first command comes to: plain defaults on dataset/, each seed in a fresh process.

    python benchmarks/first_run.py --seeds 0 1 2

The program is started as a user starts it, with results in a temporary folder. A row per seed is appended
to a CSV: miou and IoU per class are those of the model that is kept, `miou_of_last_epoch` chooses no
epoch; `seconds` are those of training and validation, `all_seconds` those of the whole command, with its
checks and pictures.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from study import append, command, provenance

import landcover_segmentation as lc

FIRST = [sys.executable, str(ROOT / "landcover_segmentation.py")]


def run_first(seed: int) -> dict:
    """Runs the first command with a seed; returns what its metrics.json says, as columns."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        subprocess.run([*FIRST, "--seed", str(seed), "--output-dir", folder], cwd=ROOT, check=True)
        seconds = time.perf_counter() - start
        metrics = json.loads((Path(folder) / "metrics.json").read_text(encoding="utf-8"))
    config = metrics["config"]
    iou = metrics["iou_per_class"].items()
    return {
        "seed": seed,
        "miou": round(metrics["miou"], 4),
        "miou_of_last_epoch": round(metrics["miou_of_last_epoch"], 4),
        **{f"iou_{name}": "" if value is None else round(value, 4) for name, value in iou},
        "seconds": round(metrics["seconds"], 1),
        "all_seconds": round(seconds, 1),
        "epochs": config["epochs"],
        "network": f"{config['architecture']} {config['backbone']}",
        "precision": metrics["precision"],
        "weights": metrics["starting_weights"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--csv", type=Path, default=ROOT / "benchmarks/results/first_run.csv")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    args = parser.parse_args()
    for seed in args.seeds:
        row, device = run_first(seed), lc.pick_device("auto")
        append(args.csv, row | provenance(command("first_run.py", seeds=seed), device))
        print(f"seed {seed}: mIoU {row['miou']:.3f} in {row['seconds']:.0f} s of training", flush=True)


if __name__ == "__main__":
    main()
