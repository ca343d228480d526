"""Writes the tables of README.md and technical_report.md from the CSVs in benchmarks/results/.

    python benchmarks/report.py            write them between <!-- table:NAME --> and <!-- end -->
    python benchmarks/report.py --check    say which differ, exit 1 if any does

A table is a function below. Figures are the mean over seeds and, after ±, their standard deviation.
"""

from __future__ import annotations

import argparse
import csv
import re
import statistics
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))
DOCUMENTS = ("README.md", "technical_report.md")


def rows(name: str, **wanted: object) -> list[dict]:
    """The rows of a CSV in benchmarks/results/ in which each column has the wanted value."""
    path = ROOT / "benchmarks/results" / name
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [row for row in csv.DictReader(lines) if all(row[key] == str(value) for key, value in wanted.items())]


def study_rows(split: str, epochs: int, every: int) -> list[dict]:
    """The study's cells of one set-up, and the forests of the same tiles, which train for no epochs."""
    found = rows("study.csv", split=split, size=128, every=every)
    return [row for row in found if row["epochs"] in ("0", str(epochs))]


def spread(values: list[float], digits: int = 3) -> str:
    """Mean ± standard deviation, or the one value there is."""
    if not values:
        return "-"
    deviation = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{deviation}"


def column(found: list[dict], key: str = "miou") -> list[float]:
    return [float(row[key]) for row in found]


def markdown(header: list[str], body: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in (header, ["---"] * len(header), *body))


def paired(found: list[dict], base: list[dict], key: str, how) -> list[float]:
    """how(value, value of the base) for every seed that both have."""
    theirs = {row["seed"]: float(row[key]) for row in base}
    return [how(float(row[key]), theirs[row["seed"]]) for row in found if row["seed"] in theirs]


def main_table(found: list[dict]) -> str:
    """The comparison of methods at each budget of points."""
    names = {
        "forest": "random forest on 19 features",
        "plain": "plain partial cross-entropy",
        "default": "**default of this program**",
        "dense": "dense masks, plain cross-entropy",
        "dense+teacher+cut_mix": "dense masks, mean teacher and CutMix",
    }
    plain = {
        row["points"]: [r for r in found if r["variant"] == "plain" and r["points"] == row["points"]] for row in found
    }
    dense = [row for row in found if row["variant"] == "dense"]
    body = []
    for name, title in names.items():
        for points in sorted(
            {row["points"] for row in found if row["variant"] == name}, key=lambda p: int(p) if p != "all" else 10**9
        ):
            own = [row for row in found if row["variant"] == name and row["points"] == points]
            gap = "-"
            if name == "default" and dense and plain[points]:
                base, top = statistics.mean(column(plain[points])), statistics.mean(column(dense))
                gap = f"{(statistics.mean(column(own)) - base) / (top - base):.0%}" if top > base else "no gap"
            time = spread(paired(own, plain.get(points) or plain.get("20", []), "seconds", lambda a, b: a / b), 2)
            share = f"{statistics.mean(column(own)) / statistics.mean(column(dense)):.1%}" if dense else "-"
            body.append([title, points, str(len(own)), spread(column(own)), share, gap, time])
    return markdown(
        ["method", "points per tile", "seeds", "mIoU", "of dense", "gap closed", "training time, plain = 1"], body
    )


def parts_table(epochs: int) -> str:
    """Every variant on the split on which settings are chosen, against `plain` or `labels` on the same seeds."""
    found = [row for row in study_rows("choose", epochs, every=2) if row["points"] in ("20", "all")]
    by_name = {name: [row for row in found if row["variant"] == name] for name in study_order(found)}
    body = []
    for name, own in by_name.items():
        base = "labels" if name.startswith("labels") and name != "labels" else "plain"
        gain = paired(own, by_name.get(base, []), "miou", lambda a, b: a - b)
        time = paired(own, by_name.get("plain", []), "seconds", lambda a, b: a / b)
        against = "-" if name == "plain" else f"{spread(gain)} over {base}"
        body.append([f"`{name}`", str(len(own)), spread(column(own)), against, spread(time, 2)])
    return markdown(["variant", "seeds", "mIoU", "gain, seed by seed", "training time, plain = 1"], body)


def study_order(found: list[dict]) -> list[str]:
    """The variants that were run, in the order in which benchmarks/study.py lists them."""
    from study import VARIANTS

    return [name for name in VARIANTS if any(row["variant"] == name for row in found)]


def inference_table() -> str:
    found = rows("inference.csv", split="choose", variant="labels", points=20, epochs=12, size=128, every=2)
    body = []
    base = [row for row in found if row["way"] == "plain"]
    for way in dict.fromkeys(row["way"] for row in found):
        own = [row for row in found if row["way"] == way]
        gain = paired(own, base, "miou", lambda a, b: a - b) if way != "plain" else []
        cost = statistics.mean(column(own, "seconds_per_tile")) / statistics.mean(column(base, "seconds_per_tile"))
        body.append([way, spread(column(own)), spread(gain), f"{cost:.1f}"])
    return markdown(["prediction", "mIoU", "gain, seed by seed", "time, plain = 1"], body)


def labels_table() -> str:
    found = rows("labels.csv", points=20)
    body = []
    for way in dict.fromkeys(row["way"] for row in found):
        own = [row for row in found if row["way"] == way]
        body.append([way, *(spread(column(own, key)) for key in ("coverage", "accuracy", "miou"))])
    return markdown(["labels from", "share of pixels labelled", "share of those right", "their mIoU"], body)


def speed_table() -> str:
    """This program beside the loop of the tutorials, of benchmarks/speed.py."""
    body = []
    for row in rows("speed.csv"):
        if not row["measure"].startswith("stage: "):
            shares = [
                f"{float(row[key]):.0%}" if row[key] else "-" for key in ("plain_of_matrix_rate", "ours_of_matrix_rate")
            ]
            values = [f"{float(row[key]):,.4g}" if row[key] else "-" for key in ("plain", "ours", "ratio")]
            body.append(
                [
                    f"`{row['backbone']}`",
                    f"{row['device']}, {row['precision']}",
                    row["measure"],
                    row["unit"],
                    *values,
                    *shares,
                ]
            )
    header = ["backbone", "device", "measure", "unit", "plain loop", "this program", "ratio", "of the matrix rate: plain", "this program"]  # fmt: skip
    return markdown(header, body)


def stages_table() -> str:
    """Where a training step's time goes, in milliseconds per tile."""
    found = [row for row in rows("speed.csv") if row["measure"].startswith("stage: ")]
    runs = list(dict.fromkeys((row["backbone"], row["device"]) for row in found))
    times = {(row["measure"], row["backbone"], row["device"]): float(row["ours"]) for row in found}
    body = [
        [measure.removeprefix("stage: "), *(f"{times[(measure, *run)]:.3g}" for run in runs)]
        for measure in dict.fromkeys(row["measure"] for row in found)
    ]
    return markdown(["stage", *(f"`{backbone}`, {device}" for backbone, device in runs)], body)


def big_scene_table() -> str:
    body = [
        [f"{int(row['side']):,} x {int(row['side']):,}", row["network"], f"{int(row['peak_mib']) / 1024:.2f} GiB", f"{int(row['seconds']):,} s"]
        for row in rows("big_scene.csv")
    ]  # fmt: skip
    return markdown(["pixels", "network", "peak memory", "wall time"], body)


TABLES = {
    "val": lambda: main_table(study_rows("val", epochs=24, every=3)),
    "scenes": lambda: main_table(study_rows("scenes", epochs=24, every=3)),
    "parts": lambda: parts_table(epochs=12),
    "longer": lambda: parts_table(epochs=24),
    "speed": speed_table,
    "stages": stages_table,
    "big_scene": big_scene_table,
    "labels": labels_table,
    "inference": inference_table,
}


def fill(text: str) -> str:
    """A document's text with every table as the CSVs have it now."""
    return re.sub(
        r"(<!-- table:(\w+) -->\n).*?(<!-- end -->)", lambda m: f"{m[1]}{TABLES[m[2]]()}\n{m[3]}", text, flags=re.DOTALL
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    args, stale = parser.parse_args(), []
    for name in DOCUMENTS:
        text = (ROOT / name).read_text(encoding="utf-8")
        if fill(text) != text:
            stale.append(name)
            if not args.check:
                (ROOT / name).write_text(fill(text), encoding="utf-8")
    print(f"{'differ from' if args.check else 'written from'} benchmarks/results: {', '.join(stale) or 'none'}")
    return int(bool(stale) and args.check)


if __name__ == "__main__":
    sys.exit(main())
