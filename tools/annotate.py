"""Label pixels in the browser: the page asks for those worth it and writes the CSV that training reads.

    python tools/annotate.py --images dataset/train/images --points points.csv
    python tools/annotate.py --images new_tiles --checkpoint best_model.pth     asks where it is least sure

The CSV has the columns image,x,y,class: file name, pixels from the top left corner, which is 0,0, class
name. It is written anew after every click, and read anew before, so that what other programs or tabs have
written meanwhile is kept. A row without a class is an open question: `active_learning.py suggest` writes
such rows, and so does "skip"; they are asked, and training passes over them. Each tile is asked for
--num-points pixels in all, those that are labelled already included. A column "skipped" marks what
somebody passed over; an open row without it nobody has looked at yet.

Key M lays a map over the tile and its neighbours: that of the model, or that of a light classifier which
follows each click. R, or a click with Shift, accepts the map's patch there and spreads labels in it. T trains
the whole network in the background; if the held-out labels find it no worse than the one before, it is taken
over and kept beside the CSV.

A reference sample, whose CSV has the column inclusion_probability, is labelled blind: point by point in the
order of the file, each in the midst of --around metres, without any map, model or stratum. No point is
added, its other columns are kept as they are, and no training is offered: it is to judge a map.

    python tools/annotate.py --images scenes --points reference.csv

Scenes of more than 4,096 x 4,096 pixels reach the browser in parts.

The page is served on 127.0.0.1 only, to this machine's browser. From another one:
ssh -L 8765:127.0.0.1:8765 MACHINE.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import csv
import functools
import http.server
import io
import json
import os
import re
import secrets
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
import typing
import webbrowser
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import active_learning as al
import cv2
import geo
import live_model
import numpy as np
from PIL import Image

import landcover_segmentation as lc

COLUMNS = ("image", "x", "y", "class")
REFERENCE_COLUMN = "inclusion_probability"  # by which a probability sample is known
GENTLY = ["nice", "-n", "10"] if shutil.which("nice") else []  # to train: the live map comes first
REGION_POINTS = 5  # labels that an accepted patch of the map gives at most: they keep apart
NEIGHBOURS = 24  # tiles shown around one: all that touch it, if tiles overlap by half
CUT_NAME = re.compile(r"(.*)_r(\d+)_c(\d+)")  # of tools/cut_tiles.py: a tile's row and column in its scene
LARGE = 2**24  # pixels of an image, beyond which only parts of it are read and shown
PAGE = Path(__file__).with_suffix(".html")
# Nothing is loaded from elsewhere, no other page frames this one, and only its own script runs.
POLICY = (
    "default-src 'none'; img-src 'self' data:; connect-src 'self'; script-src 'nonce-{nonce}'; "
    "style-src 'nonce-{nonce}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class Refused(lc.InputError):
    """A request that is not answered, with the status code of HTTP that says so."""

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status = status


# =====================================================================================================
# The CSV
# =====================================================================================================


class Point(typing.NamedTuple):
    """A row of the CSV as it stands there; its pixel (file name, x, y) and its class, "" = open."""

    pixel: tuple[str, int, int]
    label: str
    row: dict[str, str]


def read_points(config: argparse.Namespace) -> list[Point]:
    """The rows of the CSV, none if there is no such file yet.

    Those of images that are not shown here are kept too. They are parsed anew when the file has changed.
    Raises InputError, which names file and line, for the first row that cannot be right.
    """
    content = config.points.read_bytes() if config.points.exists() else b""
    before, points = config.parsed
    if not content or content != before:
        points = parse_points(config)
        if config.points.exists() and config.points.read_bytes() == content:  # nobody wrote meanwhile
            config.parsed = content, points
    return list(points)


def parse_points(config: argparse.Namespace) -> list[Point]:
    points, lines = [], {}
    for line, row in lc.csv_rows(config.points, COLUMNS) if config.points.exists() else ():
        where, names = f"{config.points}, line {line}", config.class_names
        x, y = (lc.pixel(row[axis], f"{where}: {axis}") for axis in "xy")
        at = (config.file_names.get(lc.folded(row["image"]), row["image"]), x, y)
        label = names[lc.find_class(row["class"], names, where)] if row["class"] else ""
        first, earlier = lines.setdefault((at, bool(label)), (line, label))
        if earlier != label:
            raise lc.InputError(f"{where}: point {x},{y} of {at[0]} has another class in line {first}")
        points.append(Point(at, label, row))
    return points


def write_points(path: Path, points: list[Point]) -> None:
    columns = dict.fromkeys([*COLUMNS, *(column for point in points for column in point.row)])
    try:  # resolved, so that a link stays a link
        path.parent.mkdir(exist_ok=True)
        with (
            lc.atomic_write(path.resolve()) as partial_path,
            partial_path.open("w", newline="", encoding="utf-8") as file,
        ):
            writer = csv.DictWriter(file, columns, restval="")
            writer.writeheader()
            writer.writerows(point.row for point in points)
    except OSError as error:
        cure = "close it elsewhere, make room or mend its permissions, then label the pixel again"
        problem = f"cannot be written ({error.strerror}), the label is not saved"
        raise lc.InputError(f"{path}: {problem}; {cure}") from error


def labels_of(config: argparse.Namespace, name: str, points: list[Point]) -> dict[tuple[int, int], str]:
    """The labels of a tile by pixel (x, y), "" = open, in the order of the file.

    Raises InputError for one outside of it.
    """
    labels: dict[tuple[int, int], str] = {}
    for (image, x, y), label, _ in points:
        if image == name:
            check_inside(config, image, x, y)
            labels[x, y] = labels.get((x, y)) or label
    return labels


def check_inside(config: argparse.Namespace, name: str, x: int, y: int) -> None:
    height, width = config.sizes[name]
    if not (0 <= x < width and 0 <= y < height):
        size = f"{name}, which is {width} wide and {height} high"
        problem = f"point {x},{y} lies outside {size}"
        raise lc.InputError(f"{config.points}: {problem}; correct or remove its row")


# =====================================================================================================
# Answers to the page: functions (config, what the page sends) -> what it gets
# =====================================================================================================


def describe(config: argparse.Namespace, request: dict) -> dict:
    """All that the page needs once: classes, and tiles with their size and the number of their labels.

    sample: of a reference sample the points [tile, x, y, class, skipped] in order, and nothing else of them;
    otherwise None. metres: of a pixel's side, None if unknown.
    """
    points = read_points(config)
    counts = Counter(point.pixel[0] for point in points if point.label)
    numbers = {name: number for number, name in enumerate(config.tiles)}
    sample = [
        [numbers[image], x, y, label, bool(row.get("skipped"))]
        for (image, x, y), label, row in points
        if image in numbers
    ]
    classes = zip(config.class_names, config.colors, strict=True)
    tiles = [
        {
            "name": name,
            "labels": counts[name],
            "height": height,
            "width": width,
            "metres": config.metres[name],
        }
        for name, (height, width) in config.sizes.items()
    ]
    return {
        "classes": [{"name": name, "color": color} for name, color in classes],
        "tiles": tiles,
        "target": config.num_points,
        "sample": sample if config.reference else None,
        "around": config.around,
        "large": LARGE,
        "trainable": least_tiles(config),
        "map": bool(config.model),
    }


def find_neighbours(config: argparse.Namespace, request: dict) -> list[dict]:
    """The tiles that touch a tile: index, and left, top, right and bottom in pixels of that tile.

    At most NEIGHBOURS, the nearest; none of or for a large scene, and none in a reference sample.
    """
    name, found = find_tile(config, request), []
    height, width = config.sizes[name]
    for index, other in enumerate([] if config.reference or is_large(config, name) else config.tiles):
        sides = None if other == name or is_large(config, other) else place_beside(config, name, other)
        if sides and sides[0] < width + 1 and sides[1] < height + 1 and sides[2] > -1 and sides[3] > -1:
            away = np.hypot(sides[0] + sides[2] - width, sides[1] + sides[3] - height)
            found.append((away, index, sides))
    return [{"index": index, "sides": sides} for _, index, sides in sorted(found)[:NEIGHBOURS]]


def place_beside(config: argparse.Namespace, name: str, other: str) -> list[float] | None:
    """Left, top, right and bottom of another tile in pixels of a tile; None where that is unknown.

    By the ground if both have a place there and are not turned against each other, else by the names that
    tools/cut_tiles.py gives, whose tiles are all of one size.
    """
    (system, own), (crs, transform) = config.places[name], config.places[other]
    height, width = config.sizes[other]
    if own is not None and transform is not None:
        corners = np.array([0, width, 0]), np.array([0, 0, height])
        (left, right, x), (top, y, bottom) = geo.on_ground(~own, *geo.on_ground(transform, *corners))
        straight = abs(x - left) < 1 and abs(y - top) < 1 and left < right and top < bottom
        return [left, top, right, bottom] if crs == system and straight else None
    here, there = (CUT_NAME.fullmatch(Path(each).stem) for each in (name, other))
    if not (here and there and here[1] == there[1] and config.sizes[name] == config.sizes[other]):
        return None
    down, right = (int(there[axis]) - int(here[axis]) for axis in (2, 3))
    return [right * width, down * height, (right + 1) * width, (down + 1) * height]


def show_tile(config: argparse.Namespace, request: dict) -> dict:
    """The labels of a tile, the number of each class in all tiles, and the command that trains on them."""
    name, points = find_tile(config, request), read_points(config)
    labels = labels_of(config, name, points)
    counts = Counter(point.label for point in points if point.pixel[0] in config.tiles)
    passed_over = [point for point in points if point.row.get("skipped") and point.pixel[0] == name]
    return {
        "labels": [[*at, label] for at, label in labels.items()],
        "skipped": [point.pixel[1:] for point in passed_over if not labels[point.pixel[1:]]],
        "counts": [counts[name] for name in config.class_names],
        "training": training_command(config),
    }


def send_image(config: argparse.Namespace, request: dict) -> bytes:
    """The tile, or every step-th pixel of a part of it, as a PNG of what training sees, three bands of it.

    Browsers show no TIFF, and turn photographs as EXIF says. The part is left,top,right,bottom; what it
    has outside of the tile is cut off.
    """
    name = find_tile(config, request)
    height, width = config.sizes[name]
    try:
        left, top, right, bottom = map(int, request.get("part", f"0,0,{width},{height}").split(","))
        step = int(request.get("step", 1))
    except ValueError as error:
        raise Refused(400, "a part is four whole numbers, and its step is one") from error
    left, top, right, bottom = max(left, 0), max(top, 0), min(right, width), min(bottom, height)
    if not (left < right and top < bottom and 1 <= step <= LARGE):
        raise Refused(400, f"there is no such part of {name}")
    if (right - left) * (bottom - top) > LARGE * step**2:
        raise Refused(400, f"{name} is too large to be sent at once; ask for a part, or a larger step")
    pixels = read_part(config, name, left, top, right, bottom, step)
    shown = pixels[..., [0, 1, 2, -1] if pixels.shape[-1] > 3 else [0, 0, 0, -1]]
    return to_png(np.ascontiguousarray(shown))


def to_png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=1)
    return file.getvalue()


def read_part(config, name: str, left: int, top: int, right: int, bottom: int, step: int = 1) -> np.ndarray:
    """Every step-th pixel of a part of an image, (h, w, bands + 1) uint8, alpha 0 = no data.

    Of a large raster only that part is read, some rows at a time.
    """
    path = config.tiles[name]
    if not is_large(config, name) or geo.is_picture(path):
        return config.read(path)[top:bottom:step, left:right:step]
    rows = max(1, LARGE // 4 // (right - left) // step) * step
    with lc.open_raster(path) as dataset:
        read = functools.partial(
            lc.raster_bands, dataset, config.bands, lc.alpha_bands(dataset, config.bands)
        )
        strips = [
            read(((at, min(at + rows, bottom)), (left, right)))[::step, ::step]
            for at in range(top, bottom, rows)
        ]
    pixels, ranges = np.concatenate(strips), config.reading["ranges"]
    lc.check_depth(path, pixels.dtype != np.uint8, ranges)
    return pixels if ranges is None else lc.stretch(pixels, ranges)


def is_large(config: argparse.Namespace, name: str) -> bool:
    height, width = config.sizes[name]
    return height * width > LARGE


def send_map(config: argparse.Namespace, request: dict) -> bytes:
    """What the model sees in a tile, as a PNG in the colours of the classes; clear where there is no data."""
    name = find_mapped(config, request)
    return color_map(config, name, model_map(config, name))


def find_mapped(config: argparse.Namespace, request: dict) -> str:
    """The name of a tile of which a map may be shown. Raises Refused for others."""
    name = find_tile(config, request)
    if config.reference:
        raise Refused(404, "there is no map to show")
    if is_large(config, name):
        raise Refused(422, f"{name}: is too large for a map at once; cut it with tools/cut_tiles.py")
    return name


def model_map(config: argparse.Namespace, name: str) -> np.ndarray:
    if not config.model:
        raise Refused(404, "there is no map to show")
    with config.choosing:
        return config.predict_map(name)


def live_map(config: argparse.Namespace, name: str) -> tuple[np.ndarray | None, int, int]:
    """The class ids (H, W) by all clicks so far, None before two classes have one.

    And from how many clicks they were learnt, and how many there are.
    """
    ids = {label: number for number, label in enumerate(config.class_names)}
    points = [point for point in read_points(config) if point.label]
    # A tile that was taken away since the page opened teaches nothing, and stops nothing.
    usable = {
        name
        for name in {point.pixel[0] for point in points} & config.tiles.keys()
        if config.tiles[name].exists() and not is_large(config, name)
    }
    labels = {point.pixel: ids[point.label] for point in points if point.pixel[0] in usable}
    for pixel in labels:
        check_inside(config, *pixel)
    if len(set(labels.values())) < 2:
        return None, 0, len(labels)
    return *config.live.draw(name, labels), len(labels)


def color_map(config: argparse.Namespace, name: str, class_ids: np.ndarray) -> bytes:
    alpha = config.read(config.tiles[name])[..., -1]
    return to_png(np.dstack([lc.colorize(class_ids, config.palette), alpha]))


def send_live_map(config: argparse.Namespace, request: dict) -> dict:
    """The map of a tile by all clicks so far: map, a PNG as a data URL, or None before two classes have one.

    learnt, labels: from how many of the clicks it was learnt. Fewer until every tile was seen once: some
    are with each answer, so that none takes long. No click waits for it.
    """
    name = find_mapped(config, request)
    class_ids, learnt, labels = live_map(config, name)
    found = {"map": None, "learnt": learnt, "labels": labels}
    if class_ids is not None:
        png = base64.b64encode(color_map(config, name, class_ids)).decode()
        found["map"] = f"data:image/png;base64,{png}"
    return found


def accept_region(config: argparse.Namespace, request: dict) -> dict:
    """Takes the map's word for the patch around a pixel: labels some pixels spread in it with its class.

    mode: which map, "model" or "live"; color: what the page showed there, for a map may change meanwhile.
    The pixel itself is one of them; the others keep off the patch's rim, where maps err, and from what is
    labelled. Returns what `show_tile` does, and added: [x, y, class] of each.
    """
    name, (x, y) = find_mapped(config, request), find_pixel(config, request)
    class_ids = model_map(config, name) if request.get("mode") == "model" else live_map(config, name)[0]
    if class_ids is None:
        raise Refused(400, "there is no map yet: two classes need a click")
    has_data = config.read(config.tiles[name])[..., -1] > 0
    if not has_data[y, x]:
        raise Refused(400, f"{name} has no data at {x},{y}")
    here = np.uint8(has_data & (class_ids == class_ids[y, x]))
    _, patches = cv2.connectedComponents(here, connectivity=4)
    patch = np.uint8(patches == patches[y, x])
    depth = cv2.distanceTransform(np.pad(patch, 1), cv2.DIST_L2, 3)[1:-1, 1:-1]
    label = config.class_names[class_ids[y, x]]
    if request.get("color") != config.colors[class_ids[y, x]]:
        raise Refused(409, f"the map has changed and says {label} at {x},{y} now; look again")
    with config.writing:
        points = read_points(config)
        known = np.zeros(patch.shape, bool)
        for column, row in labels_of(config, name, points):
            known[row, column] = True
        inner = depth > min(3, depth.max() / 2)
        added = [] if known[y, x] else [(x, y)]
        known[y, x] = True
        found = al.spread_out(
            inner, known & (patch > 0), REGION_POINTS - len(added), lc.named_rng(name, x, y)
        )
        added += [(x, y) for y, x in found.tolist() if not known[y, x]]
        if not added:
            raise Refused(400, "this patch of the map has labels enough")
        points += [
            Point((name, x, y), label, {"image": name, "x": str(x), "y": str(y), "class": label})
            for x, y in added
        ]
        write_points(config.points, points)
    return show_tile(config, request) | {"added": [[x, y, label] for x, y in added]}


def frozen_network(config: argparse.Namespace) -> lc.DeepLabV3Segmentation:
    """The model of --checkpoint, else the network on which the live map was measured: stride 16 at most."""
    if config.model:
        return config.model
    how = "efficientnet_lite0", "auto", "deeplabv3", config.bands
    network = lc.DeepLabV3Segmentation(len(config.class_names), *how)
    network.normalisation = config.normalisation
    return network


def draw_map(config: argparse.Namespace, name: str) -> np.ndarray:
    """The class ids (H, W) uint8 that the model sees in a tile."""
    return al.predict(config.model, config.read(config.tiles[name])[..., :-1]).argmax(1)[0].byte().numpy()


def suggest_pixels(config: argparse.Namespace, request: dict) -> list[tuple[int, int]]:
    """The pixels (x, y) of a tile to ask for: those chosen when first shown, then the CSV's open ones.

    In a reference sample they are the sample's, and no other.
    """
    name = find_tile(config, request)
    if config.reference:
        return list(labels_of(config, name, read_points(config)))
    with config.choosing:  # one prediction at a time: it takes all cores anyway
        labels = labels_of(config, name, read_points(config))
        if name not in config.chosen:
            config.chosen[name] = choose_pixels(config, name, labels)
    left_open = [at for at, label in labels.items() if not label]
    return [at for at in config.chosen[name] if at not in left_open] + left_open


def choose_pixels(
    config: argparse.Namespace, name: str, labels: dict[tuple[int, int], str]
) -> list[tuple[int, int]]:
    """As many pixels (x, y) as the tile lacks: where the model is least sure.

    They keep away from each other and from what the CSV holds. Without a model every pixel is as good as
    any other: they are spread over the tile, always the same.
    """
    (height, width), lacking = config.sizes[name], config.num_points - len(labels)
    if lacking <= 0:
        return []
    step = 1 + max(height, width) // 1024 if is_large(config, name) and not config.model else 1
    image = read_part(config, name, 0, 0, width, height, step)
    known = np.zeros(image.shape[:2], bool)
    for x, y in labels:
        known[y // step, x // step] = True
    if config.model:
        positions, _ = al.least_sure(config.model, image, known, lacking, config.class_scores)
    else:
        positions = al.spread_out(image[..., -1] > 0, known, lacking, lc.named_rng(name))
    return [(x * step, y * step) for y, x in positions.tolist()]


def set_label(config: argparse.Namespace, request: dict) -> dict:
    """Writes the class of a pixel: `now` is its name, "" an open question; None takes the pixel out.

    `was` is what the page believes to be there. If it is something else, another tab or program has
    written it, and the page is told instead of overwriting it. `skipped`: whether a person passed it over,
    who saw it. A row keeps its place in the file. A reference sample keeps its points, and gets no others.
    Returns what `show_tile` does.
    """
    name, (x, y) = find_tile(config, request), find_pixel(config, request)
    was, now = request.get("was"), request.get("now")
    if config.reference and now is None:
        now = ""
    if not all(label in [None, "", *config.class_names] for label in (was, now)):
        raise Refused(400, "there is no such class; reload the page")
    if now and not config.reference and not read_part(config, name, x, y, x + 1, y + 1)[0, 0, -1]:
        raise Refused(400, f"{name} has no data at {x},{y}: nothing could be learnt from a label there")
    with config.writing:
        points = read_points(config)
        found = labels_of(config, name, points).get((x, y))
        if found != was:
            held = f"pixel {x},{y} was changed elsewhere meanwhile and is {found or 'not labelled'} now"
            raise Refused(409, f"{held}; nothing was overwritten, label it again if that is wrong")
        if config.reference and found is None:
            raise Refused(
                400, f"{x},{y} of {name} is no point of this reference sample, which stays as drawn"
            )
        here = [at for at, point in enumerate(points) if point.pixel == (name, x, y)]
        row = points[here[0]].row if here else {"image": name, "x": str(x), "y": str(y)}
        row = row | {"class": now}
        if "skipped" in row or request.get("skipped"):
            row["skipped"] = "yes" if request.get("skipped") and not now else ""
        changed = [] if now is None else [Point((name, x, y), now, row)]
        at = here[0] if here else len(points)
        kept = [point for point in points[at:] if point.pixel != (name, x, y)]
        points = [*points[:at], *changed, *kept]
        write_points(config.points, points)
    return show_tile(config, request)


def find_tile(config: argparse.Namespace, request: dict) -> str:
    """The name of a tile that the page speaks of: looked up, never opened."""
    if request.get("image") not in list(config.tiles):
        raise Refused(404, "there is no such tile; reload the page")
    return request["image"]


def find_pixel(config: argparse.Namespace, request: dict) -> tuple[int, int]:
    """The pixel (x, y) that the page speaks of. Raises Refused for one outside of its tile."""
    name, x, y = find_tile(config, request), request.get("x"), request.get("y")
    height, width = config.sizes[name]
    if not (type(x) is type(y) is int and 0 <= x < width and 0 <= y < height):
        raise Refused(400, f"there is no pixel {x},{y} in {name}")
    return x, y


# =====================================================================================================
# Training: the command, and that command in the background
# =====================================================================================================


def training_command(config: argparse.Namespace) -> str | None:
    """What to type to train on the CSV; its results lie beside it, where no earlier model is overwritten."""
    words = training_words(config, config.points.with_suffix(".parts"))
    words = words and [*words, "--output-dir", str(config.points.with_suffix(".model"))]
    return words and (subprocess.list2cmdline(words) if os.name == "nt" else shlex.join(words))


def training_words(config: argparse.Namespace, parts: Path) -> list[str] | None:
    """The command that trains on the CSV as it is now, and scores; None while too few tiles have labels.

    And None for a reference sample: what a model learnt from cannot judge its map.

    Where the module's constants describe these tiles, its val tiles score. Else some of the labelled tiles
    do (`tiles_that_score`); both parts are written to the folder parts.
    """
    if config.reference:
        return None
    settings = {"class_names": config.class_names, "class_colors": config.class_colors, "bands": config.bands}
    settings = {name: value for name, value in settings.items() if value != getattr(lc, name.upper())}
    flags = {"train_image_dir": config.images, "train_mask_dir": config.points}
    flags |= {"num_points": None, **settings}
    with config.writing:
        points = [point for point in read_points(config) if point.label]
        labelled = {point.pixel[0] for point in points}
        train, sides = sorted(labelled & set(config.tiles)), {}
        if not has_val_tiles(config):
            classes: dict[str, set[str]] = {name: set() for name in train}
            for point in points:
                classes.get(point.pixel[0], set()).add(point.label)
            sides["val"] = tiles_that_score(classes)
            train = [name for name in train if name not in sides["val"]]
        if len(train) < 2:  # batch norm learns nothing of one
            return None
        if sides or labelled - set(config.tiles):  # of images elsewhere, which training would miss
            sides = {"train": train} | sides
        for side, names in sides.items():
            path = parts / f"{side}.csv"
            write_points(path, [point for point in points if point.pixel[0] in names])
            flags |= {f"{side}_image_dir": config.images, f"{side}_mask_dir": path}
    largest = max(min(config.sizes[name]) for name in train)
    flags |= {"num_classes": len(config.class_names), "crop_size": min(lc.CROP_SIZE, largest)}
    found = shutil.which("python")
    python = "python" if found and Path(found).parent == Path(sys.executable).parent else sys.executable
    words = [python, Path(lc.__file__).as_posix()]
    for name, value in flags.items():
        text = ",".join(map(str, value)) if isinstance(value, list) else str(value or "none")
        words += [f"--{name.replace('_', '-')}", text]
    return words


def tiles_that_score(classes: dict[str, set[str]]) -> list[str]:
    """The last fifth of the tiles, for names mostly put neighbours together, given the classes of each.

    A tile that has the only labels of a class teaches it; another scores in its place, where there is one.
    """
    teachers = Counter(label for found in classes.values() for label in found)
    scoring, wanted = [], max(1, len(classes) // 5)
    for name in reversed(classes):
        if len(scoring) < wanted and all(teachers[label] > 1 for label in classes[name]):
            scoring.append(name)
            teachers -= Counter(classes[name])
    return sorted(scoring) or [*classes][-1:]


def has_val_tiles(config: argparse.Namespace) -> bool:
    """Whether the module's constants describe these tiles, so that its val tiles can score."""
    same_tiles = config.images.resolve() == Path(lc.TRAIN_IMAGE_DIR).resolve()
    return same_tiles and Path(lc.VAL_MASK_DIR).exists() and config.class_names == lc.CLASS_NAMES


def least_tiles(config: argparse.Namespace) -> int:
    """Tiles that must have labels before a training: two that teach, and one that scores."""
    return 2 if has_val_tiles(config) else 3


def start_training(config: argparse.Namespace, request: dict) -> dict:
    """Trains the whole network on the clicks so far, in a process of its own; one at a time."""
    with config.writing:
        if config.reference or not training_command(config):
            few = "there is too little to train on"
            raise Refused(400, f"label pixels on {least_tiles(config)} tiles or more first: {few}")
        if config.training["running"]:
            raise Refused(409, "the network is being trained already")
        config.training = {"running": True, "says": "Training begins"}
    threading.Thread(target=train, args=(config,), daemon=True).start()
    return show_training(config, request)


def show_training(config: argparse.Namespace, request: dict) -> dict:
    """running; says: what the training said last; map: whether there is a model now."""
    keys = "running", "says"
    return {key: config.training[key] for key in keys} | {"map": bool(config.model)}


def train(config: argparse.Namespace) -> None:
    """Trains on a copy of the labels as they are now. If this program is killed, the next line that the
    training prints ends it, as nobody reads it any more.
    """
    state = config.training
    try:
        with tempfile.TemporaryDirectory() as folder:
            words = [*training_words(config, Path(folder)), "--output-dir", folder]
            how = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "errors": "replace"}
            environment = os.environ | {"PYTHONUNBUFFERED": "1"}
            state["process"] = subprocess.Popen([*GENTLY, *words], env=environment, **how)
            for line in filter(None, map(str.strip, state["process"].stdout)):
                state["says"] = line
            if state["process"].wait() == 0:
                state["says"] = take_over(config, Path(folder) / "best_model.pth", words)
    except (OSError, RuntimeError, lc.InputError) as error:
        state["says"] = f"The training failed: {' '.join(str(error).split())}"
    finally:
        state["running"] = False


def take_over(config: argparse.Namespace, path: Path, words: list[str]) -> str:
    """Takes a trained model if the held-out labels find it no worse than that of before; says what it did.

    Labels from which the earlier one learnt judge neither, where there are others. The new one is the best of
    its epochs by all of them, which flatters it a little. It is kept beside the CSV, for --checkpoint of
    another sitting.
    """
    kept = config.points.with_suffix(".pth")
    earlier, earlier_path = config.model, config.model_path if config.model else kept
    if not earlier and kept.exists():
        with contextlib.suppress(lc.InputError):  # whose network this version does not know
            earlier = lc.load_model(kept)
    if earlier and not config.model and earlier.class_names != config.class_names:
        earlier = None  # of an earlier sitting with other classes
    taught = lc.load_checkpoint(earlier_path).get("labelled_pixels") or {} if earlier else {}
    now = held_out_score(lc.load_model(path), words, taught)
    before = held_out_score(earlier, words, taught) if earlier else None
    compared = f"{now.label} {now.value:.3f}" + (f", before {before.value:.3f}" if before else "")
    if before and not now.value >= before.value:
        return f"Trained, but the earlier model stays: {compared}"
    with lc.atomic_write(kept.resolve()) as partial_path:
        shutil.copyfile(path, partial_path)
    with config.choosing:
        use_model(config, kept, lc.load_model(kept))
    return f"Trained and taken over: {compared}; kept as {kept.name}, for --checkpoint"


def held_out_score(model: lc.DeepLabV3Segmentation, words: list[str], taught: Collection[str]) -> lc.Scores:
    """The score of a model on the val labels of a training command, without tiles that taught (names)."""
    settings = lc.parse_settings(words[2:])
    val_set = lc.make_dataset(settings, "val", model.reading.get("ranges"), **model.normalisation)
    val_set.tiles = [tile for tile in val_set.tiles if tile[0].name not in taught] or val_set.tiles
    judge = lc.PointScores if lc.check_dataset(val_set, settings.num_classes).sparse else lc.Scores
    device = next(model.parameters()).device
    loader = lc.make_loader(val_set, [[index] for index in range(len(val_set))], 0, device)
    return lc.validate(model, loader, settings.num_classes, device, judge=judge)


def use_model(config: argparse.Namespace, path: Path | None, model: lc.DeepLabV3Segmentation | None) -> None:
    """From now on this model draws the map, asks, and sees for the live map; None: ImageNet's sees.

    Tiles are then read as it was taught to: it may scale deep images by other ranges than one before.
    """
    config.model, config.model_path, config.chosen = model, path, {}
    if model:
        config.reading, config.normalisation = model.reading, model.normalisation
    read = functools.partial(al.read_tile, reading=config.reading, mean=config.normalisation["mean"])
    config.read = functools.lru_cache(maxsize=4)(read)  # what it gives is not to be changed
    config.class_scores = path and al.scores_of_classes(path)
    config.predict_map = functools.lru_cache(maxsize=8)(functools.partial(draw_map, config))
    config.live = live_model.LiveModel(
        lambda: frozen_network(config), lambda name: config.read(config.tiles[name]), len(config.class_names)
    )


def show_page(config: argparse.Namespace, request: dict) -> str:
    return PAGE.read_text(encoding="utf-8")


ANSWERS = {
    ("GET", "/"): show_page,
    ("GET", "/state"): describe,
    ("GET", "/tile"): show_tile,
    ("GET", "/neighbours"): find_neighbours,
    ("GET", "/image"): send_image,
    ("GET", "/map"): send_map,
    ("GET", "/live"): send_live_map,
    ("GET", "/suggestions"): suggest_pixels,
    ("GET", "/training"): show_training,
    ("POST", "/label"): set_label,
    ("POST", "/region"): accept_region,
    ("POST", "/train"): start_training,
}


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers this machine's browser, and our own page alone: any page in it can ask 127.0.0.1."""

    server_version, sys_version = "annotate", ""

    def do_GET(self) -> None:
        nonce = secrets.token_urlsafe(16)
        try:
            status, answer = 200, self.answer()
        except lc.InputError as error:
            status, answer = getattr(error, "status", 422), {"error": " ".join(str(error).split())}
        except (RuntimeError, MemoryError) as error:  # torch without memory, above all
            cause = str(error).splitlines()[:1]
            cure = "cut large tiles with tools/cut_tiles.py"
            status, answer = 500, {"error": f"the program failed {cause}; {cure}"}
        if isinstance(answer, bytes):
            kind, body = "image/png", answer
        elif isinstance(answer, str):
            kind, body = "text/html; charset=utf-8", answer.replace("NONCE", nonce).encode()
        else:
            kind, body = "application/json", json.dumps(answer).encode()
        headers = {
            "Content-Type": kind,
            "Content-Length": str(len(body)),
            "Content-Security-Policy": POLICY.format(nonce=nonce),
            "Cross-Origin-Resource-Policy": "same-origin",
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Cache-Control": "no-store",
        }
        try:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)
        except ConnectionError:
            pass  # the browser went on to another tile

    def do_POST(self) -> None:
        self.do_GET()

    def answer(self) -> object:
        self.refuse_strangers()
        url = urlsplit(self.path)
        if (self.command, url.path) not in ANSWERS:
            raise Refused(404, "there is nothing here")
        request = self.read_json() if self.command == "POST" else dict(parse_qsl(url.query))
        return ANSWERS[self.command, url.path](self.server.config, request)

    def refuse_strangers(self) -> None:
        """A foreign Host is a name made to point here; a foreign Origin or site is another page."""
        host, port = self.headers.get("Host", ""), self.server.server_port
        if host not in (f"127.0.0.1:{port}", f"localhost:{port}"):
            raise Refused(403, f"only http://127.0.0.1:{port}/ is served; through a tunnel keep the port")
        site = self.headers.get("Sec-Fetch-Site", "none")
        same_site = site in ("same-origin", "none")  # none: typed by a person
        if not same_site or self.headers.get("Origin", f"http://{host}") != f"http://{host}":
            raise Refused(403, f"refused, as it was sent by another page; open http://{host}/ by hand")

    def read_json(self) -> dict:
        length = self.headers.get("Content-Length", "")
        # No page may send JSON elsewhere without asking first.
        if self.headers.get_content_type() != "application/json":
            raise Refused(415, "only application/json is taken")
        if not length.isdecimal() or int(length) > 10_000:
            raise Refused(413, "at most 10,000 bytes are taken, and their number must be said")
        try:
            request = json.loads(self.rfile.read(int(length)))
        except ValueError as error:
            raise Refused(400, "is not JSON") from error
        if not isinstance(request, dict):
            raise Refused(400, "is not a JSON object")
        return request

    def log_message(self, *_) -> None:
        pass


class Server(http.server.ThreadingHTTPServer):
    allow_reuse_address = os.name != "nt"  # on Windows that would share the port with whoever has it

    def __init__(self, config: argparse.Namespace):
        try:
            super().__init__(("127.0.0.1", config.port), Handler)
        except OSError as error:
            cure = "another annotate.py may run; end it, or name another port, or 0 for any that is free"
            raise lc.InputError(f"--port {config.port}: cannot be had ({error.strerror}); {cure}") from error
        self.config = config


# =====================================================================================================
# Command line
# =====================================================================================================


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = lc.FlagParser(description=__doc__)
    flag = parser.add_argument
    # fmt: off
    flag("--images", metavar="DIR", type=Path, default=Path(lc.TRAIN_IMAGE_DIR),
         help="the tiles (default: %(default)s)")
    flag("--points", metavar="CSV", type=Path, default=Path("points.csv"),
         help="the labels, new or begun (default: %(default)s)")
    flag("--checkpoint", metavar="FILE",
         help="ask for the pixels of which this model is least sure; its classes are taken")
    flag("--num-points", metavar="N", type=al.positive, default=20,
         help="labels wanted per tile (default: %(default)s)")
    flag("--around", metavar="N", type=al.positive, default=200,
         help="metres shown around a point of a reference sample, or pixels where images have no place "
              "on the ground (default: %(default)s)")
    flag("--class-names", metavar="LIST",
         help="in order of id, like water,forest (default: CLASS_NAMES of the module)")
    flag("--class-colors", metavar="LIST", help="as many colours (default: CLASS_COLORS of the module)")
    flag("--port", metavar="N", type=int, default=8765,
         help="of the page, 0 for any that is free (default: %(default)s)")
    # fmt: on
    flag("--no-browser", action="store_true", help="print the address only")
    args = parser.parse_args(argv)
    if args.port and not 1024 <= args.port < 65536:
        lc.complain(f"--port {args.port}: must lie between 1024 and 65535, or be 0")
    return args


def prepare(config: argparse.Namespace) -> None:
    """Sets what the answers need, and finds what the user got wrong before the page opens."""
    images = lc.list_images(config.images)
    config.tiles = {path.name: path for path in images.values()}
    config.file_names = {}
    for path in images.values():
        config.file_names |= {lc.folded(name): path.name for name in (path.stem, path.name)}
    config.model = lc.load_model(config.checkpoint) if config.checkpoint else None
    if config.model:
        reading, config.normalisation = config.model.reading, config.model.normalisation
    else:
        reading = {"bands": lc.BANDS, "ranges": lc.band_ranges(images.values(), lc.BANDS)}
        config.normalisation = lc.band_statistics(images.values(), reading)
    config.reading, config.bands = reading, list(reading["bands"])
    config.sizes, config.metres, config.places = {}, {}, {}
    for name, path in config.tiles.items():
        with geo.open_unscaled(path, config.bands) as scene:
            config.sizes[name] = scene.height, scene.width
            config.places[name] = scene.crs, scene.transform
            lc.check_depth(path, scene.deep, reading["ranges"])
            config.metres[name] = geo.pixel_metres(scene)
    set_classes(config)
    check_writable(config.points)
    config.parsed = (b"", [])
    take_reference(config, read_points(config))
    config.choosing, config.writing = threading.Lock(), threading.RLock()
    config.training = {"running": False, "says": ""}
    use_model(config, config.checkpoint, config.model)


def take_reference(config: argparse.Namespace, points: list[Point]) -> None:
    """Finds whether the CSV is a reference sample, of which only the images that have points are shown.

    Raises InputError if a model is given with it, or if none of its images is there.
    """
    config.reference = any(REFERENCE_COLUMN in point.row for point in points)
    if not config.reference:
        return
    if config.model:
        cure = f"leave --checkpoint away, or take away the column {REFERENCE_COLUMN} of points to learn from"
        raise lc.InputError(f"--points {config.points}: a reference sample is labelled blind; {cure}")
    sampled = {point.pixel[0] for point in points}
    if not sampled & config.tiles.keys():
        example = f"{points[0].pixel[0]}, for one, is not in {config.images}"
        raise lc.InputError(f"--points {config.points}: {example}; name the folder by --images")
    if missing := sampled - config.tiles.keys():
        lacks = geo.counted(len(missing), "image")
        print(f"{config.images}: lacks {lacks} of the sample, whose points cannot be shown")
    config.tiles = {name: path for name, path in config.tiles.items() if name in sampled}
    config.sizes = {name: config.sizes[name] for name in config.tiles}


def set_classes(config: argparse.Namespace) -> None:
    """The classes of the flags, else of the model, else of the module's constants."""
    from matplotlib.colors import is_color_like

    given = config.class_names, config.class_colors
    names, colors = (text and [part.strip() for part in text.split(",")] for text in given)
    if not names and config.model:
        names, colors = config.model.class_names, colors or config.model.class_colors
    elif not names:
        names = lc.CLASS_NAMES or lc.numbered_classes(lc.NUM_CLASSES)
        colors = colors or lc.CLASS_COLORS
    if not 2 <= len(set(map(lc.plain_name, names))) == len(names) < 255 or not all(names):
        raise lc.InputError("--class-names: give 2 to 254 names that differ from each other")
    if config.model and len(names) != config.model.num_classes:
        need = f"the model of --checkpoint has {config.model.num_classes} classes"
        raise lc.InputError(f"--class-names: {need}; give as many names, or leave it out")
    if colors and (len(colors) != len(names) or not all(map(is_color_like, colors))):
        need = f"give one for each of the {len(names)} classes"
        raise lc.InputError(f"--class-colors: {need}, as '#rrggbb' or by name")
    config.class_names, config.class_colors = names, colors
    config.palette = lc.class_palette(colors or lc.choose_colors(names), len(names))
    config.colors = ["#" + bytes(color).hex() for color in config.palette]
    if twice := [color for color, uses in Counter(config.colors).items() if uses > 1]:
        cure = "give colours that differ, for the map tells the classes by them"
        raise lc.InputError(f"--class-colors: {twice[0]} stands for two classes; {cure}")


def check_writable(path: Path) -> None:
    """Tries whether the CSV can be written. Raises InputError if not."""
    if path.suffix.lower() != ".csv" or path.is_dir():
        raise lc.InputError(f"--points {path}: must be a file NAME.csv")
    try:
        tempfile.TemporaryFile(dir=path.resolve().parent).close()
        if path.exists() and not os.access(path, os.W_OK):
            raise PermissionError(None, "it is read-only")
    except OSError as error:
        problem = f"cannot be written ({error.strerror})"
        raise lc.InputError(f"--points {path}: {problem}; name another file") from error


@lc.command_line
def main(argv: list[str]) -> None:
    config = parse(argv)
    prepare(config)
    with Server(config) as server:
        address = f"http://127.0.0.1:{server.server_port}/"
        tiles = geo.counted(len(config.tiles), "tile")
        print(f"{tiles} at {address}, labels go to {config.points}; Ctrl-C ends")
        if not config.no_browser:
            browse = functools.partial(webbrowser.open, address)  # a text browser would not return
            threading.Thread(target=browse, daemon=True).start()
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            config.writing.acquire()  # a label on its way is written to the end
    if process := config.training.get("process"):
        process.kill()  # a shell's Ctrl-C reaches it too, but not everybody's
    labels = sum(bool(point.label) for point in read_points(config))
    command = training_command(config)
    next_step = f"train on them:\n{command}" if command else "more tiles need some to train"
    if config.reference:
        next_step = "assess the map by them"
    print(f"\n{config.points}: {geo.counted(labels, 'label')}; {next_step}")
    # A prediction may take minutes, and PyTorch aborts if the interpreter ends around it.
    if config.choosing.locked() or config.live.lock.locked() or config.training["running"]:
        sys.stdout.flush()
        os._exit(0)


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True, errors="replace")
    sys.exit(main())
