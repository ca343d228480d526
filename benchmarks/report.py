"""Writes the tables and figures of README.md and technical_report.md from the CSVs in benchmarks/results/.

    python benchmarks/report.py            draw the figures, write tables and single values between their marks
    python benchmarks/report.py --check    say which differ from the CSVs, exit 1 if any does

A table stands between <!-- table:NAME --> and <!-- end -->, a single value after <!-- study:SET-UP/VARIANT/POINTS:COLUMN -->,
<!-- inference:SET-UP/VARIANT/POINTS/WAY:COLUMN -->, <!-- speed:BACKBONE/CPU/MEASURE:COLUMN --> or, of a run of its own, <!-- RUN:KEY --> (see `value`). A figure in benchmarks/results/figures carries a hash of the rows that it shows.
Everything takes the rows that are there. Values are the mean over seeds, ± their standard deviation, (their number).
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import itertools
import json
import re
import statistics
import sys
from collections.abc import Collection
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = ("README.md", "technical_report.md")
COMPARED = {  # set-ups of benchmarks/study.py in which the methods are compared
    "val": {"split": "val", "size": "128", "epochs": "24", "every": "3"},
    "scenes": {"split": "scenes", "size": "128", "epochs": "24", "every": "3"},
    "val256": {"split": "val", "size": "256", "epochs": "24", "every": "3"},
    "scenes256": {"split": "scenes", "size": "256", "epochs": "24", "every": "3"},
}
SETUPS = COMPARED | {
    "choose": {"split": "choose", "size": "128", "epochs": "12", "every": "2"},
    "choose24": {"split": "choose", "size": "128", "epochs": "24", "every": "2"},
    "choose_short": {"split": "choose", "size": "128", "epochs": "12", "every": "4"},
    "choose_quarter": {"split": "choose", "size": "128", "epochs": "24", "every": "4"},
    "choose_scenes": {"split": "choose_scenes", "size": "128", "epochs": "12", "every": "2"},
}
CLASSWISE = ("5", "20", "100")  # budgets for which every class is shown
METHODS = {"forest": "random forest", "plain": "plain", "default": "default"}  # compared at every budget of points
WITH_MASKS = {"plain": "dense", "default": "dense+teacher+cut_mix"}  # the same with every pixel labelled
# Each of them has the mean teacher.
BESIDE_TEACHER = ("labels", "confident", "confident+cut_mix", "pairwise", "regions", "multi_scale")
KINDS = {  # what sets a variant apart from the one that its name begins with; "" is that one. All others are `parts`.
    "augmentation": ("_none", "_weak", "", "_strong", "_hsv"),
    "where": ("", "_stratified", "_grid", "_boundary"),
    "noise": ("", "@wrong5", "@wrong10", "@wrong20", "@shift1", "@shift3", "@shift5"),
    "networks": ("", "_unet", "_resnet50", *(f"{network}_random_weights" for network in ("", "_resnet34", "_resnet50", "_unet", "_segformer"))),
}  # fmt: skip
# What one may change: set-up, points and the variant that has it as it was -> the change, and the variant that shows it.
SWITCHES = {
    ("val", "20", "plain"): {
        "the default in place of plain training": "default",
        "`TEACHER_DECAY = 0.99` alone: the mean model": "teacher",
        "`CUT_MIX = 0.5` alone": "plain+cut_mix",
        "mean model and CutMix, no soft labels": "teacher+cut_mix",
    },
    ("val", "20", "teacher"): {"soft labels beside the mean model": "labels"},
    ("val", "100", "plain"): {"the default in place of plain training": "default"},
    ("val256", "100", "plain"): {"the default in place of plain training": "default"},
    ("val", "5", "default"): {"`PSEUDO_LABEL_WEIGHT = 0`: no soft labels": "teacher+cut_mix"},
    ("val", "20", "default"): {
        "`PSEUDO_LABEL_WEIGHT = 0`: no soft labels": "teacher+cut_mix",
        "`CUT_MIX = 0`": "labels",
        "no augmentation": "default_none",
        "`AUGMENTATION = weak`": "default_weak",
        "`AUGMENTATION = strong`": "default_strong",
        "`POINT_SAMPLING = grid`": "default_grid",
        "`POINT_SAMPLING = stratified`": "default_stratified",
        "`POINT_SAMPLING = boundary`": "default_boundary",
        "random weights in place of ImageNet's": "default_random_weights",
    },
    ("val", "100", "default"): {"`ARCHITECTURE = unet`": "default_unet"},
    ("val256", "100", "default"): {"`ARCHITECTURE = unet`": "default_unet"},
    ("scenes", "100", "plain"): {"the default in place of plain training": "default"},
    ("scenes", "100", "default"): {"`ARCHITECTURE = unet`": "default_unet"},
    ("choose24", "20", "plain"): {"the default in place of plain training": "default"},
    ("choose24", "20", "default"): {
        "`PSEUDO_LABEL_WEIGHT = 0`: no soft labels": "teacher+cut_mix",
        "`CUT_MIX = 0`": "labels",
        "`CLASS_BALANCE = 0.5`": "default+balanced",
    },
    ("choose", "20", "labels"): {
        "`POINT_EVIDENCE = False`": "labels-evidence",
        "`TEACHER_VIEWS = 1`": "labels-views",
        "`TEACHER_VIEWS = 4`": "labels+views",
        "`PSEUDO_LABEL_THRESHOLD = 0.9`": "labels+threshold",
    },
    ("choose", "20", "teacher"): {
        "`PAIRWISE_WEIGHT = 0.01`": "pairwise",
        "`REGION_WEIGHT = 0.5`": "regions",
        "`MULTI_SCALE = 1.4`": "multi_scale",
        "confident pseudo-labels beside the mean model": "confident",
        "confident pseudo-labels and `CUT_MIX = 0.5`": "confident+cut_mix",
    },
}
# What twice as much brings, at twenty points per tile: the set-up with less, and the one with more.
TWICE = {
    "twice the tiles, as many epochs": ("choose_quarter", "choose24"),
    "twice the tiles, as many steps": ("choose_quarter", "choose"),
    "twice the steps on 145 tiles": ("choose_short", "choose_quarter"),
    "twice the steps on 290 tiles": ("choose", "choose24"),
}
AFTER_TRAINING = {
    "`--tta`: eight views at prediction": "8 views",
    "three scales at prediction": "3 scales",
    "local CRF at prediction": "CRF",
    "ensemble of three trainings": "ensemble of 3",
}
AT_PREDICTION = {  # the same of benchmarks/inference.py: the change, and the way of predicting
    ("val", "100", "default"): AFTER_TRAINING,
    ("scenes256", "100", "default_unet"): {
        "`--tta`: eight views at prediction": "8 views",
        "ensemble of three trainings": "ensemble of 3",
        "ensemble of three trainings, with `--tta`": "ensemble of 3, 8 views",
    },
}
MIXED = " ‡"
NOT_RUN = "*Not run yet.*"

# =====================================================================================================
# CSV -> rows
# =====================================================================================================


def rows(name: str, **wanted: str) -> list[dict]:
    """The rows of a CSV in benchmarks/results/ in which each column has the wanted value."""
    path = ROOT / "benchmarks/results" / name
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [row for row in csv.DictReader(lines) if all(row[key] == value for key, value in wanted.items())]


def study_rows(setup: dict) -> list[dict]:
    """The study's cells of one set-up, and the forests of the same tiles, which train for no epochs."""
    found = rows("study.csv", **{key: value for key, value in setup.items() if key != "epochs"})
    return [row for row in found if row["epochs"] in ("0", setup["epochs"])]


def pick(found: list[dict], **wanted: str | None) -> list[dict]:
    """None: of rows whose CSV lacks that column."""
    return [row for row in found if all(row.get(key) == value for key, value in wanted.items())]


def budgets(found: list[dict]) -> list[str]:
    return sorted({row["points"] for row in found} - {"all"}, key=int)


def by_seed(found: list[dict], key: str) -> dict[str, float]:
    """A column's value for every seed; a cell that was run in both precisions counts once. Older rows lack some columns."""
    values = {}
    for row in found:
        if row.get(key):
            values.setdefault(row["seed"], []).append(float(row[key]))
    return {seed: statistics.mean(several) for seed, several in values.items()}


def column(found: list[dict], key: str = "miou") -> list[float]:
    return list(by_seed(found, key).values())


def paired(found: list[dict], base: list[dict], key: str, how) -> list[float]:
    """how(value, value of the base) for every seed that both have; an ensemble's seeds against the mean of theirs.

    Where the base was run in several precisions, the row of the same one is taken.
    """
    values = {}
    for row in found:
        theirs = by_seed(base, key) | by_seed(pick(base, precision=row.get("precision")), key)
        seeds = row["seed"].split()
        if row.get(key) and set(seeds) <= set(theirs):
            values.setdefault(row["seed"], []).append(how(float(row[key]), statistics.mean(map(theirs.get, seeds))))
    return [statistics.mean(several) for several in values.values()]


def gains(found: list[dict], base: list[dict], key: str = "miou") -> list[float]:
    return paired(found, base, key, lambda a, b: a - b)


def overfitting(found: list[dict]) -> list[float]:
    """How much better a model is on the dense masks of its own train tiles, for every seed of which that was scored."""
    gaps = [row | {"gap": float(row["train_miou"]) - float(row["miou"])} for row in found if row.get("train_miou")]
    return column(gaps, "gap")


def beyond_chance(values: list[float]) -> bool:
    """Whether a mean over three seeds or more is further from 0 than 2.5 standard deviations: for three, a t test at 5%."""
    return len(values) > 2 and abs(statistics.mean(values)) > 2.5 * statistics.stdev(values)


def costs(found: list[dict], base: list[dict], key: str = "seconds") -> list[float]:
    """Times relative to the base's, seed by seed; only those of one machine make a ratio."""
    return [
        ratio
        for row in found
        for ratio in paired([row], pick(base, hardware=row.get("hardware")), key, lambda a, b: a / b)
    ]


def family_of(name: str) -> str:
    """The variant whose name this one begins with: `labels` for `labels+views`; `plain` for all that are no change of another."""
    family = re.match("[a-z]+", name)[0]
    return family if family != name and family in ("plain", "dense", "labels", "default") else "plain"


def base_of(name: str, present: Collection[str]) -> str:
    """Which of the variants present this one is compared with: what it adds one part to, where that was run, else its family.

    Another network without ImageNet is compared with the family without it, a ResNet50 with a ResNet50 trained plainly.
    """
    family = family_of(name)
    nearest = "teacher" if name in BESIDE_TEACHER else family
    if name.endswith("_random_weights"):
        nearest = f"{family}_random_weights"
    if name.endswith("_resnet50"):
        nearest = "plain_resnet50"
    return nearest if nearest != name and nearest in present else family


def cell_and_base(setup: str, name: str, points: str) -> tuple[list[dict], list[dict]]:
    """The rows of a cell, and of the variant that it is compared with; dense masks with that of any budget."""
    found = study_rows(SETUPS[setup])
    own = pick(found, variant=name, points=points)
    if points != "all":
        found = pick(found, points=points)
    return own, pick(found, variant=base_of(name, {row["variant"] for row in found}))


def kind_of(name: str) -> str:
    """Which question a variant answers: a key of KINDS, `methods` or `parts`."""
    suffix = name.removeprefix(family_of(name))
    kinds = (kind for kind, suffixes in KINDS.items() if suffix in suffixes and suffix)
    return "methods" if name in (*METHODS, *WITH_MASKS.values()) else next(kinds, "parts")


def ordinal(number: str) -> str:
    return number + {"2": "nd", "3": "rd"}.get(number, "th")


def setup_title(setup: dict, points: str) -> str:
    tiles = "all tiles" if setup["every"] == "1" else f"every {ordinal(setup['every'])} tile"
    return f"`{setup['split']}`, {tiles}, {setup['size']} px, {setup['epochs']} epochs, {points} points"


def groups(kind: str) -> list[tuple[str, dict[str, list[dict]]]]:
    """For every set-up and budget with a variant of this kind: its title, and the rows of those variants and their bases.

    Of `methods` those alone that no other table has.
    """
    found, result = rows("study.csv"), []
    alone = ("forest", *WITH_MASKS.values())  # make no comparison
    for split, size, epochs, every in dict.fromkeys((r["split"], r["size"], r["epochs"], r["every"]) for r in found):
        setup = {"split": split, "size": size, "epochs": epochs, "every": every}
        together = study_rows(setup)
        for points in budgets(together):
            here = [row for row in together if row["points"] in (points, "all")]
            names = dict.fromkeys(row["variant"] for row in here)
            own = [name for name in names if kind_of(name) == kind and name not in alone]
            elsewhere = setup in COMPARED.values() or any(kind_of(name) == "parts" for name in names)
            families = dict.fromkeys(["plain", *map(family_of, own)])
            order = [family + suffix for family in families for suffix in KINDS.get(kind, ())]
            if kind in ("parts", "methods"):
                order = ["forest", *WITH_MASKS, *WITH_MASKS.values(), *(sorted(own) if kind == "parts" else [])]
            if own and not (kind == "methods" and elsewhere):
                variants = {name: pick(here, variant=name) for name in order if name in names}
                result.append((setup_title(setup, points), variants))
    return result


# =====================================================================================================
# Rows -> tables
# =====================================================================================================


def spread(values: list[float], digits: int = 3, sign: str = "") -> str:
    """Mean ± standard deviation, or the one value there is."""
    if not values:
        return "-"
    deviation = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):{sign}.{digits}f}{deviation}"


def roughly(factors: list[float]) -> str:
    """A factor of training time, when like work itself takes up to a third more or less from run to run."""
    if factors and 1 / 1.3 < statistics.mean(factors) < 1.3:
        return "about 1"
    return f"{statistics.mean(factors):.1f}" if factors else "-"


def counted(values: list[float], digits: int = 3, sign: str = "") -> str:
    """The same with the number of seeds."""
    return f"{spread(values, digits, sign)} ({len(values)})" if values else "-"


def gained(own: list[dict], base: list[dict], key: str = "miou") -> str:
    """The gain, seed by seed: bold where it is beyond chance, marked where a seed has its base in the other precision alone."""
    alike = {(row["seed"], row.get("precision")) for row in base}
    seeds = {row["seed"] for row in base}
    networks = (row for row in own if row.get("variant") != "forest")  # which knows one precision alone
    mixed = any(row["seed"] in seeds and (row["seed"], row.get("precision")) not in alike for row in networks)
    values = gains(own, base, key)
    bold = "**" if beyond_chance(values) else ""
    return f"{bold}{counted(values, sign='+')}{bold}{MIXED if mixed else ''}"


def markdown(header: list[str], body: list[list[str]]) -> str:
    """A table without the columns that hold nothing."""
    lines = [
        list(line)
        for line in zip(
            *(column for column in zip(header, *body, strict=True) if set(column[1:]) - {"-", ""}), strict=True
        )
    ]
    lines[1:1] = [["---"] * len(lines[0])] if body else []
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) if body else NOT_RUN


def points_table(setup: dict) -> str:
    """The methods at each budget of points, and what they reach with every pixel labelled."""
    found, body = study_rows(setup), []
    dense = column(pick(found, variant="dense"))
    machines = [row.get("hardware") for row in found if row["epochs"] != "0"]
    machine = max(machines, key=machines.count, default=None)  # times are of the one that trained most
    for points in [*budgets(found), *(["all"] if dense else [])]:
        own = {
            name: pick(found, variant=WITH_MASKS.get(name) if points == "all" else name, points=points)
            for name in METHODS
        }
        mious = [counted(column(own[name])) for name in METHODS]
        share = (
            f"{statistics.mean(column(own['default'])) / statistics.mean(dense):.1%}"
            if dense and own["default"]
            else "-"
        )
        gain = gained(own["default"], own["plain"])
        minutes = [in_minutes(column(pick(own[name], hardware=machine) or own[name], "seconds")) for name in METHODS]
        body.append([points, *mious, gain, share, *minutes, counted(costs(own["default"], own["plain"]), 2)])
    header = ["points per tile", *METHODS.values(), "default over plain, seed by seed", "default, of dense masks"]
    return markdown([*header, *(f"minutes of {name}" for name in METHODS.values()), "time of default, plain = 1"], body)


def in_minutes(seconds: list[float]) -> str:
    digits = 1 if seconds and statistics.mean(seconds) >= 60 else 2
    return spread([value / 60 for value in seconds], digits)


def more_points_table() -> str:
    """What the next points bring, seed by seed, and the default's classes."""
    found, body = study_rows(COMPARED["val"]), []
    classes = class_keys(found)
    for fewer, more in [*itertools.pairwise(budgets(found)), ("20", "100")]:
        own = {
            name: (pick(found, variant=name, points=more), pick(found, variant=name, points=fewer)) for name in METHODS
        }
        line = [gained(*own[name]) for name in METHODS]
        body.append([f"{fewer} to {more}", *line, *(gained(*own["default"], key) for key in classes)])
    header = ["points per tile", *METHODS.values(), *(f"default: {key.removeprefix('iou_')}" for key in classes)]
    return markdown(header, body)


def twice_table() -> str:
    """What twice the tiles or the steps bring, seed by seed."""
    body = []
    for what, setups in TWICE.items():
        less, more = (pick(study_rows(SETUPS[setup]), points="20") for setup in setups)
        gain = [gained(pick(more, variant=name), pick(less, variant=name)) for name in ("plain", "default")]
        body.append([what, *gain])
    return markdown(["at twenty points per tile", "plain", "default"], body)


def class_keys(found: list[dict]) -> list[str]:
    """The columns of a CSV that hold the IoU of a class."""
    return [key for key in (found[0] if found else {}) if key.startswith("iou_")]


def class_columns(found: list[dict]) -> dict:
    """IoU of each class: columns of a table, as functions of a cell's rows."""
    return {key.removeprefix("iou_"): lambda own, key=key: spread(column(own, key)) for key in class_keys(found)}


def classes_table(setup: dict) -> str:
    """IoU of each class for the methods at some budgets."""
    found, body = study_rows(setup), []
    columns = {"pixel accuracy": lambda own: spread(column(own, "pixel_accuracy"))} | class_columns(found)
    for points in [*(points for points in budgets(found) if points in CLASSWISE), "all"]:
        for name in METHODS:
            if own := pick(found, variant=WITH_MASKS.get(name) if points == "all" else name, points=points):
                body.append([points, METHODS[name], str(len(column(own))), *(show(own) for show in columns.values())])
    return markdown(["points per tile", "method", "seeds", *columns], body)


def variants_table(kind: str) -> str:
    """Variants against what they are a change of, in every set-up and at every budget in which they were run."""
    together, body, extra = groups(kind), [], {}
    cells = [own for _, named in together for own in named.values()]
    if any(column(own, "train_miou") for own in cells):
        extra["train mIoU - mIoU"] = lambda own: counted(overfitting(own))
    if kind == "networks":
        extra |= {"network": lambda own: f"`{own[0]['backbone']}`", "starts from": lambda own: own[0]["weights"]}
    if kind == "where":
        extra |= class_columns(cells[0] if cells else [])
    for title, named in together:
        for name, own in named.items():
            base = base_of(name, named)
            gain = gained(own, named.get(base, [])) if name != "plain" else "-"
            against = f"{gain} over {base}" if gain != "-" else gain
            cost = spread(costs(own, named.get("plain") or named.get("plain_resnet50", [])), 1)
            body.append(
                [title, f"`{name}`", counted(column(own)), against, cost, *(show(own) for show in extra.values())]
            )
            title = ""
    return markdown(["set-up", "variant", "mIoU", "gain, seed by seed", "training time, plain = 1", *extra], body)


def inference_groups() -> list[tuple[str, dict[str, list[dict]]]]:
    """The ways of predicting, for every set of models that they were tried on."""
    found = rows("inference.csv")
    keys = ("variant", "points", "split", "size", "epochs", "every")
    result = []
    for cell in dict.fromkeys(tuple(row[key] for key in keys) for row in found):
        own = pick(found, **dict(zip(keys, cell, strict=True)))
        ways = dict.fromkeys(row["way"] for row in own)
        result.append(
            (f"`{cell[0]}`: {setup_title(own[0], own[0]['points'])}", {way: pick(own, way=way) for way in ways})
        )
    return result


def inference_table() -> str:
    body = []
    for title, ways in inference_groups():
        for way, own in ways.items():
            gain = gained(own, ways["plain"]) if way != "plain" else "-"
            cost = spread(costs(own, ways["plain"], "seconds_per_tile"), 1)
            body.append([title, way, counted(column(own)), gain, cost])
            title = ""
    return markdown(["models", "prediction", "mIoU", "gain, seed by seed", "time, plain = 1"], body)


def switches_table() -> str:
    """What single changes bring, those of one set-up together, the most first; where settings were chosen comes last."""
    body = []
    for place in sorted({**SWITCHES, **AT_PREDICTION}, key=lambda place: place[0].startswith("choose")):
        setup, points, base = place
        found = pick(study_rows(SETUPS[setup]), points=points)
        predicted = rows("inference.csv", **SETUPS[setup], variant=base, points=points)
        without, plainly, lines = pick(found, variant=base), pick(predicted, way="plain"), []
        for change, name in SWITCHES.get(place, {}).items():
            own = pick(found, variant=name)
            lines.append((own, without, change, roughly(costs(own, without))))
        for change, way in AT_PREDICTION.get(place, {}).items():
            own = pick(predicted, way=way)
            times = f"{spread(costs(own, plainly, 'seconds_per_tile'), 1)} in prediction"
            lines.append((own, plainly, change, times))
        lines = [line for line in lines if gains(*line[:2])]
        if lines:
            where = f"*{setup_title(SETUPS[setup], points)}: `{base}`, mIoU {spread(column(without))}*"
            body.append([where, "", "", ""])
        for own, other, change, time in sorted(lines, key=lambda line: -statistics.mean(gains(*line[:2]))):
            body.append([change, gained(own, other), gained(own, other, "iou_road"), time])
    return markdown(["change", "gain in mIoU, seed by seed", "in the IoU of roads", "time, factor"], body)


def across_table() -> str:
    """How far each network leads over the random forest in scenes never seen, the furthest first."""
    body = []
    for setup, points in ((SETUPS[name], points) for name in ("scenes", "scenes256") for points in ("100", "all")):
        found = study_rows(setup)
        forest = pick(found, variant="forest", points="100")
        predicted = rows("inference.csv", **setup, points=points)
        tries = [(row["variant"], "") for row in pick(found, points=points) if row not in forest]
        tries += [(row["variant"], row["way"]) for row in predicted if row["way"] != "plain"]
        for name, way in dict.fromkeys(tries):
            own = pick(predicted, variant=name, way=way) if way else pick(found, variant=name, points=points)
            if lead := gains(own, forest):
                where = setup_title(setup, points)
                line = [f"`{name}`", way, where, counted(column(own)), spread(column(forest)), counted(lead, sign="+")]
                body.append((statistics.mean(lead), line))
    body.sort(key=lambda entry: -entry[0])
    header = ["network", "prediction", "set-up", "mIoU", "forest, 100 points", "lead, seed by seed"]
    return markdown(header, [line for _, line in body])


def tiles_table() -> str:
    """The tiles that were measured, of benchmarks/dubai_tiles.py."""
    body = []
    for row in rows("dubai_tiles.csv"):
        keys = list(row)[2 : list(row).index("sha256")]
        pixels = sum(int(row[key]) for key in keys)
        shares = [f"{int(row[key]) / pixels:.1%}" for key in keys]
        body.append([row["split"], row["tiles"], *shares, f"`{row['sha256'][:12]}`"])
    return markdown(["tiles", "number", *(keys if body else []), "SHA-256 of the masks"], body)


def active_table() -> str:
    """Rounds of labelling, of tools/active_learning.py simulate."""
    found, body = rows("active_learning.csv"), []
    for points in sorted({row["points_per_tile"] for row in found}, key=int):
        own = {arm: pick(found, points_per_tile=points, arm=arm) for arm in ("random", "uncertainty")}
        gain = gained(own["uncertainty"], own["random"])
        body.append([points, *(counted(column(cells)) for cells in own.values()), gain])
    return markdown(["points per tile", "random", "uncertainty", "uncertainty over random, seed by seed"], body)


def pictures_table() -> str:
    """The pixel accuracy on the tiles of the picture, of benchmarks/pictures.py."""
    body = [[row["percentile"], row["tile"], *(f"{float(row[key]):.0%}" for key in ("plain", "default", "dense"))]
            for row in rows("pictures.csv")]  # fmt: skip
    return markdown(["percentile of default", "tile", "plain", "default", "dense"], body)


def labels_table() -> str:
    found = rows("labels.csv", points="20")
    body = []
    for way in dict.fromkeys(row["way"] for row in found):
        own = [row for row in found if row["way"] == way]
        body.append([way, *(spread(column(own, key)) for key in ("coverage", "accuracy", "miou"))])
    return markdown(["labels from", "share of pixels labelled", "share of those right", "their mIoU"], body)


def machine_of(row: dict) -> str:
    """A device in a word: a CPU by what it computes with, for the same precision is another matter there."""
    return next((f"cpu ({name})" for name in ("AMX", "AVX512", "AVX2") if name in row["hardware"]), row["device"])


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
                    f"{machine_of(row)}, {row['precision']}",
                    row["measure"],
                    row["unit"],
                    *values,
                    *shares,
                ]
            )
    header = ["backbone", "device", "measure", "unit", "plain loop", "this program", "ratio", "of the matrix rate: plain", "this program"]  # fmt: skip
    return markdown(header, body)


def changes_table() -> str:
    """What single changes brought, of benchmarks/changes.py."""
    body = [
        [row["change"], f"{machine_of(row)}, {row['precision']}", f"{row['before']}, {row['after']} {row['unit']}", row["ratio"], row["kept"]]
        for row in rows("changes.csv")
    ]  # fmt: skip
    return markdown(["change", "device", "before, after", "times", "kept"], body)


def stages_table() -> str:
    """Where a training step's time goes, in milliseconds per tile."""
    found = [row for row in rows("speed.csv") if row["measure"].startswith("stage: ")]
    runs = list(dict.fromkeys((row["backbone"], machine_of(row)) for row in found))
    times = {(row["measure"], row["backbone"], machine_of(row)): float(row["ours"]) for row in found}
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
    **{name: lambda setup=setup: points_table(setup) for name, setup in COMPARED.items()},
    **{f"{name}_classes": lambda setup=setup: classes_table(setup) for name, setup in COMPARED.items()},
    **{kind: lambda kind=kind: variants_table(kind) for kind in ("parts", "methods", *KINDS)},
    "more_points": more_points_table,
    "twice": twice_table,
    "switches": switches_table,
    "across": across_table,
    "tiles": tiles_table,
    "active": active_table,
    "labels": labels_table,
    "inference": inference_table,
    "pictures": pictures_table,
    "speed": speed_table,
    "changes": changes_table,
    "stages": stages_table,
    "big_scene": big_scene_table,
}

# =====================================================================================================
# Rows -> figures
# =====================================================================================================

PLACES = {"val": "other parts of the same scenes", "scenes": "scenes never seen"}
LOOKS = {"default": ("#0072b2", "o"), "plain": ("#d55e00", "s"), "forest": ("#009e73", "^")}  # Okabe & Ito's colours


def subplots(figure, count: int, width: float) -> list:
    """As many axes, two in a line."""
    columns, lines = min(2, count), -(-count // 2)
    figure.set_size_inches(width, 4.3 * lines)
    return [figure.add_subplot(lines, columns, index + 1) for index in range(count)]


def points_panels() -> list[tuple[str, list[dict]]]:
    """A title and the rows of the methods, for the set-ups in which two budgets of points or more have several seeds."""
    panels = []
    for setup in COMPARED.values():
        found = [row for row in study_rows(setup) if kind_of(row["variant"]) == "methods"]
        own = pick(found, variant="default")
        if sum(len(column(pick(own, points=points))) > 1 for points in budgets(own)) > 1:
            panels.append((f"{setup['split']}: {PLACES[setup['split']]}, {setup['size']} px", found))
    return panels


def draw_points(figure, panels: list[tuple[str, list[dict]]]) -> None:
    """mIoU over points per tile."""
    grid = subplots(figure, len(panels), width=5 * max(1.4, min(2, len(panels))))
    for axes, (title, found) in zip(grid, panels, strict=True):
        for shift, (name, (color, marker)) in zip((1.03, 1, 0.97), LOOKS.items(), strict=True):
            own = [(int(points), column(pick(found, variant=name, points=points))) for points in budgets(found)]
            own = [(shift * points, values) for points, values in own if values]  # side by side: bars hide no other's
            x, means = [points for points, _ in own], [statistics.mean(values) for _, values in own]
            axes.plot(x, means, color=color, label=METHODS[name])
            for at, values in own:
                draw_mark(axes, at, values, color, marker)
        for name, style in zip(WITH_MASKS.values(), ("-", "--"), strict=True):
            if values := column(pick(found, variant=name)):
                mean, deviation = statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0
                trained = "plain" if name == "dense" else "with default's teacher and CutMix"
                label = (
                    f"dense masks, {trained} ({len(values)} seeds)"
                    if len(values) > 1
                    else f"dense masks, {trained} (one seed)"
                )
                axes.axhline(mean, color="black", linestyle=style, linewidth=1.2, label=label)
                axes.axhspan(mean - deviation, mean + deviation, color="black", alpha=0.1, linewidth=0)
        axes.set(xscale="log", xlabel="labelled points per tile", ylabel="mIoU")
        axes.set_title(title, fontsize=10)
        axes.set_xticks([int(points) for points in budgets(found)], budgets(found))
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    bars = axes.errorbar([], [], [], color="grey", capsize=4, linestyle="none")
    legend(figure, {"bars and grey bands: ± standard deviation over seeds": bars})


def legend(figure, more: dict | None = None, **options) -> None:
    """One for all axes, below them; more: label -> line."""
    lines = {label: line for axes in figure.axes for line, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    lines |= more or {}
    figure.legend(lines.values(), lines, loc="outside lower center", frameon=False, ncols=2, **options)


def draw_mark(axes, at: float, values: list[float], color: str, marker: str = "o") -> None:
    """Mean and standard deviation; a single value is hollow and has no bar."""
    several = len(values) > 1
    axes.errorbar(at, statistics.mean(values), statistics.stdev(values) if several else None, color=color, marker=marker,
                  markerfacecolor=color if several else "white", capsize=4, linestyle="none")  # fmt: skip


def cost_panels() -> list[tuple[str, dict[str, list[dict]]]]:
    """Title and rows by variant, of the set-ups in which parts were compared."""
    return [(title, named) for title, named in groups("parts") if "plain" in named]


def prediction_panels() -> list[tuple[str, dict[str, list[dict]]]]:
    """The same by way of predicting, for the models of three seeds."""
    return [(title, ways) for title, ways in inference_groups() if len(ways["plain"]) > 2]


def draw_cost(
    figure, panels: list[tuple[str, dict[str, list[dict]]]], what: str = "training", key: str = "seconds"
) -> None:
    """Gain in mIoU over plain against the time it takes; what one seed alone has shown is left out."""
    for axes, (title, named) in zip(subplots(figure, len(panels), width=11), panels, strict=True):
        base = named["plain"]
        hidden = ("plain", "forest", *WITH_MASKS.values())
        several = [name for name in named if len(column(named[name])) > 1 or name.startswith("ensemble")]
        shown = [name for name in several if name not in hidden and costs(named[name], base, key)]
        for index, name in enumerate(sorted(shown, key=lambda name: statistics.mean(gains(named[name], base)))):
            cost, gain = statistics.mean(costs(named[name], base, key)), gains(named[name], base)
            draw_mark(axes, cost, gain, "#0072b2")
            # names stand in the margin, in the order of the marks, lest they overlap
            axes.annotate(name, (cost, statistics.mean(gain)), (1.06, (index + 0.5) / len(shown)), "data", "axes fraction",
                          {"arrowstyle": "-", "color": "grey", "linewidth": 0.5, "relpos": (0, 0.5)}, va="center", fontsize=9)  # fmt: skip
        simple = "plain" if what == "training" else "one view"
        for label, own, color in ((simple, base, "#d55e00"), ("dense masks", named.get("dense", []), "black")):
            if len(gain := gains(own, base)) > 1:
                axes.axhline(statistics.mean(gain), color=color, linewidth=1, linestyle="--", label=label)
        axes.plot(1, 0, "s", color="#d55e00")
        axes.set(xlabel=f"time of {what}, {simple} = 1", ylabel=f"gain in mIoU over {simple}")
        lines = title.replace("`", "").replace(" tile, ", " tile,\n")
        axes.set_title(lines, fontsize=10, loc="left")
        axes.grid(alpha=0.3)
    note = (
        "hollow: one ensemble of three seeds"
        if what == "prediction"
        else "not shown: one seed, or no time on one kind of CPU"
    )
    legend(figure, title=f"bars: standard deviation of the gain, seed by seed; {note}", title_fontsize=9)


def draw_rounds(figure, found: list[dict]) -> None:
    """Rounds of labelling, as tools/active_learning.py draws them."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))
    from active_learning import draw_curve  # takes seconds: it imports torch

    figure.set_size_inches(7, 4.5)
    draw_curve(figure.subplots(), found, "val, every 3rd tile, 128 px, six epochs per round")


FIGURES = {
    "points": (points_panels, draw_points),
    "cost": (cost_panels, draw_cost),
    "prediction": (prediction_panels, partial(draw_cost, what="prediction", key="seconds_per_tile")),
    "rounds": (lambda: rows("active_learning.csv"), draw_rounds),
    "pictures": (lambda: rows("pictures.csv"), None),  # drawn by benchmarks/pictures.py, which needs the models
}


def figure_path(name: str) -> Path:
    return ROOT / f"benchmarks/results/figures/{name}.png"


def save_figure(figure, name: str, found: list[dict]) -> None:
    """Writes a figure with the hash of the rows that it shows, and without matplotlib's version, which would change the file."""
    figure_path(name).parent.mkdir(exist_ok=True)
    figure.savefig(figure_path(name), dpi=100, metadata={"Rows": digest(found), "Software": None})


def digest(found: list[dict]) -> str:
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()


def stale_figures() -> list[str]:
    """Those that do not show the rows there are."""
    from PIL import Image

    stale = []
    for name, (find, _) in FIGURES.items():
        path, found = figure_path(name), find()
        if found and not (path.exists() and Image.open(path).info.get("Rows") == digest(found)):
            stale.append(name)
    return stale


def draw_figures() -> None:
    from matplotlib.figure import Figure

    for name, (find, draw) in FIGURES.items():
        if draw and (found := find()):
            figure = Figure(layout="constrained")
            draw(figure, found)
            save_figure(figure, name, found)


# =====================================================================================================
# Everything -> documents
# =====================================================================================================


def value(source: str, key: str) -> float:
    """A single value: of a cell (see `cell_value`), of a measurement of speed on a CPU of a kind (spaces as _), or of a run of its own, a path into its metrics.json."""
    kind, _, cell = source.partition(":")
    if kind == "speed":
        backbone, cpu, measure = cell.split("/")
        found = rows("speed.csv", backbone=backbone, measure=measure.replace("_", " "))
        return statistics.mean(float(row[key]) for row in found if machine_of(row) == f"cpu ({cpu})")
    if cell:
        return cell_value(kind, *cell.split("/"), key=key)
    found = json.loads((ROOT / "benchmarks/results" / source / "metrics.json").read_text(encoding="utf-8"))
    for part in key.split("."):
        found = found[part]
    return float(found)


def cell_value(kind: str, setup: str, name: str, points: str, way: str = "", *, key: str) -> float:
    """Of a study's cell, or of a way of predicting with its models (spaces as _): the mean of a column; `seeds`; gain and cost over its base;
    `points`, the gain in points of mIoU, whatever its sign; `lead` over the forest in points of mIoU; `gap`, the share of the way from plain training to dense masks that it goes."""
    found = study_rows(SETUPS[setup])
    own, base = cell_and_base(setup, name, points)
    if kind == "inference":
        predicted = rows("inference.csv", **SETUPS[setup], variant=name, points=points)
        own, base = pick(predicted, way=way.replace("_", " ")), pick(predicted, way="plain")
    forest = pick(found, variant="forest", points=points)
    to_dense = gains(pick(found, variant="dense"), pick(found, variant="plain", points=points))
    values = {
        "seeds": lambda: [len(column(own))],
        "gain": lambda: gains(own, base),
        "cost": lambda: costs(own, base),
        "points": lambda: [abs(100 * statistics.mean(found))] if (found := gains(own, base)) else [],
        "lead": lambda: [100 * lead for lead in gains(own, forest)],
        "gap": lambda: [statistics.mean(gains(own, base)) / statistics.mean(to_dense)],
    }.get(key, lambda: column(own, key))()
    if not values:
        raise ValueError(f"{kind}:{setup}/{name}/{points}/{way}:{key}: benchmarks/results has no such rows")
    return statistics.mean(values)


def fill(text: str) -> str:
    """A document's text with every table and marked value as the CSVs have it now; values keep their decimals."""
    text = re.sub(
        r"(<!-- table:(\w+) -->\n).*?(<!-- end -->)", lambda m: f"{m[1]}{TABLES[m[2]]()}\n{m[3]}", text, flags=re.DOTALL
    )
    return re.sub(
        r"(<!-- ((?:study:|inference:|speed:)?[\w+@/,-]+):([\w.-]+) -->)-?\d+(?:\.(\d+))?",
        lambda m: f"{m[1]}{value(m[2], m[3]):.{len(m[4] or '')}f}",
        text,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    stale = stale_figures()
    if not check:
        draw_figures()
    for name in DOCUMENTS:
        text = (ROOT / name).read_text(encoding="utf-8")
        if fill(text) != text:
            stale.append(name)
            if not check:
                (ROOT / name).write_text(fill(text), encoding="utf-8")
    print(f"{'differ from' if check else 'written from'} benchmarks/results: {', '.join(stale) or 'none'}")
    return int(bool(stale) and check)


if __name__ == "__main__":
    sys.exit(main())
