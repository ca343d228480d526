"""Writes the tables, marked values and curve of README.md, technical_report.md and TABLES.md from the CSVs.

    python benchmarks/report.py            draw the curve, write tables and single values between their marks
    python benchmarks/report.py --check    say which differ from the CSVs, exit 1 if any does

A table stands between <!-- table:NAME --> and <!-- end -->; results/TABLES.md has every one. A value stands
after <!-- study:SET-UP/VARIANT/POINTS:COLUMN -->, <!-- inference:SET-UP/VARIANT/POINTS/WAY:COLUMN -->,
<!-- speed:BACKBONE/CPU/MEASURE:COLUMN -->, <!-- CSV/ARM/OTHER:gain -->, <!-- first_run:CPU:COLUMN --> or
<!-- RUN:KEY --> (see `marked`). It keeps its decimals, a leading plus, and " ± 0.01" behind it if it has one.
A figure in results/figures carries a hash of the rows that it shows. Everything takes the rows that are
there. Values are the mean over seeds, ± their standard deviation, (their number).
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import itertools
import json
import operator
import re
import statistics
import sys
from collections.abc import Collection, Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = ("README.md", "technical_report.md", "benchmarks/results/TABLES.md")


def setup(split: str, every: int, epochs: int, size: int = 128) -> dict[str, str]:
    return {"split": split, "size": str(size), "epochs": str(epochs), "every": str(every)}


COMPARED = {  # set-ups of benchmarks/study.py in which the methods are compared
    "val": setup("val", 3, 24),
    "scenes": setup("scenes", 3, 24),
    "val256": setup("val", 3, 24, 256),
    "scenes256": setup("scenes", 3, 24, 256),
}
SETUPS = COMPARED | {
    "choose": setup("choose", 2, 12),
    "choose24": setup("choose", 2, 24),
    "choose_short": setup("choose", 4, 12),
    "choose_quarter": setup("choose", 4, 24),
    "choose_scenes": setup("choose_scenes", 2, 12),
    "val_half": setup("val", 6, 24),
    "val_half_long": setup("val", 6, 48),
    "val_long": setup("val", 3, 34),
}
CLASSWISE = ("5", "20", "100")  # budgets for which every class is shown
# Compared at every budget of points.
METHODS = {"forest": "random forest", "plain": "plain", "default": "default"}
WITH_MASKS = {"plain": "dense", "default": "dense+teacher+cut_mix"}  # the same with every pixel labelled
# Each of them has the mean teacher.
BESIDE_TEACHER = ("labels", "confident", "confident+cut_mix", "pairwise", "regions", "multi_scale")
RANDOM_STARTS = ("", "_resnet34", "_resnet50", "_smp_unet", "_segformer")
# What sets a variant apart from the one that its name begins with; "" is that one. All others are `parts`.
KINDS = {
    "augmentation": ("_none", "_weak", "", "_strong", "_hsv"),
    "where": ("", "_stratified", "_grid", "_boundary"),
    "noise": ("", "@wrong5", "@wrong10", "@wrong20", "@shift1", "@shift3", "@shift5"),
    "networks": ("", "_smp_unet", "_resnet50", *(f"{network}_random_weights" for network in RANDOM_STARTS)),
}
# What twice as much brings, at twenty points per tile: the set-up with less, and the one with more.
TWICE = {
    "twice the tiles, as many epochs": ("choose_quarter", "choose24"),
    "twice the tiles, as many steps": ("choose_quarter", "choose"),
    "twice the steps on 145 tiles": ("choose_short", "choose_quarter"),
    "twice the steps on 290 tiles": ("choose", "choose24"),
}
# Tiles against steps, of the U-Net at twenty points per tile.
STEPS = {
    "145 tiles, 24 epochs": "val_half",
    "145 tiles, 48 epochs": "val_half_long",
    "290 tiles, 24 epochs": "val",
}
# What a larger backbone and more epochs bring to the default.
LONGER = {
    "DeepLabV3+ on lite0, 24 epochs": ("val", "default"),
    "U-Net on lite0, 24 epochs": ("val", "default_unet"),
    "U-Net on lite2, 34 epochs": ("val_long", "default_unet_lite2"),
}
# What `overview` shows: lines, and columns (set-up, points, base, measure).
ITSELF = "{}"  # the base
ADDED = {
    "plain, the score itself": ITSELF,
    "mean teacher": "teacher",
    "CutMix": "plain+cut_mix",
    "mean teacher, CutMix": "teacher+cut_mix",
    "mean teacher, soft labels": "labels",
    "all three: `default`": "default",
    "dense masks, plain": "dense",
    "dense masks, mean teacher, CutMix": "dense+teacher+cut_mix",
}
ADDED_WHERE = {
    "`val`, 5 points": ("val", "5", "plain", "miou"),
    "`val`, 20 points": ("val", "20", "plain", "miou"),
    "`choose`, 20 points": ("choose24", "20", "plain", "miou"),
}
LEFT_OUT = {
    "default, the score itself": ITSELF,
    "`PSEUDO_LABEL_WEIGHT = 0`: no soft labels": "teacher+cut_mix",
    "`CUT_MIX = 0`": "labels",
    "both, and no teacher: plain": "plain",
}
LEFT_OUT_WHERE = {
    f"{name}, {points} points: {what}": (setup, points, "default", key)
    for name, setup, points in (("`val`", "val", "5"), ("`val`", "val", "20"), ("`choose`", "choose24", "20"))
    for what, key in (("mIoU", "miou"), ("road", "iou_road"))
}
BESIDE_LABELS = {
    "teacher and soft labels, the score itself": ITSELF,
    "`PSEUDO_LABEL_THRESHOLD = 0.9`": "labels+threshold",
    "`POINT_EVIDENCE = False`": "labels-evidence",
    "`TEACHER_VIEWS` 4, not 2 (`rejected.py`)": "labels+views",
    "`TEACHER_VIEWS` 1, not 2 (`rejected.py`)": "labels-views",
}
BESIDE_MEAN = {
    "mean teacher, the score itself": ITSELF,
    "confident labels": "confident",
    "confident labels and `CUT_MIX = 0.5`": "confident+cut_mix",
    "`PAIRWISE_WEIGHT` 0.01 (`rejected.py`)": "pairwise",
    "`REGION_WEIGHT` 0.5 (`rejected.py`)": "regions",
    "`MULTI_SCALE = 1.4`": "multi_scale",
}
SAMPLED = {
    "random, the score itself": ITSELF,
    "stratified": "{}_stratified",
    "grid": "{}_grid",
    "boundary": "{}_boundary",
}
SAMPLED_WHERE = {
    "default, 20: mIoU": ("val", "20", "default", "miou"),
    "IoU of roads": ("val", "20", "default", "iou_road"),
    "default, 100: mIoU": ("val", "100", "default", "miou"),
    "IoU of roads, 100": ("val", "100", "default", "iou_road"),
    "plain, 20 (`choose`): mIoU": ("choose", "20", "plain", "miou"),
    "IoU of roads, plain": ("choose", "20", "plain", "iou_road"),
}
PLACES = {
    "random forest": "forest",
    "plain": "plain",
    "default": "default",
    "default, smp's U-Net": "default_smp_unet",
}
PLACES_WHERE = {
    "`val`": ("val", "100", "", "miou"),
    "`val`, 256 px": ("val256", "100", "", "miou"),
    "`scenes`": ("scenes", "100", "", "miou"),
    "`scenes`, 256 px": ("scenes256", "100", "", "miou"),
    "`choose_scenes`": ("choose_scenes", "100", "", "miou"),
}
ARMS = {
    "generated": "variant",
    "infrared": "bands",
    "peer": "variant",
}  # CSVs of few cells: the column that tells them apart
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


def study_rows(setup: dict, name: str = "study.csv") -> list[dict]:
    """The study's cells of one set-up, and the forests of the same tiles, which train for no epochs."""
    found = rows(name, **{key: value for key, value in setup.items() if key != "epochs"})
    return [row for row in found if row["epochs"] in ("0", setup["epochs"])]


def pick(found: list[dict], **wanted: str | None) -> list[dict]:
    """None: of rows whose CSV lacks that column."""
    return [row for row in found if all(row.get(key) == value for key, value in wanted.items())]


def budgets(found: list[dict]) -> list[str]:
    return sorted({row["points"] for row in found} - {"all"}, key=int)


def by_seed(found: list[dict], key: str) -> dict[str, float]:
    """A column's value for every seed; a cell run in both precisions counts once."""
    values = {}
    for row in found:
        if row.get(key):
            values.setdefault(row["seed"], []).append(float(row[key]))
    return {seed: statistics.mean(several) for seed, several in values.items()}


def column(found: list[dict], key: str = "miou") -> list[float]:
    return list(by_seed(found, key).values())


def paired(found: list[dict], base: list[dict], key: str, how) -> list[float]:
    """how(value, value of the base) for every seed that both have; an ensemble against the mean of its seeds.

    Where the base was run in several precisions, the row of the same one is taken.
    """
    values = {}
    for row in found:
        theirs = by_seed(base, key) | by_seed(pick(base, precision=row.get("precision")), key)
        seeds = row["seed"].split()
        if row.get(key) and set(seeds) <= set(theirs):
            other = statistics.mean(map(theirs.get, seeds))
            values.setdefault(row["seed"], []).append(how(float(row[key]), other))
    return [statistics.mean(several) for several in values.values()]


def gains(found: list[dict], base: list[dict], key: str = "miou") -> list[float]:
    return paired(found, base, key, lambda a, b: a - b)


def overfitting(found: list[dict]) -> list[float]:
    """How much better a model is on the dense masks of its own train tiles, for every seed that has it."""
    scored = [row for row in found if row.get("train_miou")]
    return column([row | {"gap": float(row["train_miou"]) - float(row["miou"])} for row in scored], "gap")


def beyond_chance(values: list[float]) -> bool:
    """Whether a mean is further from 0 than 2.5 standard deviations: for three seeds, a t test at 5%."""
    return len(values) > 2 and abs(statistics.mean(values)) > 2.5 * statistics.stdev(values)


def costs(found: list[dict], base: list[dict], key: str = "seconds") -> list[float]:
    """Times relative to the base's, seed by seed; only those of one machine make a ratio."""
    ratios = []
    for row in found:
        ratios += paired([row], pick(base, hardware=row.get("hardware")), key, lambda a, b: a / b)
    return ratios


def family_of(name: str) -> str:
    """The variant that this name begins with: `labels` for `labels+views`; `plain` for any other."""
    family = re.match("[a-z]+", name)[0]
    return family if family != name and family in ("plain", "dense", "labels", "default") else "plain"


def base_of(name: str, present: Collection[str]) -> str:
    """The variant that this one is compared with: what it adds one part to, if present, else its family.

    Another network without ImageNet is compared with the family without it, a ResNet50 with a plain ResNet50.
    """
    family = family_of(name)
    nearest = "teacher" if name in BESIDE_TEACHER else family
    if name.endswith("_random_weights"):
        nearest = f"{family}_random_weights"
    if name.endswith("_resnet50"):
        nearest = "plain_resnet50"
    return nearest if nearest != name and nearest in present else family


def cell_and_base(found: list[dict], name: str, points: str) -> tuple[list[dict], list[dict]]:
    """The rows of a cell, and of the variant that it is compared with; of dense masks that of any budget."""
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
    """For every set-up and budget with a variant of this kind: title, rows of those and of their bases.

    Of `methods` those alone that no other table has.
    """
    result = []
    alone = ("forest", *WITH_MASKS.values())  # make no comparison
    keys = ("split", "size", "epochs", "every")
    for values in dict.fromkeys(tuple(row[key] for key in keys) for row in rows("study.csv")):
        setup = dict(zip(keys, values, strict=True))
        together = study_rows(setup)
        for points in budgets(together):
            here = [row for row in together if row["points"] in (points, "all")]
            names = dict.fromkeys(row["variant"] for row in here)
            own = [name for name in names if kind_of(name) == kind and name not in alone]
            elsewhere = setup in COMPARED.values() or any(kind_of(name) == "parts" for name in names)
            families = dict.fromkeys(["plain", *map(family_of, own)])
            order = [family + suffix for family in families for suffix in KINDS.get(kind, ())]
            if kind in ("parts", "methods"):
                order = [
                    "forest",
                    *WITH_MASKS,
                    *WITH_MASKS.values(),
                    *(sorted(own) if kind == "parts" else []),
                ]
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


def counted(values: list[float], digits: int = 3, sign: str = "") -> str:
    """The same with the number of seeds."""
    return f"{spread(values, digits, sign)} ({len(values)})" if values else "-"


def gained(own: list[dict], base: list[dict], key: str = "miou") -> str:
    """The gain, seed by seed: bold beyond chance, marked if a seed and its base differ in precision."""
    alike = {(row["seed"], row.get("precision")) for row in base}
    seeds = {row["seed"] for row in base}
    # The forest and the light classifier know one precision alone.
    networks = (row for row in own if row.get("variant") != "forest" and row.get("precision"))
    mixed = any(row["seed"] in seeds and (row["seed"], row.get("precision")) not in alike for row in networks)
    values = gains(own, base, key)
    bold = "**" if beyond_chance(values) else ""
    return f"{bold}{counted(values, sign='+')}{bold}{MIXED if mixed else ''}"


def markdown(header: Iterable[str], body: list[list[str]]) -> str:
    """A table without the columns that hold nothing."""
    if not body:
        return NOT_RUN
    columns = [cells for cells in zip(header, *body, strict=True) if set(cells[1:]) - {"-", ""}]
    header, *body = zip(*columns, strict=True)
    return "\n".join(f"| {' | '.join(line)} |" for line in [header, ["---"] * len(header), *body])


def points_table(setup: dict, width: int | None = None, network: str = "") -> str:
    """The methods at each budget of points and with every pixel labelled; width: the first columns alone.

    network: how the variants in networks.csv end, that compare another with the study's own in last columns.
    """
    found, body = study_rows(setup, "networks.csv" if network else "study.csv"), []
    dense = column(pick(found, variant=f"dense{network}"))
    machines = [row.get("hardware") for row in found if row["epochs"] != "0"]
    machine = max(machines, key=machines.count, default=None)  # times are of the one that trained most
    for points in [*budgets(found), *(["all"] if dense else [])]:
        usual = {name: WITH_MASKS.get(name, "") if points == "all" else name for name in METHODS}
        variants = {name: variant + network * (name != "forest") for name, variant in usual.items()}
        own = {name: pick(found, variant=variant, points=points) for name, variant in variants.items()}
        if network and not own["default"]:
            continue
        mious = [counted(column(cells)) for cells in own.values()]
        reached = column(own["default"]) if dense else []
        share = f"{statistics.mean(reached) / statistics.mean(dense):.1%}" if reached else "-"
        minutes = [
            in_minutes(column(pick(cells, hardware=machine) or cells, "seconds")) for cells in own.values()
        ]
        gain, cost = gained(own["default"], own["plain"]), costs(own["default"], own["plain"])
        before = pick(found, variant=usual["default"], points=points)  # in turns, so that times compare
        paired_with = before or pick(study_rows(setup), variant=usual["default"], points=points)
        over = gained(own["default"], paired_with), counted(costs(own["default"], before), 2)
        body.append([points, *mious, gain, share, *minutes, counted(cost, 2), *(over if network else [])])
    header = [
        "points per tile",
        *METHODS.values(),
        "default over plain, seed by seed",
        "default, of dense masks",
    ]
    header += [*(f"minutes of {name}" for name in METHODS.values()), "time of default, plain = 1"]
    header += ["default over DeepLabV3+, seed by seed", "its time, DeepLabV3+ = 1"] if network else []
    return markdown(header[:width], [line[:width] for line in body])


def in_minutes(seconds: list[float]) -> str:
    digits = 1 if seconds and statistics.mean(seconds) >= 60 else 2
    return spread([value / 60 for value in seconds], digits)


def overview(lines: dict[str, str], columns: dict[str, tuple[str, str, str, str]]) -> str:
    """One measure of the lines' variants in each column: the base's own, and what others gain over it.

    Without a base, each its own. A column that has the base alone is left out.
    """
    shown = []
    for where, points, base, key in columns.values():
        found = [row for row in study_rows(SETUPS[where]) if row["points"] in (points, "all")]
        simple, cells = pick(found, variant=base), []
        for pattern in lines.values():
            own = pick(found, variant=pattern.format(base))
            cells.append(gained(own, simple, key) if base and own != simple else counted(column(own, key)))
        shown.append(cells if set(cells[1:]) - {"-"} else ["-"] * len(cells))
    return markdown(["", *columns], [list(line) for line in zip(lines, *shown, strict=True)])


def measures(*cell: str) -> dict[str, tuple]:
    return {"mIoU": (*cell, "miou"), "IoU of roads": (*cell, "iou_road")}


def more_points_table() -> str:
    """What the next points bring, seed by seed, and the default's classes."""
    found, body = study_rows(COMPARED["val"]), []
    classes = class_keys(found)
    for steps in [*itertools.pairwise(budgets(found)), ("20", "100")]:
        own = {name: [pick(found, variant=name, points=points) for points in steps] for name in METHODS}
        line = [gained(more, fewer) for fewer, more in own.values()]
        line += [gained(*reversed(own["default"]), key) for key in classes]
        body.append([" to ".join(steps), *line])
    header = [
        "points per tile",
        *METHODS.values(),
        *(f"default: {key.removeprefix('iou_')}" for key in classes),
    ]
    return markdown(header, body)


def twice_table() -> str:
    """What twice the tiles or the steps bring, seed by seed."""
    body = []
    for what, setups in TWICE.items():
        less, more = (pick(study_rows(SETUPS[setup]), points="20") for setup in setups)
        gain = [gained(pick(more, variant=name), pick(less, variant=name)) for name in ("plain", "default")]
        body.append([what, *gain])
    return markdown(["at twenty points per tile", "plain", "default"], body)


def steps_table() -> str:
    """Whether more tiles, or the same for as many steps, bring more."""
    how, body = {"variant": "default_unet", "points": "20"}, []
    cells = {what: pick(study_rows(SETUPS[where], "networks.csv"), **how) for what, where in STEPS.items()}
    bases = dict([*cells.items()][:2])
    for what, own in cells.items():
        gain = ("-" if base == what else gained(own, bases[base]) for base in bases)
        body.append([what, counted(column(own)), *gain])
    return markdown(["at twenty points per tile", "default", *(f"over {base}" for base in bases)], body)


def longer_table() -> str:
    """The default with what a machine without a GPU can take, at each budget, and its lead over the first."""
    points, body, bases = ("5", "20", "100"), [], {}
    for what, (where, variant) in LONGER.items():
        later, first = (study_rows(SETUPS[where], name) for name in ("networks.csv", "study.csv"))
        own = {
            n: pick(later, variant=variant, points=n) or pick(first, variant=variant, points=n)
            for n in points
        }
        bases = bases or own
        gain = ("-" if own is bases else gained(own[n], bases[n]) for n in points)
        body.append([what, *(counted(column(own[n])) for n in points), *gain])
    header = [f"{n} points per tile" for n in points] + [f"lead at {n}, seed by seed" for n in points]
    return markdown(["default", *header], body)


def class_keys(found: list[dict]) -> list[str]:
    """The columns of a CSV that hold the IoU of a class."""
    return [key for key in (found[0] if found else {}) if key.startswith("iou_")]


def class_columns(found: list[dict]) -> dict:
    """IoU of each class: columns of a table, as functions of a cell's rows."""
    return {
        key.removeprefix("iou_"): lambda own, key=key: spread(column(own, key)) for key in class_keys(found)
    }


def classes_table(setup: dict) -> str:
    """IoU of each class for the methods at some budgets."""
    found, body = study_rows(setup), []
    columns = {"pixel accuracy": lambda own: spread(column(own, "pixel_accuracy"))} | class_columns(found)
    for points in [*(points for points in budgets(found) if points in CLASSWISE), "all"]:
        for name in METHODS:
            if own := pick(found, variant=WITH_MASKS.get(name) if points == "all" else name, points=points):
                shares = [show(own) for show in columns.values()]
                body.append([points, METHODS[name], str(len(column(own))), *shares])
    return markdown(["points per tile", "method", "seeds", *columns], body)


def variants_table(kind: str) -> str:
    """Variants against what they are a change of, in every set-up and at every budget that they have."""
    together, body, extra = groups(kind), [], {}
    cells = [own for _, named in together for own in named.values()]
    if any(column(own, "train_miou") for own in cells):
        extra["train mIoU - mIoU"] = lambda own: counted(overfitting(own))
    if kind == "networks":
        extra |= {
            "network": lambda own: f"`{own[0]['backbone']}`",
            "starts from": lambda own: own[0]["weights"],
        }
    if kind == "where":
        extra |= class_columns(cells[0] if cells else [])
    for title, named in together:
        plain = named.get("plain") or named.get("plain_resnet50", [])
        for name, own in named.items():
            base = base_of(name, named)
            gain = gained(own, named.get(base, [])) if name != "plain" else "-"
            against = f"{gain} over {base}" if gain != "-" else gain
            roads = gained(own, named.get(base, []), "iou_road") if name != "plain" else "-"
            line = [title, f"`{name}`", counted(column(own)), against, roads, spread(costs(own, plain), 1)]
            body.append(line + [show(own) for show in extra.values()])
            title = ""
    header = [
        "set-up",
        "variant",
        "mIoU",
        "gain, seed by seed",
        "in the IoU of roads",
        "training time, plain = 1",
    ]
    return markdown([*header, *extra], body)


def inference_table() -> str:
    """What is gained at prediction, for every set of models."""
    found, body = rows("inference.csv"), []
    keys = ("variant", "points", "split", "size", "epochs", "every")
    for cell in dict.fromkeys(tuple(row[key] for key in keys) for row in found):
        here = pick(found, **dict(zip(keys, cell, strict=True)))
        plain, title = pick(here, way="plain"), f"`{cell[0]}`: {setup_title(here[0], cell[1])}"
        for way in dict.fromkeys(row["way"] for row in here):
            own = pick(here, way=way)
            gain = [gained(own, plain, key) if way != "plain" else "-" for key in ("miou", "iou_road")]
            cost = spread(costs(own, plain, "seconds_per_tile"), 1)
            body.append([title, way, counted(column(own)), *gain, cost])
            title = ""
    header = ["models", "prediction", "mIoU", "gain, seed by seed", "in the IoU of roads", "time, plain = 1"]
    return markdown(header, body)


def across_table() -> str:
    """How far each network leads over the random forest in scenes never seen, the furthest first."""
    body = []
    for setup, points in itertools.product((SETUPS["scenes"], SETUPS["scenes256"]), ("100", "all")):
        found = study_rows(setup)
        forest = pick(found, variant="forest", points="100")
        predicted = rows("inference.csv", **setup, points=points)
        tries = [(row["variant"], "") for row in pick(found, points=points) if row not in forest]
        tries += [(row["variant"], row["way"]) for row in predicted if row["way"] != "plain"]
        for name, way in dict.fromkeys(tries):
            own = pick(predicted, variant=name, way=way) if way else pick(found, variant=name, points=points)
            if lead := gains(own, forest):
                line = [
                    f"`{name}`",
                    way,
                    setup_title(setup, points),
                    counted(column(own)),
                    spread(column(forest)),
                ]
                body.append((statistics.mean(lead), [*line, counted(lead, sign="+")]))
    body.sort(key=lambda entry: -entry[0])
    header = ["network", "prediction", "set-up", "mIoU", "forest, 100 points", "lead, seed by seed"]
    return markdown(header, [line for _, line in body])


def first_run_table() -> str:
    """README's first command on the generated tiles, of benchmarks/first_run.py."""
    found, body = rows("first_run.csv"), []
    keys = ("epochs", "network", "precision", "weights", "hardware")
    for values in dict.fromkeys(tuple(row.get(key, "-") for key in keys) for row in found):
        own = [row for row in found if tuple(row.get(key, "-") for key in keys) == values]
        scores = [spread(column(own, "miou_of_last_epoch"))]
        scores += [show(own) for show in class_columns(found).values()]
        times = [spread(column(own, key), 0) for key in ("seconds", "all_seconds")]
        body.append([counted(column(own)), *scores, *times, *values])
    header = ["mIoU", "last epoch's", *class_columns(found), "seconds of training", "of all", *keys]
    return markdown(header, body)


def arms(name: str, *wanted: str) -> list[list[dict]]:
    """The rows of each arm of a CSV of `ARMS`; after an @ the number of epochs, where it has several."""
    found = rows(f"{name}.csv")
    parts = [arm.partition("@") for arm in wanted]
    return [
        pick(found, **{ARMS[name]: arm} | ({"epochs": epochs} if at else {})) for arm, at, epochs in parts
    ]


def generated_table() -> str:
    """Points against dense masks on generated scenes, of benchmarks/generated_scenes.sh."""
    found, body = rows("generated.csv"), []
    shown = {"forest": "random forest", "plain_unet": "plain", "default_unet": "default"}
    shown |= {"dense_unet": "dense masks, plain", "dense+teacher+cut_mix_unet": "with teacher and CutMix"}
    shown |= {f"{name}_stratified": f"{shown[name]}, stratified" for name in ("plain_unet", "default_unet")}
    for epochs in sorted({row["epochs"] for row in found}, key=int):
        dense = pick(found, variant="dense_unet", epochs="24" if epochs == "0" else epochs)
        for name, title in shown.items():
            if own := pick(found, variant=name, epochs=epochs):
                base = "plain_unet" + "_stratified" * name.endswith("_stratified")
                gain = gained(own, pick(found, variant=base, epochs=epochs)) if name != base else "-"
                share = paired(own, dense, "miou", operator.truediv)
                scores = [spread(column(own, key)) for key in class_keys(found)]
                body.append([title, epochs, counted(column(own)), gain, spread(share), *scores])
    classes = [key.removeprefix("iou_") for key in class_keys(found)]
    header = ["20 points per tile", "epochs", "mIoU", "over plain, seed by seed", "of dense masks", *classes]
    return markdown(header, body)


def infrared_table() -> str:
    """The same tiles and points without and with near infrared, of benchmarks/infrared.py."""
    keys, body = ["miou", *class_keys(rows("infrared.csv"))], []
    without, with_it = arms("infrared", "1,2,3", "1,2,3,4")
    for title, own in (("`BANDS = 1,2,3`", without), ("`BANDS = 1,2,3,4`", with_it)):
        body.append([title, *(counted(column(own, key)) for key in keys)])
    body.append(["gain, seed by seed", *(gained(with_it, without, key) for key in keys)])
    header = ["", *(key.removeprefix("iou_").replace("miou", "mIoU") for key in keys)]
    return markdown(header, body) if with_it else NOT_RUN


def peer_table() -> str:
    """The same tiles, points and epochs with another program, of benchmarks/peer.py."""
    found, body = rows("peer.csv"), []
    (peer,) = arms("peer", "geoai")
    for name in dict.fromkeys(row["variant"] for row in found):
        own = pick(found, variant=name)
        lead = gained(own, peer) if name != "geoai" else "-"
        times = [spread(column(own, "seconds"), 0), spread(costs(own, peer), 2)]
        body.append([f"`{name}`", counted(column(own)), lead, *times])
    header = ["", "mIoU", "over geoai, seed by seed", "processor seconds", "of geoai's"]
    return markdown(header, body) if found else NOT_RUN


def unlabelled_table() -> str:
    """Images without a label beside labelled tiles, of benchmarks/unlabelled.py."""
    found, body, what = rows("unlabelled.csv"), [], ("split", "every", "epochs", "points")
    for setup in dict.fromkeys(tuple(row[key] for key in what) for row in found):
        cells = pick(found, **dict(zip(what, setup, strict=True)))
        control, (split, every, epochs, points) = pick(cells, way="control"), setup
        title = f"`{split}`, every {ordinal(every)} tile, {epochs} epochs, {points} points"
        for way in dict.fromkeys(row["way"] for row in cells):
            own = pick(cells, way=way)
            gain = gained(own, control) if way != "control" else "-"
            scores = [spread(column(own, key)) for key in class_keys(found)]
            cost = spread(costs(own, control), 1)
            body.append([title, f"`{way}`", counted(column(own)), gain, cost, *scores])
            title = ""
    classes = [key.removeprefix("iou_") for key in class_keys(found)]
    header = ["set-up", "images", "mIoU", "over control, seed by seed", "its time", *classes]
    return markdown(header, body) if found else NOT_RUN


def tiles_table() -> str:
    """The tiles that were measured, of benchmarks/dubai_tiles.py."""
    found, body = rows("dubai_tiles.csv"), []
    keys = list(found[0])[2 : list(found[0]).index("sha256")] if found else []
    for row in found:
        pixels = sum(int(row[key]) for key in keys)
        shares = [f"{int(row[key]) / pixels:.1%}" for key in keys]
        body.append([row["split"], row["tiles"], *shares, f"`{row['sha256'][:12]}`"])
    return markdown(["tiles", "number", *keys, "SHA-256 of the masks"], body)


def active_table(name: str) -> str:
    """Rounds of labelling, of tools/active_learning.py simulate: each strategy, and beside random points."""
    found = rows(name)
    budgets = sorted({row["points_per_tile"] for row in found}, key=int)
    arms = {arm: pick(found, arm=arm) for arm in dict.fromkeys(row["arm"] for row in found)}
    body = []
    for arm, own in arms.items():
        at = {points: pick(own, points_per_tile=points) for points in budgets}
        base = {points: pick(arms["random"], points_per_tile=points) for points in budgets}
        gains_over = [gained(at[points], base[points]) if arm != "random" else "-" for points in budgets[1:]]
        body.append([f"`{arm}`", *(counted(column(found)) for found in at.values()), *gains_over])
    over = [f"over random at {points}" for points in budgets[1:]]
    return markdown(["strategy", *(f"{points} points per tile" for points in budgets), *over], body)


def clicks_table() -> str:
    """The light classifier beside the random forest on the same points, of benchmarks/clicks.py."""
    found, body = rows("clicks.csv", strategy="same points"), []
    for points in sorted({row["points"] for row in found}, key=int):
        ours = pick(found, points=points)
        where = {name: ours[0][name] for name in ("split", "every", "size")}
        forest = rows("study.csv", variant="forest", points=points, **where)
        gain = gained(ours, forest)
        body.append(
            [points, counted(column(forest)), counted(column(ours)), gain, gained(ours, forest, "iou_road")]
        )
    names = "random forest", "light classifier", "over the forest, seed by seed", "in the IoU of roads"
    return markdown(["points per tile", *names], body)


def pictures_table() -> str:
    """The pixel accuracy on the tiles of the picture, of benchmarks/pictures.py."""
    methods, body = ("plain", "default", "dense"), []
    for row in rows("pictures.csv"):
        body.append([row["percentile"], row["tile"], *(f"{float(row[key]):.0%}" for key in methods)])
    return markdown(["percentile of default", "tile", *methods], body)


def labels_table() -> str:
    """How good the labels are that unlabelled pixels get, of benchmarks/soft_labels.py."""
    found, body = rows("labels.csv", points="20"), []
    for way in dict.fromkeys(row["way"] for row in found):
        own = pick(found, way=way)
        body.append([way, *(spread(column(own, key)) for key in ("coverage", "accuracy", "miou"))])
    return markdown(["labels from", "share of pixels labelled", "share of those right", "their mIoU"], body)


def machine_of(row: dict) -> str:
    """A device in a word: a CPU by what it computes with, for the same precision is another matter there."""
    return next(
        (f"cpu ({name})" for name in ("AMX", "AVX512", "AVX2") if name in row["hardware"]), row.get("device")
    )


def speed_table() -> str:
    """This program beside the loop of the tutorials, of benchmarks/speed.py."""
    body = []
    for row in rows("speed.csv"):
        if not row["measure"].startswith("stage: "):
            keys = ("plain_of_matrix_rate", "ours_of_matrix_rate")
            shares = [f"{float(row[key]):.0%}" if row[key] else "-" for key in keys]
            values = [f"{float(row[key]):,.4g}" if row[key] else "-" for key in ("plain", "ours", "ratio")]
            machine = f"{machine_of(row)}, {row['precision']}"
            body.append([f"`{row['backbone']}`", machine, row["measure"], row["unit"], *values, *shares])
    header = ["backbone", "device", "measure", "unit", "plain loop", "this program", "ratio"]
    return markdown([*header, "of the matrix rate: plain", "this program"], body)


def changes_table() -> str:
    """What single changes brought, of benchmarks/changes.py."""
    body = []
    for row in rows("changes.csv"):
        machine, times = (
            f"{machine_of(row)}, {row['precision']}",
            f"{row['before']}, {row['after']} {row['unit']}",
        )
        body.append([row["change"], machine, times, row["ratio"], row["kept"]])
    return markdown(["change", "device", "before, after", "times", "kept"], body)


def stages_table() -> str:
    """Where a training step's time goes, in milliseconds per tile."""
    found = [row for row in rows("speed.csv") if row["measure"].startswith("stage: ")]
    runs = dict.fromkeys((row["backbone"], machine_of(row)) for row in found)
    times = {(row["measure"], row["backbone"], machine_of(row)): float(row["ours"]) for row in found}
    body = []
    for measure in dict.fromkeys(row["measure"] for row in found):
        body.append([measure.removeprefix("stage: "), *(f"{times[(measure, *run)]:.3g}" for run in runs)])
    return markdown(["stage", *(f"`{backbone}`, {device}" for backbone, device in runs)], body)


def big_scene_table() -> str:
    """Time and memory of mapping a scene, beside those of an earlier commit, of benchmarks/big_scene.py."""
    body = []
    for row in rows("big_scene.csv"):
        side = f"{int(row['side']):,}"
        cells = [f"{side} x {side}", row["network"], *cost_of_scene(row, "")]
        theirs = ["-"] * 5
        if row["against"]:
            theirs = [*cost_of_scene(row, "against_"), row["ratio"], f"{100 * float(row['equal']):.3f}%"]
        body.append([*cells, *theirs, row["hardware"]])
    of_commit = [f"{what} of bf478b5" for what in ("memory", "wall time", "processor time")]
    header = ["pixels", "network", "peak memory", "wall time", "processor time", *of_commit]
    return markdown([*header, "times as fast", "ids alike", "hardware"], body)


def cost_of_scene(row: dict, side: str) -> list[str]:
    """Memory, wall time and processor time of one side of a row, the last only if it was measured."""
    memory, seconds = f"{int(row[f'{side}peak_mib']) / 1024:.2f} GiB", float(row[f"{side}seconds"])
    processor = row[f"{side}processor_seconds"]
    return [memory, f"{seconds:,.0f} s", f"{float(processor):,.0f} s" if processor else "-"]


def coverage_table() -> str:
    """In how many of 100 samples the intervals of areas held the truth, of benchmarks/coverage.py."""

    def held(found: list[dict], way: str = "") -> list[float]:
        return [float(row[f"{way}held_percent"]) for row in found if row[f"{way}held_percent"]]

    def least_to_most(values: list[float]) -> str:
        return f"{min(values):.1f} to {max(values):.1f}" if values else "-"

    groups: dict[tuple, list[dict]] = {}
    for row in rows("assess/coverage.csv"):
        name = f"{row['design']}, {row['ground']}" if row["design"] == "systematic" else row["design"]
        groups.setdefault((name, "150" if row["points"] == "150" else "more"), []).append(row)
    body = []
    for name, found in groups.items():
        own, rare = held(found), [row for row in found if float(row["true_share"]) <= 0.015]
        inside = f"{sum(93 <= value <= 97 for value in own) / len(own):.0%}"
        several = own, held(rare), held(found, "symmetric_"), held(found, "rejected_")
        body.append([*name, str(len(found)), str(len(own)), inside, *map(least_to_most, several)])
    head = ["design", "points", "areas", "with intervals", "of these held in 93 to 97", "least to most"]
    return markdown([*head, "classes of 1%", "symmetric", "rejected"], body)


SHORT = {  # tables of the report, with nothing that the others have not
    "budgets": lambda: points_table(COMPARED["val"], width=5),
    "unet_budgets": lambda: points_table(COMPARED["val"], width=6, network="_unet"),
    "added": lambda: overview(ADDED, ADDED_WHERE),
    "beside_labels": lambda: overview(BESIDE_LABELS, measures("choose", "20", "labels")),
    "beside_mean": lambda: overview(BESIDE_MEAN, measures("choose", "20", "teacher")),
    "sampled": lambda: overview(SAMPLED, SAMPLED_WHERE),
    "places": lambda: overview(PLACES, PLACES_WHERE),
}
TABLES = {
    **{name: lambda setup=setup: points_table(setup) for name, setup in COMPARED.items()},
    **{f"{name}_classes": lambda setup=setup: classes_table(setup) for name, setup in COMPARED.items()},
    **{kind: lambda kind=kind: variants_table(kind) for kind in ("parts", "methods", *KINDS)},
    "longer": longer_table,
    "unet": lambda: points_table(COMPARED["val"], network="_unet"),
    "more_points": more_points_table,
    "twice": twice_table,
    "steps": steps_table,
    "left_out": lambda: overview(LEFT_OUT, LEFT_OUT_WHERE),
    "across": across_table,
    "first_run": first_run_table,
    "generated": generated_table,
    "infrared": infrared_table,
    "peer": peer_table,
    "unlabelled": unlabelled_table,
    "tiles": tiles_table,
    "active": lambda: active_table("active_learning.csv"),
    "active_generated": lambda: active_table("active_generated.csv"),
    "clicks": clicks_table,
    "coverage": coverage_table,
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

LOOKS = {
    "default": ("#0072b2", "o"),
    "plain": ("#d55e00", "s"),
    "forest": ("#009e73", "^"),
}  # Okabe & Ito's colours


def points_rows() -> list[dict]:
    """What the curve shows: the methods on `val` at half resolution."""
    return [row for row in study_rows(COMPARED["val"]) if kind_of(row["variant"]) == "methods"]


def draw_points(figure, found: list[dict]) -> None:
    """mIoU over points per tile."""
    figure.set_size_inches(7, 4.3)
    axes = figure.subplots()
    for shift, (name, (color, marker)) in zip((1.03, 1, 0.97), LOOKS.items(), strict=True):
        own = {points: column(pick(found, variant=name, points=points)) for points in budgets(found)}
        at = [
            shift * int(points) for points, values in own.items() if values
        ]  # side by side: bars hide no other's
        several = [values for values in own.values() if values]
        means = [statistics.mean(values) for values in several]
        bars = [statistics.stdev(values) if len(values) > 1 else 0 for values in several]
        axes.errorbar(at, means, bars, color=color, marker=marker, capsize=4, label=METHODS[name])
    for name, style in zip(WITH_MASKS.values(), ("-", "--"), strict=True):
        if values := column(pick(found, variant=name)):
            mean, deviation = statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0
            trained = "plain" if name == "dense" else "with default's teacher and CutMix"
            label = f"dense masks, {trained}"
            axes.axhline(mean, color="black", linestyle=style, linewidth=1.2, label=label)
            axes.axhspan(mean - deviation, mean + deviation, color="black", alpha=0.1, linewidth=0)
    axes.set(xscale="log", xlabel="labelled points per tile", ylabel="mIoU")
    axes.set_title("other parts of the same scenes, 128 px; ± standard deviation over seeds", fontsize=10)
    axes.set_xticks([int(points) for points in budgets(found)], budgets(found))
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", frameon=False, ncols=2)


FIGURES = {
    "points": (points_rows, draw_points),
    "pictures": (
        lambda: rows("pictures.csv"),
        None,
    ),  # drawn by benchmarks/pictures.py, which needs the models
}


def figure_path(name: str) -> Path:
    return ROOT / f"benchmarks/results/figures/{name}.png"


def save_figure(figure, name: str, found: list[dict]) -> None:
    """Writes a figure with the hash of the rows that it shows; matplotlib's version would change the file."""
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


def marked(source: str, key: str) -> list[float]:
    """The values behind a mark, of each seed where there are several.

    Of a cell (see `of_cell`), of a measurement of speed or of the first run on a kind of CPU (spaces as _),
    of a column of a CSV of that name, of two arms of a CSV (see `of_arms`), or of a run of its own, a path
    into its metrics.json.
    """
    kind, _, cell = source.partition(":")
    if kind == "speed":
        backbone, cpu, measure = cell.split("/")
        found = rows("speed.csv", backbone=backbone, measure=measure.replace("_", " "))
        return [float(row[key]) for row in found if machine_of(row) == f"cpu ({cpu})"]
    if kind == "first_run" and cell:
        return column([row for row in rows("first_run.csv") if machine_of(row) == f"cpu ({cell})"], key)
    if cell:
        return of_cell(kind, *cell.split("/"), key=key)
    if "/" in source:
        return of_arms(*source.split("/"), key=key)
    if found := rows(f"{source}.csv"):
        return column(found, key)
    found = json.loads((ROOT / "benchmarks/results" / source / "metrics.json").read_text(encoding="utf-8"))
    for part in key.split("."):
        found = found[part]
    return [float(found)]


def of_cell(kind: str, setup: str, name: str, points: str, way: str = "", *, key: str) -> list[float]:
    """Of a cell of study.csv or networks.csv, or of a way of predicting with its models (spaces as _): a
    column or one of these.

    `seeds`, their number; `gain` and `cost` over its base; `points`, the gain in hundredths without its sign;
    `lead` over the forest in hundredths; `gap`, the share of the way from plain training to dense masks.
    They are of mIoU, or of another column after a dot: `gain.iou_road`.
    """
    what, _, measure = key.partition(".")
    measure = measure or "miou"
    found = study_rows(SETUPS[setup], "networks.csv" if kind == "networks" else "study.csv")
    own, base = cell_and_base(found, name, points)
    clock = "seconds"
    if kind == "inference":
        predicted = rows("inference.csv", **SETUPS[setup], variant=name, points=points)
        own, base = pick(predicted, way=way.replace("_", " ")), pick(predicted, way="plain")
        clock = "seconds_per_tile"
    gain, forest = gains(own, base, measure), pick(found, variant="forest", points=points)
    to_dense = gains(pick(found, variant="dense"), pick(found, variant="plain", points=points), measure)
    values = {
        "seeds": lambda: [len(column(own))],
        "gain": lambda: gain,
        "cost": lambda: costs(own, base, clock),
        "points": lambda: [abs(100 * statistics.mean(gain))] if gain else [],
        "lead": lambda: [100 * lead for lead in gains(own, forest, measure)],
        "gap": lambda: [statistics.mean(gain) / statistics.mean(to_dense)],
    }.get(what, lambda: column(own, key))()
    if not values:
        raise ValueError(f"{kind}:{setup}/{name}/{points}/{way}:{key}: benchmarks/results has no such rows")
    return values


def of_arms(name: str, own: str, base: str, *, key: str) -> list[float]:
    """Of two arms of a CSV, `gain` or `share` (their ratio) seed by seed, or `gap`, as in `of_cell`.

    They are of mIoU, or of another column after a dot.
    """
    what, _, measure = key.partition(".")
    measure = measure.replace("_", " ").replace("iou ", "iou_") or "miou"
    found, simple, dense = arms(name, own, base, base.replace("plain", "dense"))
    gain = gains(found, simple, measure)
    values = {
        "gain": lambda: gain,
        "share": lambda: paired(found, simple, measure, operator.truediv),
        "gap": lambda: [statistics.mean(gain) / statistics.mean(gains(dense, simple, measure))],
    }[what]()
    if not values:
        raise ValueError(f"{name}/{own}/{base}:{key}: benchmarks/results has no such rows")
    return values


TABLE = re.compile(r"(<!-- table:(\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
MARK = re.compile(
    r"(?P<mark><!-- (?P<source>(?:(?:study|networks|inference|speed|first_run):)?[\w+@/,-]+)"
    r":(?P<key>[\w.-]+) -->)"
    r"(?P<sign>[+-]?)\d+(?:\.(?P<decimals>\d+))?(?P<deviation> ± \d+(?:\.\d+)?)?"
)


def fill(text: str) -> str:
    """A document's text with every table and marked value as the CSVs have it now."""

    def filled(match: re.Match) -> str:
        values = marked(match["source"], match["key"])
        shown = values if match["deviation"] else [statistics.mean(values)]
        digits, sign = len(match["decimals"] or ""), "+" if match["sign"] == "+" else ""
        return match["mark"] + spread(shown, digits, sign)

    every = TABLES | SHORT
    return MARK.sub(filled, TABLE.sub(lambda m: f"{m[1]}{every[m[2]]()}\n{m[3]}", text))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
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
