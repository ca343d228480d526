"""Areas and accuracy of a finished map, with intervals, from a reference sample; scores of a trained model.

    python tools/assess.py sample --map maps/NAME_classes.tif --output reference.csv     where to look
    python tools/annotate.py --images scenes --points reference.csv                      look, blind
    python tools/assess.py report --map maps/NAME_classes.tif --reference reference.csv
    python tools/assess.py score --checkpoint best_model.pth --images tiles --labels masks

The pixels of a map, counted, are no estimate of areas: they hold its errors. `sample` draws pixels at random,
so that each has a known probability; `report` corrects the areas by what was found there. --map takes maps
of map_scenes.py (NAME_classes.tif or .png), or folders of them, all together one region. Maps in degrees or
Mercator are drawn from evenly on the ground. --reference takes points of whatever labels.py reads. `score`
needs no map: it scores a checkpoint on masks or points. The formulas stand in estimators.py.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import hashlib
import json
import math
import sys
import typing
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import estimators
import geo
import label_formats as formats
import labels
import numpy as np
from regions import Region, ground_of, learnt_from, read_region, visit_rows

import landcover_segmentation as lc

COLUMNS = ("image", "x", "y", "class", "stratum", "inclusion_probability", "stratum_share", "design")
DESIGNS = ("stratified", "simple", "systematic")
NAMELESS = (  # a map loses them where another program saves it anew
    "the map has no class names: tell the id of each word by --classes, a CSV of from,to like forest,1"
)
ESTIMATE = ("estimate", "standard_error", "low", "high")
METHODS = {
    "stratified": "drawn at random in strata (Olofsson et al. 2014; Stehman 2014)",
    "simple": "drawn at random, put into strata by the map's classes afterwards (Card 1982)",
    "systematic": "on a grid, taken for points drawn at random",
    "cluster": "in clusters drawn at random, by the ratio of cluster totals (Cochran 1977)",
}

# =====================================================================================================
# sample: a map -> pixels drawn at random
# =====================================================================================================


def draw(counts: np.ndarray, areas: np.ndarray, size: int, rng: lc.Rng) -> list[tuple[int, int]]:
    """Draws `size` different pixels of a stratum evenly on the ground: (row, which of the stratum there).

    counts, areas (R,): pixels of the stratum in each row, and the area of each. All, if there are fewer.
    """
    if size >= counts.sum():
        return [(int(row), at) for row in np.flatnonzero(counts) for at in range(counts[row])]
    chances = counts * areas / (counts * areas).sum()
    drawn: dict[tuple[int, int], None] = {}
    while len(drawn) < size:
        rows = rng.choice(len(counts), size - len(drawn), p=chances)
        drawn |= dict.fromkeys(zip(rows.tolist(), rng.integers(counts[rows]).tolist(), strict=True))
    return list(drawn)


def draw_grid(scenes: Iterable[geo.Scene], areas: np.ndarray, step: float, rng: lc.Rng) -> list[tuple]:
    """Draws a square grid with a random start on each scene: (row of all scenes, column).

    step: the side of a pixel of area 1 is its unit; areas (R,): of a pixel in each row, the smaller, the
    farther apart are rows.
    """
    nodes, first = [], 0
    for scene in scenes:
        own = areas[first : first + scene.height]
        side = math.sqrt(own.mean())
        down, across = np.cumsum(own / side), step / side
        rows = np.searchsorted(down, np.arange(rng.random() * step, down[-1], step), side="right")
        columns = np.arange(rng.random() * across, scene.width, across).astype(int)
        nodes += [(first + int(row), int(column)) for row in np.unique(rows) for column in columns]
        first += scene.height
    return nodes


def draw_sample(args: argparse.Namespace, region: Region) -> list[dict]:
    """Draws a reference sample: rows of COLUMNS, in random order."""
    counts, rng = region.counts, np.random.default_rng(args.seed)
    areas = region.areas / region.areas.max()
    present = np.flatnonzero(counts.any(0))
    size, deviations = wanted_size(args, region, present)
    picks: dict[int, list] = {}  # by row: place in it, class of the map, and what the file tells
    strata = [("all", None, counts.sum(1))]
    if args.design == "stratified":
        strata = [(region.class_names[at], at, counts[:, at]) for at in present]
    totals = np.array([areas @ own for _, _, own in strata])
    shares = totals / totals.sum()
    pixels = np.array([own.sum() for _, _, own in strata])
    numbers = [size]
    if len(strata) > 1:
        numbers = estimators.allocate(size, shares, args.allocation or "floor", deviations, pixels)
    for (name, class_id, own), share, total, number in zip(strata, shares, totals, numbers, strict=True):
        if args.design == "systematic":
            step = math.sqrt(max(1, total / number))
            drawn = draw_grid((each.scene for each in region.maps), areas, step, rng)
            chances = areas / step**2
        else:
            drawn = draw(own, areas, number, rng)
            chances = len(drawn) * areas / total
        for row, at in drawn:
            told = name, f"{min(1.0, chances[row]):.6g}", f"{share:.10g}", args.design
            picks.setdefault(row, []).append((at, class_id, told))
    rows = []
    for row, index, ids in visit_rows(region, picks):
        for at, class_id, told in picks[row]:
            inside = np.flatnonzero(ids != lc.IGNORE_INDEX if class_id is None else ids == class_id)
            column = at if args.design == "systematic" else int(inside[at])
            if ids[column] != lc.IGNORE_INDEX:
                pixel = region.maps[index].name, column, int(row - region.starts[index]), ""
                rows.append(dict(zip(COLUMNS, pixel + told, strict=True)))
    if not rows:
        lc.complain(f"{size_flag(args)}: the grid met no pixel with data; ask for more points")
    return [rows[at] for at in rng.permutation(len(rows))]


def wanted_size(args: argparse.Namespace, region: Region, present: np.ndarray) -> tuple[int, np.ndarray]:
    """The number of points, and the guessed standard deviation in each class of the map, (H,).

    What a map class holds of another is guessed as an equal part of its errors.
    """
    names, hectares = region.class_names, (region.areas @ region.counts)[present]
    guesses = np.array(args.users_accuracy or [0.8] * len(names))
    if len(guesses) != len(names) or not ((guesses > 0) & (guesses < 1)).all():
        lc.complain(f"--users-accuracy: give {len(names)} numbers between 0 and 1: {', '.join(names)}")
    shares = guesses[present]
    if args.of:
        target = lc.find_class(args.of, names, "--of")
        shares = np.where(present == target, shares, (1 - shares) / max(1, len(names) - 1))
    size, pixels = args.size, int(region.counts.sum())
    if args.half_width is not None:
        if not 0 < args.half_width < 1:
            lc.complain(f"--half-width {args.half_width}: must lie between 0 and 1, like 0.03")
        size = estimators.sample_size(hectares / hectares.sum(), shares, args.half_width, pixels)
    if size < 2 * len(present):
        least = f"{2 * len(present)} are the least, two in each class of the map"
        lc.complain(f"{size_flag(args)}: makes a sample of {size}; {least}")
    return min(size, pixels), np.sqrt(shares * (1 - shares))


def size_flag(args: argparse.Namespace) -> str:
    """What the person gave for the number of points, for messages."""
    return f"--size {args.size}" if args.half_width is None else f"--half-width {args.half_width}"


def check_flags(args: argparse.Namespace) -> None:
    """Raises InputError for what `sample` was told and would not heed."""
    if args.seed < 0:
        lc.complain(f"--seed {args.seed}: must be 0 or more")
    if args.allocation and args.design != "stratified":
        lc.complain(f"--allocation {args.allocation}: there are no strata with --design {args.design}")
    guessing = args.half_width is not None or args.allocation == "neyman"
    for name, value in (("--of", args.of), ("--users-accuracy", args.users_accuracy)):
        if value and not guessing:
            lc.complain(f"{name}: serves --half-width and --allocation neyman; give one of them, too")


def write_sample(args: argparse.Namespace) -> None:
    """Writes the CSV for annotate.py and, where the maps have a place, a GeoPackage for QGIS."""
    check_flags(args)
    if args.output.suffix.lower() != ".csv":
        raise lc.InputError(f"--output {args.output}: must be a file NAME.csv")
    labels.check_no_label_lost(args.output)
    check_no_label_lost(args.output.with_suffix(".gpkg"))
    region = read_region(args.map)
    rows, written = draw_sample(args, region), [args.output]
    lc.prepare_output(args.output.parent)
    with contextlib.ExitStack() as results:
        lc.write_history(results.enter_context(lc.atomic_write(args.output)), rows)
        if all(each.scene.crs for each in region.maps):
            written.append(args.output.with_suffix(".gpkg"))
            write_geopackage(results.enter_context(lc.atomic_write(written[-1])), rows, region)
    print("wrote " + ", ".join(map(str, written)))
    found = Counter(row["stratum"] for row in rows)
    print(f"{geo.counted(len(rows), 'point')}, {args.design}: {lc.format_counts(found)}")
    print(f"next, label them: python tools/annotate.py --images SCENES --points {args.output}")


def check_no_label_lost(path: Path) -> None:
    """Raises InputError if a GeoPackage that is to be written holds labels, as given in QGIS."""
    if not path.exists():
        return
    formats.need_packages(path)
    import pyogrio

    with lc.readable(path):
        for layer, _ in pyogrio.list_layers(path):
            table = pyogrio.read_dataframe(path, layer=layer, read_geometry=False)
            if any(map(formats.text_of, table.get("class", ()))):
                problem = "holds labels, which would be lost"
                raise lc.InputError(f"{path}: {problem}; name another file with --output")


def write_geopackage(path: Path, rows: list[dict], region: Region) -> None:
    """Writes the middle of each pixel, in the reference system of the first map."""
    formats.need_packages(path)
    import geopandas

    crs = region.maps[0].scene.crs
    names = [each.name for each in region.maps]
    pixels = np.array([(names.index(row["image"]), row["y"], row["x"]) for row in rows]).T
    places = geopandas.points_from_xy(*ground_of(region, *pixels, crs))
    points = geopandas.GeoDataFrame(rows, geometry=places, crs=crs)
    points.to_file(path, driver="GPKG", layer="reference", engine="pyogrio")


# =====================================================================================================
# report: a map and what was found at its points -> areas and accuracy
# =====================================================================================================


class Reference(typing.NamedTuple):
    """The n points of a reference sample that have a class."""

    where: list[str]  # file and line or feature, for messages
    rows: np.ndarray  # (n,) of the region
    columns: np.ndarray
    mapped: np.ndarray  # the map's class
    found: np.ndarray  # the class that the file tells
    fields: list[dict[str, str]]  # what else it tells
    held: Counter  # points of each stratum that the file holds, those without a class too

    def field(self, name: str) -> list[str]:
        """A field of each point; shapefiles cut names after ten letters."""
        return [fields.get(name, fields.get(name[:10], "")) for fields in self.fields]


def read_reference(args: argparse.Namespace, region: Region) -> tuple[Reference, int, Counter, list[str]]:
    """Reads the points of a sample that have a class; returns how many the file holds, those that were
    passed over by reason, and notes, too.

    Raises InputError for points where the map has no data, two on one pixel, and such that were chosen where
    the model is least sure.
    """
    places, number, gone, notes = read_places(args, region)
    if len(places) < 2:
        raise lc.InputError(f"{args.reference}: too few points with a class; label them first")
    where, rows, columns, found = (np.array(values) for values in zip(*places, strict=True))
    mapped = np.full(len(rows), lc.IGNORE_INDEX)
    for row, _, ids in visit_rows(region, rows.tolist()):
        here = rows == row
        mapped[here] = ids[columns[here]]
    order = np.lexsort((mapped == lc.IGNORE_INDEX, where))  # of two maps under a point that with data
    once = np.sort(order[np.unique(where[order], return_index=True)[1]])
    where, rows, columns, mapped, found = (values[once] for values in (where, rows, columns, mapped, found))
    told = read_fields(args.reference, args.layer, where[0])
    held = Counter(fields.get("stratum", "") for fields in told.values())
    fields = [told.get(name, {}) for name in where.tolist()]
    points = Reference(where.tolist(), rows, columns, mapped, found, fields, held)
    _, first, again = np.unique(rows * 2**32 + columns, return_index=True, return_inverse=True)
    for wrong, problem in (
        (mapped == lc.IGNORE_INDEX, "lies where the map has no data; remove it, if it was not drawn from it"),
        (first[again] != np.arange(len(rows)), "is a pixel that stands twice; keep one of them"),
        (np.array(points.field("uncertainty")) != "", "was chosen where the model is least sure, not at "
         "random, and says nothing of areas; draw points with assess.py sample"),
    ):  # fmt: skip
        if wrong.any():
            more = f" ({wrong.sum():,} points)" if wrong.sum() > 1 else ""
            raise lc.InputError(f"{where[int(wrong.argmax())]}{more}: {problem}")
    return points, number, gone, notes


def read_places(args: argparse.Namespace, region: Region) -> tuple[list[tuple], int, Counter, list[str]]:
    """Reads points as labels.py does: where each stands, row of the region, column and class id; how many
    there are, those without a class too; how many were passed over, by reason; and notes.

    Raises InputError for what is no point, or lies on no map: without it the sample is not as drawn.
    """
    path, gone = args.reference, Counter()
    starts = {each.name: int(start) for each, start in zip(region.maps, region.starts, strict=False)}
    how = labels.reading(field=args.field, layer=args.layer, crs=args.crs)
    how.naming = "name classes that the map lacks with --more-classes"
    if is_nameless(region):
        how.naming = f"{NAMELESS}; then {how.naming}"
    known = labels.known_classes(region.class_names, args.classes)
    marks = list(labels.marks_of(path, {each.name: each.path for each in region.maps}, how, known, gone))
    for name in ("field", "layer", "crs"):
        if getattr(args, name) and name not in how.used:
            raise lc.InputError(f"--{name} {getattr(args, name)}: {path} has no use for it; leave it out")
    if lost := [mark.where for mark in marks if mark.stem is None or not len(mark.pixels)]:
        more = f" ({len(lost):,} points)" if len(lost) > 1 else ""
        hint = "; ".join(["name the map that was sampled with --map", *how.notes])
        raise lc.InputError(f"{lost[0]}{more}: lies on no map; {hint}")
    if other := next((mark for mark in marks if mark.kind != "point" or len(mark.pixels) > 1), None):
        cure = "draw some with assess.py sample"
        raise lc.InputError(f"{other.where}: is no single point, as reference samples have; {cure}")
    placed, wheres = labels.place_marks(path, marks, known, how, gone)
    if wrong := Counter({why: n for why, n in gone.items() if n and not why.startswith("points ")}):
        problem = f"holds {lc.format_counts(wrong)}, without which it is not the sample that was drawn"
        raise lc.InputError(f"{path}: {problem}; correct them")
    places = [
        (wheres[mark], starts[stem] + row, column, found)
        for stem, tables in placed.items()
        for row, column, found, mark, *_ in np.concatenate(tables).tolist()
    ]
    return places, len({mark.where for mark in marks}), gone, how.notes


def is_nameless(region: Region) -> bool:
    """Whether the classes of a region are called class 0, class 1, … for want of names."""
    return region.class_names[:1] == lc.numbered_classes(1)


def read_fields(path: Path, layer: str | None, where: str) -> dict[str, dict[str, str]]:
    """What a table or vector file tells beside places and classes, by where it stands there.

    where: of one of its points, which tells what kind of file it is.
    """
    if where.startswith(f"{path}, line "):
        return {f"{path}, line {line}": row for line, row in formats.read_table(path)[1]}
    if ", feature " not in where:
        return {}
    tables = formats.read_tables(path, layer, Counter())
    rows = [row for _, table in tables for row in table.drop(columns=table.geometry.name).to_dict("records")]
    return {
        at: {name.lower(): formats.text_of(value) for name, value in row.items()}
        for at, row in zip(formats.name_features(path, tables), rows, strict=True)
    }


# ---- Points that a model learnt from say nothing of its errors


def check_not_learnt(checkpoints: Iterable[Path], points: Reference, region: Region) -> list[str]:
    """Raises InputError if a checkpoint learnt from some of the points; notes what else is to be known."""
    makers = {maker for each in region.maps for maker in each.checkpoint.split("; ")} - {"unknown"}
    notes = []
    for path in checkpoints:
        checkpoint, digest = lc.load_checkpoint(path), hashlib.sha256(path.read_bytes()).hexdigest()[:16]
        makers = {maker for maker in makers if digest not in maker}
        if (pixels := checkpoint.get("labelled_pixels")) is None:
            notes.append(f"{path} does not say where it learnt, perhaps from these very points")
            continue
        folder = Path(checkpoint.get("config", {}).get("train_image_dir", ""))
        (near, same), strange = learnt_from(region, points.rows, points.columns, pixels, folder)
        if same.any():
            first = points.where[int(same.argmax())]
            problem = f"learnt from {same.sum():,} of the {len(same):,} reference points, as {first}"
            cure = "remove these, and draw others; if many, sample maps of scenes that taught it nothing"
            raise lc.InputError(f"{path}: {problem}; {cure}")
        if near.any():
            problem = f"{near.sum():,} of {len(near):,} points lie in tiles from which {path} learnt"
            notes.append(f"{problem}: its errors there may be fewer than elsewhere")
        if strange:
            reason = f"they have no georeference, or are not in {folder}, and no map has their name"
            problem = f"{len(strange):,} of {len(pixels):,} tiles from which {path} learnt, like {strange[0]}"
            notes.append(f"{problem}, cannot be laid over the maps: {reason}; look whether points lie there")
    unasked = "was not looked at whether it learnt from these very points: give it with --checkpoint"
    notes += [f"{maker} made the map, and it {unasked}" for maker in sorted(makers)]
    return notes if notes or checkpoints else [f"the map does not name its model, and it {unasked}"]


# ---- Design and estimates


def find_design(args: argparse.Namespace, points: Reference) -> str:
    """How the points were drawn. Raises InputError where neither the flags nor the file tell."""
    told = set(points.field("design"))
    design = "cluster" if args.cluster else args.design or (told.pop() if len(told) == 1 else "")
    if args.design and not told <= {"", args.design}:
        problem = f"says that its points were drawn {' or '.join(sorted(told))}"
        raise lc.InputError(f"{args.reference}: {problem}, not {args.design}; leave --design out")
    if design not in METHODS:
        cure = f"give --design {', '.join(DESIGNS)}, or --cluster COLUMN, if they were drawn at random"
        raise lc.InputError(f"{args.reference}: does not tell how its points were drawn; {cure}")
    return design


def find_strata(
    points: Reference, classes: dict[str, float], pixels: int, design: str, path: Path
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """The stratum of each point, (n,), each stratum's share of the region, (H,), and notes.

    classes: the share of each of the map's classes. These are the strata, unless the file tells others with
    their shares. Points drawn without strata are put into them afterwards, if each gets two or more. pixels:
    of the region; a stratum whose share is that of a single one is known by one point.
    """
    told, strata, names = classes, points.mapped, points.field("stratum")
    notes: list[str] = []
    if design == "stratified" and any(points.field("stratum_share")):
        told = told_shares(points)
        strata = np.array([list(told).index(name) for name in names])
        notes += other_map(points, told, classes)
    elif design == "stratified" and any(names):
        given = [labels.plain(name) for name in names]
        if given != [labels.plain(list(classes)[at]) for at in strata]:
            cure = "add a column stratum_share: their share of the region"
            raise lc.InputError(f"{path}: has strata that are not the classes of the map; {cure}")
    shares, numbers = np.array(list(told.values())), np.bincount(strata, minlength=len(told))
    few = (shares > 0) & (numbers < np.where(shares * pixels < 1.5, 1, 2))
    lacking = ", ".join(np.array(list(told))[few])
    if few.any() and design != "stratified":
        note = f"fewer than two points on {lacking}: all are taken as drawn, not put into strata afterwards"
        return np.zeros(len(strata), int), np.ones(1), [note]
    if few.any():
        cure = "two in each are the least: draw or label more points"
        raise lc.InputError(f"{path}: too few points with a class in {lacking}; {cure}")
    if abs(shares.sum() - 1) > 1e-4:
        problem = f"the strata with points are {shares.sum():.4f} of the region, not all of it"
        raise lc.InputError(f"{path}: {problem}; label points in each stratum")
    used = np.flatnonzero(shares)
    return np.searchsorted(used, strata), shares[used] / shares.sum(), notes


def other_map(points: Reference, told: dict[str, float], classes: dict[str, float]) -> list[str]:
    """A note if strata named like the classes of the map are not these: another map was sampled."""
    shares = {labels.plain(name): share for name, share in classes.items()}
    mapped = np.array(list(shares))[points.mapped]
    drawn = np.array([labels.plain(name) for name in points.field("stratum")])
    moved = np.isin(drawn, list(shares)) & (drawn != mapped)
    resized = [name for name in told if abs(shares.get(labels.plain(name), told[name]) - told[name]) > 1e-4]
    if not moved.any() and not resized:
        return []
    problem = f"{moved.sum():,} of {len(moved):,} points were drawn as another class than the map has there"
    if resized:
        name = resized[0]
        problem += f", and as if {name} were {told[name]:.1%} of it, not {shares[labels.plain(name)]:.1%}"
    cure = "this is right only if that map has the same ground and legend"
    return [f"the sample was drawn from another map than this one: {problem}; {cure}"]


def told_shares(points: Reference) -> dict[str, float]:
    """Each stratum's share of the region. Raises InputError where the file gives it none, or two."""
    shares: dict[str, float] = {}
    told = points.where, points.field("stratum"), points.field("stratum_share")
    for where, name, text in zip(*told, strict=True):
        share = formats.number(text, f"{where}: stratum_share")
        if not 0 < share <= 1 or shares.setdefault(name, share) != share:
            problem = f"stratum {name!r} has the share {text}"
            raise lc.InputError(f"{where}: {problem}; give each stratum one share, between 0 and 1")
    return shares


def find_clusters(points: Reference, column: str, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """The cluster of each point, (n,), and how many pixels it stands for, (n,), if the file tells, else 1.

    Raises InputError without that column, for a single cluster, and for clusters in strata.
    """
    names = points.field(column.lower())
    if not all(names) or len(set(names)) < 2:
        raise lc.InputError(f"{path}: column {column} must name two clusters or more, one in each row")
    if len(set(points.field("stratum"))) > 1:
        problem = "clusters within strata have no estimator here"
        raise lc.InputError(f"{path}: {problem}; leave --cluster out, or draw clusters without strata")
    return np.unique(names, return_inverse=True)[1], pixels_stood_for(points, path)


def pixels_stood_for(points: Reference, path: Path) -> np.ndarray:
    """How many pixels each point stands for, (n,): one over its inclusion probability; 1 if not told."""
    chances = np.array([formats.number(text or "1", path) for text in points.field("inclusion_probability")])
    if not (chances > 0).all():
        raise lc.InputError(f"{path}: an inclusion_probability is not above 0; correct or remove the column")
    return 1 / chances


def note_other_ground(points: Reference, number: int, pixels: int, path: Path) -> list[str]:
    """Notes that a sample stands for many more or fewer pixels than the maps have, as a part of it does."""
    if not all(points.field("inclusion_probability")):
        return []
    stood_for = pixels_stood_for(points, path).mean() * number
    if 0.8 < stood_for / pixels < 1.25:  # a grid may meet data more or less often
        return []
    problem = f"the points stand for {stood_for:,.0f} pixels, the maps have {pixels:,}"
    cause = "points are missing, or the sample was drawn from other ground"
    return [f"{problem}: unless those were larger or smaller, {cause}"]


def count_drawn(points: Reference, region: Region) -> dict[str, int]:
    """How many points of each stratum were drawn, by what their probabilities tell; {} where they do not.

    In each stratum the probability of a pixel is the number of points drawn times its share of the stratum's
    area. Each other number in a stratum is another draw. Numbers that are not whole are of another design, or
    of other ground; where the probability is 1, all pixels were drawn, or nearly.
    """
    drawn: dict[str, set[int]] = {}
    areas = region.areas @ region.counts.sum(1) / region.areas  # of the region, in pixels of each row
    told = map(points.field, ("stratum", "inclusion_probability", "stratum_share"))
    for where, area, name, chance, share in zip(points.where, areas[points.rows], *told, strict=True):
        if not (chance and share):
            continue
        chance = formats.number(chance, f"{where}: inclusion_probability")
        number = chance * formats.number(share, f"{where}: stratum_share") * area
        if abs(number - round(number)) > max(0.02, 1e-5 * number) or number < 0.5:
            return {}
        if chance < 1:
            drawn.setdefault(name, set()).add(round(number))
    return {name: sum(numbers) for name, numbers in drawn.items()}


def note_lost_points(points: Reference, region: Region) -> list[str]:
    """Notes that the file holds fewer or more points of a stratum than were drawn.

    Where all strata lack the same large part, that is more likely other ground: see `note_other_ground`.
    """
    drawn = count_drawn(points, region)
    parts = [points.held[name] / number for name, number in drawn.items()] or [1]
    if max(parts) - min(parts) < 1e-4 and not 0.8 < parts[0] < 1.25:
        return []
    lost = Counter({name: max(0, number - points.held[name]) for name, number in drawn.items()})
    more = Counter({name: max(0, points.held[name] - number) for name, number in drawn.items()})
    notes = []
    if lost.total():
        cure = (
            "put them back, without a class if they have none: left out by choice, they make the rest wrong"
        )
        problem = f"{lost.total():,} of the points that were drawn are not in the file"
        notes.append(f"{problem}: {lc.format_counts(lost)}; {cure}")
    if more.total():
        cure = "right only if they are of another draw: what was added by choice was not chosen by chance"
        problem = f"{more.total():,} points more are in the file than were drawn at once"
        notes.append(f"{problem}: {lc.format_counts(more)}; {cure}")
    return notes


def note_left_out(number: int, used: int, chosen: int) -> list[str]:
    """Notes on the points of a file that are not used; chosen: those of classes that --classes leaves out."""
    notes, missing = [], number - used - chosen
    if chosen:
        problem = f"{chosen:,} of {number:,} points are of classes that --classes leaves out"
        cure = "a class that the map lacks is an error of the map: --more-classes"
        notes.append(f"{problem}, which is right only if what lies there may be left out; {cure}")
    if missing:
        problem = f"{missing:,} of {number:,} points have no class and are left out"
        notes.append(f"{problem}, as if chance had chosen them")
    return notes


def with_classes(region: Region, names: Sequence[str]) -> Region:
    """The region with more classes, of which the maps have no pixel."""
    class_names = [*region.class_names, *names]
    known = set(map(labels.plain, class_names))
    doubtful = known & labels.NO_CLASS or any(name.strip().isdecimal() for name in names)
    if doubtful or len(known) < len(class_names) or len(known) >= lc.IGNORE_INDEX:
        lc.complain("--more-classes: give names that the map does not have, each once, and no numbers")
    return region._replace(class_names=class_names, counts=np.pad(region.counts, [(0, 0), (0, len(names))]))


def assess(args: argparse.Namespace) -> dict:
    """All that the report says, as plain values."""
    region = with_classes(read_region(args.map), args.more_classes or ())
    points, number, gone, notes = read_reference(args, region)
    names, areas, design = region.class_names, region.areas @ region.counts, find_design(args, points)
    pixels = int(region.counts.sum())
    notes += [NAMELESS] if args.more_classes and is_nameless(region) else []
    notes += note_lost_points(points, region) if design in ("stratified", "simple") else []
    notes += note_other_ground(points, number, pixels, args.reference)
    notes += check_not_learnt(args.checkpoint or (), points, region)
    if design == "systematic":
        notes.append(
            "one grid does not tell its own error: intervals are too wide where patches of land are as "
            "wide as its step, and at times too narrow; --design stratified draws points that do"
        )
    notes += note_left_out(number, len(points.found), gone["points of classes that --classes leaves out"])
    cells, ratios, results = (points.mapped, points.found), estimators.measures(len(names)), {}
    if design == "cluster":
        clusters, stood_for = find_clusters(points, args.cluster, args.reference)
        counts = estimators.tally(clusters, *cells, len(names), stood_for / stood_for.mean())
        shares = counts.sum(0) / counts.sum()
        results = {name: estimators.cluster_ratio(counts, *yx) for name, yx in ratios.items()}
        if few := [name for at, name in enumerate(names) if np.isnan(results["area share", at][2])]:
            why = f"fewer than {estimators.CLUSTERS} clusters hold it, or fewer other classes"
            told = f"no interval of the area of {', '.join(few)}: {why}"
            notes.append(f"{told}, and it would hold the truth too seldom; draw more clusters")
    else:
        classes = dict(zip(names, areas / areas.sum(), strict=True))
        strata, weights, more = find_strata(points, classes, pixels, design, args.reference)
        counts = estimators.tally(strata, *cells, len(names))
        shares = np.einsum("h,hij->ij", weights / counts.sum((1, 2)), counts)
        for name, yx in ratios.items():
            given = counts, weights, *yx
            results[name] = *estimators.ratio(*given), *estimators.interval(*given)
        notes += more
    notes += [f"{name} is nowhere on the map" for name, area in zip(names, areas, strict=True) if not area]
    lacking = [name for index, name in enumerate(names) if index not in points.found]
    tells = "nothing is known" if design == "cluster" else "only the upper limit tells"
    notes += [f"{name} was found at no point: of its area {tells}" for name in lacking]
    return {
        "reference": str(args.reference), "design": design, "points": len(points.found), "drawn": number,
        "notes": notes, "maps": [str(each.path) for each in region.maps],
        "made_by": sorted({each.checkpoint for each in region.maps}),
        "unit": region.unit, "total": areas.sum(), "classes": names, "critical_value": estimators.Z95,
        "counts": estimators.tally(np.zeros_like(points.found), *cells, len(names))[0].astype(int).tolist(),
        "shares": shares.tolist(), "estimates": as_rows(results, names, areas),
    }  # fmt: skip


def as_rows(results: dict, names: list[str], areas: np.ndarray) -> list[dict]:
    """The estimates as rows of a table, areas as shares and in the region's unit, beside what the map shows.

    NaN becomes None.
    """
    rows = []
    for (measure, at), values in results.items():
        plain = [None if np.isnan(value) else float(value) for value in values]
        row = {"measure": measure, "class": "" if at is None else names[at], "mapped": None}
        row |= dict(zip(ESTIMATE, plain, strict=True))
        rows.append(row)
        if measure == "area share":
            row["mapped"] = float(areas[at] / areas.sum())
            numbers = {key: value * float(areas.sum()) for key, value in row.items() if type(value) is float}
            rows.append({**row, "measure": "area", **numbers})
    return rows


# ---- Files

READING = f"""## How to read this

Report the adjusted area with its interval. The mapped area counts pixels, with all errors of the map. Were
such a sample drawn and labelled again and again, about 95 of 100 intervals would hold the true value. They
tell of chance in the drawing alone, and take every label for right.

Standard errors are without finite population correction. Intervals are not symmetric: the papers' estimate
± {estimators.Z95} standard errors (there 1.96) is too narrow for a rare class, whose errors may happen to be
met by no point. {{}} benchmarks/coverage.py tries all this on known maps.
"""
OF_POINTS = """They are Jeffreys' of a proportion in each stratum, joined by adding the squares of
their reaches (Zou & Donner 2008), so that a stratum without an error still counts."""
OF_CLUSTERS = f"""They are Wilson's of a proportion, with Student's quantile and as many points as
would tell as much were each drawn alone. Where fewer than {estimators.CLUSTERS} clusters hold what is
estimated, or fewer something else, there is none."""


def write_report(args: argparse.Namespace) -> None:
    result = assess(args)
    lc.prepare_output(args.output)
    names = ("report.md", "report.json", "estimates.csv", "error_matrix.csv", "areas.png")
    paths = [args.output / name for name in names]
    with contextlib.ExitStack() as files:
        page, record, numbers, matrix, picture = (
            files.enter_context(lc.atomic_write(path)) for path in paths
        )
        page.write_text(markdown(result), encoding="utf-8")
        record.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        lc.write_history(numbers, result["estimates"])
        write_matrix(matrix, result)
        draw_areas(picture, result)
    print("".join(f"note: {note}\n" for note in result["notes"]), end="")
    print(f"overall accuracy {in_words(rows_of(result, 'overall accuracy')[''])}")
    print(*area_table(result), "wrote " + ", ".join(map(str, paths)), sep="\n")


def write_matrix(path: Path, result: dict) -> None:
    """Writes the error matrix, first as points, then as shares of the region."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["unit", "map \\ reference", *result["classes"]])
        for unit, key in (("points", "counts"), ("share of the region", "shares")):
            named = zip(result["classes"], result[key], strict=True)
            writer.writerows([unit, name, *row] for name, row in named)


def rows_of(result: dict, measure: str) -> dict[str, dict]:
    """The rows of a measure, by class."""
    return {row["class"]: row for row in result["estimates"] if row["measure"] == measure}


def markdown(result: dict) -> str:
    """The page that a person reads."""
    names, maps = result["classes"], result["maps"]
    kinds = "user's accuracy", "producer's accuracy", "F1", "IoU"
    listed = ", ".join(maps) if len(maps) < 4 else f"{len(maps)} of them, {maps[0]} to {maps[-1]}"
    sample = f"{result['points']:,} points {METHODS[result['design']]}"
    each = [rows_of(result, kind) for kind in kinds]
    accuracies = [[name, *(in_words(kind[name]) for kind in each)] for name in names]
    lines = [
        "# Areas and accuracy", "",
        f"Maps: {listed}. Made by: {', '.join(result['made_by'])}.", "",
        f"Reference: {result['reference']}, {sample}.", "",
        *(f"- {note}" for note in result["notes"]), "",
        "## Areas", "", *area_table(result), "",
        "![Mapped and adjusted areas](areas.png)", "",
        "## Accuracy", "", "Estimate ± standard error (95% interval).", "",
        f"Overall accuracy: {in_words(rows_of(result, 'overall accuracy')[''])}", "",
        *table(["class", *kinds], accuracies),
    ]  # fmt: skip
    for title, key, form in (("Points", "counts", "d"), ("Shares of the region", "shares", ".4f")):
        rows = zip(names, result[key], strict=True)
        cells = [[name, *(f"{value:{form}}" for value in row)] for name, row in rows]
        lines += ["", f"## {title}, the map's classes in rows, the reference's in columns", ""]
        lines += table(["map \\ reference", *names], cells)
    return "\n".join(
        [*lines, "", READING.format(OF_CLUSTERS if result["design"] == "cluster" else OF_POINTS)]
    )


def area_table(result: dict) -> list[str]:
    head = ["class", f"mapped, {result['unit']}", "adjusted", "standard error", "95% interval"]
    form, cells = f",.{max(0, 4 - int(np.log10(result['total'])))}f", []
    for name, row in rows_of(result, "area").items():
        numbers = [f"{row[key]:{form}}" for key in ("mapped", "estimate", "standard_error")]
        cells.append([name, *numbers, limits(row, form)])
    return table(head, [*cells, ["total", *[f"{result['total']:{form}}"] * 2, "", ""]])


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]


def in_words(row: dict) -> str:
    if row["estimate"] is None:
        return "no point"
    return f"{row['estimate']:.3f} ± {row['standard_error']:.3f} ({limits(row, '.3f')})"


def limits(row: dict, form: str) -> str:
    return "no interval" if row["low"] is None else f"{row['low']:{form}} to {row['high']:{form}}"


def draw_areas(path: Path, result: dict) -> None:
    """Draws mapped area beside adjusted area with its interval, for each class."""
    from matplotlib.figure import Figure

    rows, names = rows_of(result, "area").values(), result["classes"]
    keys = "mapped", "estimate", "low", "high"
    mapped, values, low, high = (np.array([row[key] for row in rows], float) for key in keys)
    figure = Figure(figsize=(7, 1.4 + 0.6 * len(names)), layout="constrained")
    axes, at = figure.subplots(), np.arange(len(names))
    axes.barh(at - 0.2, mapped, 0.38, color="0.75", label="pixels of the map, counted")
    label = f"adjusted by {result['points']:,} reference points, with 95% interval"
    axes.barh(at + 0.2, values, 0.38, color="#3b78d8", label=label)
    reach = np.maximum(0, [values - low, high - values])  # a limit may be the estimate, but for rounding
    axes.errorbar(values, at + 0.2, xerr=reach, fmt="none", ecolor="black", capsize=3)
    axes.set_yticks(at, names)
    axes.invert_yaxis()
    axes.set_xlabel(result["unit"])
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.10g}")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper left", frameon=False)
    figure.savefig(path, dpi=110, format="png")


# =====================================================================================================
# score: a trained model on other masks or points
# =====================================================================================================


def score(args: argparse.Namespace) -> None:
    """Prints the scores of a checkpoint on labelled tiles, as training does for its val tiles."""
    model = lc.load_model(args.checkpoint, args.device)
    pixels = lc.load_checkpoint(args.checkpoint).get("labelled_pixels")
    classes = {"num_classes": model.num_classes, "class_names": model.class_names}
    reading = model.reading | model.normalisation
    tiles = lc.LandCoverDataset(args.images, args.labels, **classes, **reading)
    if tiles.points is None:
        geo.check_palettes(mask for _, mask in tiles.tiles)
        for image, mask in tiles.tiles:
            geo.check_lossless(mask)
            geo.check_value_names(mask, image, model.class_names)
    found = lc.check_dataset(tiles, model.num_classes, "tiles")
    known = {lc.folded(image.stem) for image, _ in tiles.tiles}
    same = [name for name in pixels or () if lc.folded(Path(name).stem) in known]
    if same:
        problem = f"{len(same):,} of {len(known):,} tiles have names of tiles that it learnt from"
        print(f"note: {problem}, as {same[0]}")
    elif pixels is None:
        print(f"note: {args.checkpoint} does not say where it learnt, perhaps on these very tiles")
    device, judge = next(model.parameters()).device, lc.PointScores if found.sparse else lc.Scores
    loader = lc.make_loader(tiles, lc.batches_of_one_size(found.sizes, 4, 4 * 512**2), None, device)
    how = {"judge": judge, "dtype": lc.pick_precision("auto", device), "progress": "scoring"}
    scores = lc.validate(model, loader, model.num_classes, device, **how)
    print(judge.describe(scores.as_dict()))
    for name, value in zip(model.class_names, scores.per_class, strict=True):
        shown = "absent" if value is None else f"{value:.4f}"
        print(f"  {name:{max(map(len, model.class_names))}}  {judge.each_label} {shown}")


# =====================================================================================================
# Command line
# =====================================================================================================


def parse(argv: list[str]) -> argparse.Namespace:
    parser = lc.FlagParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    names = ("sample", "report", "score")
    draws, reports, scores = (commands.add_parser(name, description=__doc__) for name in names)
    # fmt: off
    for each in (draws, reports):
        each.add_argument("--map", metavar="PATH", type=Path, nargs="+", required=True,
                          help="NAME_classes.tif or .png, or folders of them; together one region")
    flag = draws.add_argument
    flag("--output", metavar="FILE", type=Path, default=Path("reference.csv"),
         help="the points, .csv; beside it a .gpkg for QGIS (default: %(default)s)")
    flag("--design", choices=DESIGNS, default="stratified", help="(default: %(default)s, by map class)")
    number = draws.add_mutually_exclusive_group().add_argument
    number("--size", metavar="N", type=int, default=500, help="points in all (default: %(default)s)")
    number("--half-width", metavar="X", type=float,
           help="as many points as give ± X of the overall accuracy, or --of a class: like 0.03; "
                "right for --allocation neyman, wider with others")
    flag("--of", metavar="CLASS", help="the class whose share of the region --half-width is about")
    flag("--users-accuracy", metavar="LIST", type=partial(lc.parse_setting, kind=list[float]),
         help="guessed for each class, in order of id, like 0.9,0.7 (default: 0.8 each)")
    flag("--allocation", choices=("floor", "equal", "proportional", "neyman"),
         help=f"floor: proportional, {estimators.FLOOR} where that is less (default: floor)")
    flag("--seed", metavar="N", type=int, default=0, help="(default: %(default)s)")
    flag = reports.add_argument
    flag("--reference", metavar="FILE", type=Path, required=True,
         help="labelled points: .csv of image,x,y,class or lon,lat,class, or whatever else labels.py reads")
    flag("--field", metavar="NAME", help="the field that holds the class (default: class)")
    flag("--layer", metavar="NAME", help="the layer of a file with several")
    flag("--crs", metavar="CRS", help="reference system of the points, where the file names none")
    flag("--classes", metavar="FILE", type=Path, help="a CSV of from,to: other words and codes for classes")
    flag("--more-classes", metavar="LIST", type=partial(lc.parse_setting, kind=list[str]),
         help="classes of the points that the map lacks, like bare,snow: all that it has there is wrong")
    flag("--output", metavar="DIR", type=Path, default=Path("assessment"),
         help="folder for report.md and .json, tables and a picture (default: %(default)s)")
    flag("--design", choices=DESIGNS, help="how the points were drawn (default: as the file says)")
    flag("--cluster", metavar="COLUMN", help="names each point's cluster, like image, if clusters were drawn")
    flag("--checkpoint", metavar="FILE", type=Path, nargs="+", help="the model: did it learn here?")
    flag = scores.add_argument
    flag("--checkpoint", metavar="FILE", type=Path, required=True, help="best_model.pth")
    flag("--images", metavar="DIR", type=Path, required=True, help="folder of tiles")
    flag("--labels", metavar="PATH", type=Path, required=True, help="masks, or .csv of image,x,y,class")
    flag("--device", metavar="NAME", default=lc.DEVICE, help="(default: %(default)s)")
    # fmt: on
    return parser.parse_args(argv)


@lc.command_line
def main(argv: list[str]) -> None:
    args = parse(argv)
    {"sample": write_sample, "report": write_report, "score": score}[args.command](args)


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True, errors="replace")
    sys.exit(main())
