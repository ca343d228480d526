"""Annotations in pixels, as the programs that people label in write them -> shapes. Imported by labels.py.

CVAT for images 1.1: https://docs.cvat.ai/docs/other/xml_format (read there; its runs of a mask also in
https://github.com/cvat-ai/cvat). Label Studio JSON: https://labelstud.io/guide/export and the pages of its
tags; the brush is the run-length code of https://github.com/thi-ng/umbrella, packages/rle-pack, and agrees
with label-studio-converter 0.0.59. LabelMe 5: https://github.com/wkentaro/labelme. VGG Image Annotator 1 to
3, as the exporters in https://github.com/ox-vgg/via write (via.js, 2.0.11 was run; of 3 _via_metadata.js was
read). COCO: https://cocodataset.org/#format-data, its runs as pycocotools 2.0 writes them. What labelme
6.3.1, datumaro 1.13.12 (CVAT, COCO), supervision 0.31.2 (COCO), pycocotools 2.0.11 and label-studio-sdk 2.1.2
write of polygons and masks is read to the pixel.

Tables: Collect Earth Online's sample data (plotid, sampleid, lon, lat, …, a column for each question), in
https://github.com/openforis/collect-earth-online, src/clj/collect_earth_online/db/projects.clj; LUCAS as
harmonised by d'Andrimont et al. 2020, https://doi.org/10.1038/s41597-020-00675-z, and as Eurostat has it.
"""

from __future__ import annotations

import base64
import contextlib
import csv
import io
import json
import math
import re
import sqlite3
import sys
import types
import typing
import urllib.parse
import warnings
import xml.etree.ElementTree as ElementTree
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from PIL import Image

import landcover_segmentation as lc

MOST_PIXELS = 2**31  # of a mask; more is a damaged file
CLASS_FIELDS = "class", "lc1", "survey_lc1"  # ours; LUCAS's to 2018, and of 2022
PLACES = ("", "th_", "point_")  # what stands before lat and lon; LUCAS observes its theoretical points
METRE_PAIRS = ("x", "y"), ("easting", "northing"), ("east", "north"), ("e", "n")
METRES = {name for pair in METRE_PAIRS for name in pair}
COMMA = re.compile(r"^([+-]?\d+),(\d+(?:[eE][+-]?\d+)?)$")  # 1,2E-05 of a spreadsheet, too
MAYBE_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2},\d{3}")
NO_PLACE = {"", "nan", "null", "na"}
FOLDERS = ".kml", ".kmz"  # whose layers are folders
DRAWING = {"tessellate", "extrude", "visibility", "drawOrder", "icon", "altitudeMode"}  # KML's, no classes
NOT_TAKEN = "88.888888"  # a latitude, in LUCAS


class Shape(typing.NamedTuple):
    """Something labelled on one image, in its pixels: x to the right and y down, 0,0 the top left corner.

    names: of the image, in the order in which they are tried. size: its height and width, if the file has
    them. kind: point, line, polygon or mask. parts: of points and lines (N, 2) arrays; of polygons lists of
    rings; of a mask (top, left, pixels (h, w) bool). level: the higher one hides the lower.
    """

    where: str
    names: tuple[str, ...]
    size: tuple[int, int] | None
    kind: str
    parts: list
    text: str
    level: int = 0


@contextlib.contextmanager
def as_exported(where: str, program: str) -> Iterator[None]:
    """Turns whatever is amiss in an annotation into one line."""
    try:
        yield
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError, OSError) as error:
        if isinstance(error, lc.InputError):
            raise
        problem = f"is not as {program} writes it ({type(error).__name__}: {error})"
        raise lc.InputError(f"{where}: {problem}; export it anew") from error


def read_shapes(path: Path, field: str | None, passed_over: Counter) -> Iterator[Shape] | None:
    """The shapes of a file of annotations; None if it is of another kind, as GeoJSON is.

    field: what holds the class where a program has several. Raises InputError for what cannot be read, and
    counts in passed_over what is no shape.
    """
    if path.suffix.lower() == ".xml":
        try:
            root = ElementTree.parse(path).getroot()
        except (OSError, ElementTree.ParseError) as error:
            raise lc.InputError(f"{path}: cannot be read ({error}); export it anew") from error
        if root.tag == "annotation":
            cure = "export CVAT for images 1.1, COCO or JSON"
            raise lc.InputError(f"{path}: is XML as Pascal VOC and the first LabelMe write it; {cure}")
        if root.tag != "annotations":
            return None
        return checked(path, cvat_shapes(path, root, field, passed_over))
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise lc.InputError(f"{path}: cannot be read ({error}); export it anew") from error
    reader = json_reader(content)
    return checked(path, reader(path, content, field, passed_over)) if reader else None


def checked(path: Path, shapes: Iterable[Shape]) -> Iterator[Shape]:
    """The shapes of a reader. Raises InputError where it meets what no program writes."""
    with as_exported(str(path), "its program"):
        for shape in shapes:
            if not isinstance(shape.text, str | int | float | None):
                raise lc.InputError(f"{shape.where}: class {shape.text!r} is no text; export it anew")
            if not all(isinstance(name, str) for name in shape.names):
                raise lc.InputError(f"{shape.where}: the name of its image is no text; export it anew")
            yield shape


def json_reader(content: typing.Any) -> Callable | None:
    """The function that reads such JSON."""
    if isinstance(content, list):
        return label_studio_shapes
    if not isinstance(content, dict):
        return None
    if "shapes" in content:
        return labelme_shapes
    if {"images", "annotations"} <= content.keys():
        return coco_shapes
    if {"file", "view", "metadata", "attribute"} <= content.keys():
        return via3_shapes
    images = content.get("_via_img_metadata", content)
    if not isinstance(images, dict):
        return via_shapes
    has_regions = [isinstance(image, dict) and "regions" in image for image in images.values()]
    return via_shapes if all(has_regions) else None


# ==== Outlines =======================================================================================


def pairs(numbers: Sequence) -> np.ndarray:
    """Coordinates as an (N, 2) array of x, y. Raises ValueError unless they are numbers."""
    points = np.array(numbers, np.float64).reshape(-1, 2)
    if not np.isfinite(points).all():
        raise ValueError("a coordinate is no number")
    return points


def turned(points: Sequence, degrees: float, about: Sequence[float]) -> np.ndarray:
    """Points (N, 2) turned clockwise, as y points down."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return (pairs(points) - about) @ [[cos, sin], [-sin, cos]] + about


def rectangle(left: float, top: float, right: float, bottom: float) -> np.ndarray:
    return pairs([left, top, right, top, right, bottom, left, bottom])


def ellipse(x: float, y: float, radius_x: float, radius_y: float, degrees: float = 0) -> np.ndarray:
    """An ellipse as a polygon of 720 corners, which is off by 1e-5 of a radius."""
    angle = np.arange(720) * math.pi / 360
    ring = np.stack([x + radius_x * np.cos(angle), y + radius_y * np.sin(angle)], 1)
    return turned(ring, degrees, (x, y))


def run_lengths(counts: Sequence, pixels: int) -> np.ndarray:
    """The pixels of runs that are off and on in turn, flat. Raises ValueError unless they fill the mask."""
    runs = np.array(counts, np.int64)
    if runs.ndim != 1 or (runs < 0).any() or pixels > MOST_PIXELS or sum(runs.tolist()) != pixels:
        raise ValueError(f"the runs do not fill {pixels} pixels")
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs)


# ==== CVAT ===========================================================================================


def cvat_shapes(path: Path, root: typing.Any, field: str | None, passed_over: Counter) -> Iterator[Shape]:
    """The shapes of CVAT for images 1.1; of several points each is one."""
    if root.find("track") is not None:
        cure = "export it as CVAT for images 1.1"
        raise lc.InputError(f"{path}: is CVAT for video, which names no images; {cure}")
    for image in root.iter("image"):
        with as_exported(f"{path}, image {image.get('name')}", "CVAT"):
            size = int(image.attrib["height"]), int(image.attrib["width"])
            name = image.attrib["name"]
        for number, element in enumerate(image, 1):
            if element.tag not in CVAT:
                passed_over[f"annotations of CVAT's kind {element.tag}"] += 1
                continue
            where = f"{path}, image {name}, annotation {number}"
            with as_exported(where, "CVAT"):
                kind, parts = CVAT[element.tag](element.attrib)
                attributes = {one.get("name"): one.text or "" for one in element.iter("attribute")}
                text = attributes.get(field, "") if field else element.attrib["label"]
                level = int(element.get("z_order", 0))
            yield Shape(where, (name,), size, kind, parts, text, level)


def cvat_corners(given: dict) -> np.ndarray:
    return pairs(re.split("[;,]", given["points"]))


def cvat_box(given: dict) -> tuple[str, list]:
    left, top, right, bottom = (float(given[key]) for key in ("xtl", "ytl", "xbr", "ybr"))
    middle = (left + right) / 2, (top + bottom) / 2
    return "polygon", [[turned(rectangle(left, top, right, bottom), float(given.get("rotation", 0)), middle)]]


def cvat_ellipse(given: dict) -> tuple[str, list]:
    numbers = (float(given.get(key, 0)) for key in ("cx", "cy", "rx", "ry", "rotation"))
    return "polygon", [[ellipse(*numbers)]]


def cvat_mask(given: dict) -> tuple[str, list]:
    left, top, width, height = (int(float(given[key])) for key in ("left", "top", "width", "height"))
    pixels = run_lengths([int(count) for count in given["rle"].split(",")], width * height)
    return "mask", [(top, left, pixels.reshape(height, width))]


CVAT = {
    "points": lambda given: ("point", [cvat_corners(given)]),
    "polyline": lambda given: ("line", [cvat_corners(given)]),
    "polygon": lambda given: ("polygon", [[cvat_corners(given)]]),
    "box": cvat_box,
    "ellipse": cvat_ellipse,
    "mask": cvat_mask,
}

# ==== Label Studio ===================================================================================


def label_studio_shapes(path: Path, tasks: list, field: str | None, passed_over: Counter) -> Iterator[Shape]:
    """The regions of Label Studio's JSON. field: the name of the tag whose classes are meant."""
    if tasks and not all(isinstance(task, dict) and "annotations" in task for task in tasks):
        cure = "export it as JSON (not JSON-MIN)"
        raise lc.InputError(f"{path}: is no JSON of Label Studio, whose tasks have annotations; {cure}")
    for task in tasks:
        number = task.get("id")
        with as_exported(f"{path}, task {number}", "Label Studio"):
            names = (label_studio_name(task["data"]),)
            results = [(given, one) for given in task["annotations"] for one in given["result"]]
        for given, result in results:
            where = f"{path}, task {number}, region {result.get('id')}"
            with as_exported(where, "Label Studio"):
                value = result.get("value", {})
                labels = next((texts for key, texts in value.items() if key.endswith("labels")), None)
                if given.get("was_cancelled"):
                    passed_over["regions of annotations that were cancelled"] += 1
                elif labels is None or (field and result.get("from_name") != field):
                    passed_over["answers of Label Studio that give no region a class"] += 1
                elif len(labels) > 1:
                    passed_over["regions of more than one class"] += 1
                else:
                    size = int(result["original_height"]), int(result["original_width"])
                    if result.get("image_rotation"):
                        raise ValueError("the image was turned in Label Studio")
                    kind, parts = label_studio_region(value, size)
                    yield Shape(where, names, size, kind, parts, labels[0] if labels else "")


def label_studio_name(data: dict) -> str:
    """What the image of a task is called, by the link to it."""
    links = [link for link in data.values() if isinstance(link, str) and "." in link]
    link = data["image"] if isinstance(data.get("image"), str) else links[0]
    return re.split(r"[\\/]", urllib.parse.unquote(link.split("?d=")[-1]).split("?")[0])[-1]


def label_studio_region(value: dict, size: tuple[int, int]) -> tuple[str, list]:
    """Kind and parts of a region, whose coordinates are percent of an image of that height and width."""
    height, width = size
    if "rle" in value:
        return "mask", [(0, 0, label_studio_brush(value["rle"], height, width))]
    if "points" in value:
        return "polygon", [[pairs(value["points"]) * (width / 100, height / 100)]]
    x, y = float(value["x"]) * width / 100, float(value["y"]) * height / 100
    if "radiusX" in value:
        radii = float(value["radiusX"]) * width / 100, float(value["radiusY"]) * height / 100
        return "polygon", [[ellipse(x, y, *radii, float(value.get("rotation", 0)))]]
    if "height" in value:
        right, bottom = x + float(value["width"]) * width / 100, y + float(value["height"]) * height / 100
        ring = turned(rectangle(x, y, right, bottom), float(value.get("rotation", 0)), (x, y))
        return "polygon", [[ring]]
    return "point", [pairs([x, y])]


def label_studio_brush(code: Sequence[int], height: int, width: int) -> np.ndarray:
    """The pixels (H, W) that a brush has painted: those of the code's four channels whose last is not 0."""
    bits, at = np.unpackbits(np.array(code, np.uint8)), 0

    def take(length: int, count: int = 1) -> np.ndarray:
        nonlocal at
        words = bits[at : at + length * count].reshape(count, length)  # too few of them raise ValueError
        at += length * count
        return words @ (1 << np.arange(length, dtype=np.int64)[::-1])

    total, word = int(take(32)[0]), int(take(5)[0]) + 1
    lengths = [int(take(4)[0]) + 1 for _ in range(4)]
    if total != 4 * height * width or total > MOST_PIXELS:
        raise ValueError(f"the brush has {total} values, not four for each of {width} x {height} pixels")
    values, done = np.zeros(total, np.int64), 0
    while done < total:
        repeated = take(1)[0]
        count = int(take(lengths[take(2)[0]])[0]) + 1
        values[done : done + count] = take(word, 1 if repeated else count)
        done += count
    return values.reshape(height, width, 4)[..., 3] > 0


# ==== LabelMe, VGG Image Annotator, COCO =============================================================


def labelme_shapes(path: Path, content: dict, field: str | None, passed_over: Counter) -> Iterator[Shape]:
    """The shapes of one image in LabelMe's JSON. field: of a shape, instead of its label."""
    with as_exported(str(path), "LabelMe"):
        name = re.split(r"[\\/]", content.get("imagePath") or path.stem)[-1]
        known = content.get("imageHeight") and content.get("imageWidth")
        size = (int(content["imageHeight"]), int(content["imageWidth"])) if known else None
        shapes = list(content["shapes"])
    for number, given in enumerate(shapes, 1):
        where = f"{path}, shape {number}"
        with as_exported(where, "LabelMe"):
            kind, points = given.get("shape_type") or "polygon", pairs(given["points"])
            found = labelme_outline(kind, points, given.get("mask"))
            if found is None:
                passed_over[f"shapes of LabelMe's kind {kind}"] += 1
            else:
                text = given.get(field, "") if field else given["label"]
                yield Shape(where, (name, path.stem), size, *found, text)


def labelme_outline(kind: str, points: np.ndarray, mask: str | None) -> tuple[str, list] | None:
    if kind in ("point", "points"):
        return "point", [points]
    if kind in ("line", "linestrip"):
        return "line", [points]
    if kind in ("polygon", "oriented_rectangle"):
        return "polygon", [[points]]
    if kind == "rectangle":
        return "polygon", [[rectangle(*points.min(0), *points.max(0))]]
    if kind == "circle":
        radius = math.dist(*points)
        return "polygon", [[ellipse(*points[0], radius, radius)]]
    if kind == "mask":
        with Image.open(io.BytesIO(base64.b64decode(mask))) as picture:
            pixels = np.array(picture) > 0
        left, top = points[0].astype(int).tolist()
        return "mask", [(top, left, pixels)]
    return None


def via_shapes(path: Path, content: dict, field: str | None, passed_over: Counter) -> Iterator[Shape]:
    """The regions of VGG Image Annotator's JSON, project or annotations. field: a region's attribute."""
    with as_exported(str(path), "VGG Image Annotator"):
        images = content.get("_via_img_metadata", content).items()
        choices = content.get("_via_attributes", {}).get("region", {})
        options = {key: one.get("options", {}) for key, one in choices.items()}
    for key, image in images:
        with as_exported(f"{path}, image {key}", "VGG Image Annotator"):
            name, regions = image["filename"], image["regions"]
            regions = list(regions.values() if isinstance(regions, dict) else regions)
        for number, region in enumerate(regions, 1):
            where = f"image {name}, region {number}"
            with as_exported(f"{path}, {where}", "VGG Image Annotator"):
                outline, attributes = region["shape_attributes"], region["region_attributes"]
                yield via_shape((path, where), name, outline, attributes, field, options)


def via3_shapes(path: Path, content: dict, field: str | None, passed_over: Counter) -> Iterator[Shape]:
    """The regions on images in a project of VGG Image Annotator 3. field: the name of an attribute."""
    with as_exported(str(path), "VGG Image Annotator 3"):
        names = {key: one["aname"] for key, one in content["attribute"].items()}
        options = {names[key]: one.get("options", {}) for key, one in content["attribute"].items()}
        regions = list(content["metadata"].items())
    for key, region in regions:
        where = f"region {key}"
        with as_exported(f"{path}, {where}", "VGG Image Annotator 3"):
            kind, *numbers = region["xy"] or [0]
            (file,) = content["view"][region["vid"]]["fid_list"] if kind in VIA3 else [None]
            if file is None or region.get("z") or content["file"][str(file)]["type"] != 2:
                passed_over["entries of VGG Image Annotator 3 that are no region of an image"] += 1
                continue
            name, given = VIA3[kind]
            outline = dict(zip(given, numbers, strict=True)) if given else {}
            if not given:
                outline = {"all_points_x": numbers[::2], "all_points_y": numbers[1::2]}
            attributes = {names[one]: text for one, text in region["av"].items()}
            image = content["file"][str(file)]["fname"]
            yield via_shape((path, where), image, outline | {"name": name}, attributes, field, options)


VIA3 = {  # the number of a shape -> its name in version 2, and what its numbers are there
    1: ("point", ("cx", "cy")),
    2: ("rect", ("x", "y", "width", "height")),
    3: ("circle", ("cx", "cy", "r")),
    4: ("ellipse", ("cx", "cy", "rx", "ry")),
    5: ("polyline", ()),
    6: ("polyline", ()),
    7: ("polygon", ()),
}


def via_shape(
    at: tuple[Path, str], name: str, outline: dict, attributes: dict, field: str | None, options: dict
) -> Shape:
    """A region of VGG Image Annotator; the class is its one attribute, or the one called field or class.

    at: the file, and where in it. options: of each attribute the description of each option by its id; only
    projects have them, and they count where an id is a number.
    """
    where = ", ".join(map(str, at))
    key = field or ("class" if "class" in attributes else next(iter(attributes), "class"))
    if not field and len(attributes) > 1 and "class" not in attributes:
        choice = ", ".join(attributes)
        raise lc.InputError(f"{where}: has several attributes; name one of {choice} by --field")
    text = attributes.get(key, "")
    if isinstance(text, dict):  # boxes to tick
        text = "/".join(name for name, ticked in text.items() if ticked)
    if str(text).isdecimal():
        if key not in options:
            cure = "if they stand for names there, give the project (Project, Save), which has both"
            warnings.warn(f"{at[0]}: {key} holds numbers, which are read as they are; {cure}", stacklevel=2)
        text = options.get(key, {}).get(str(text)) or text
    kind = outline["name"]
    if kind in ("polygon", "polyline"):
        ring = pairs(np.stack([outline["all_points_x"], outline["all_points_y"]], 1))
        found = ("polygon", [[ring]]) if kind == "polygon" else ("line", [ring])
        return Shape(where, (name,), None, *found, text)
    if kind == "point":
        return Shape(where, (name,), None, "point", [pairs([outline["cx"], outline["cy"]])], text)
    if kind == "rect":
        left, top = float(outline["x"]), float(outline["y"])
        ring = rectangle(left, top, left + float(outline["width"]), top + float(outline["height"]))
    else:
        radii = [float(outline[key]) for key in (("r", "r") if kind == "circle" else ("rx", "ry"))]
        turn = math.degrees(float(outline.get("theta", 0)))
        ring = ellipse(float(outline["cx"]), float(outline["cy"]), *radii, turn)
    return Shape(where, (name,), None, "polygon", [[ring]], text)


def via_rows(path: Path, rows: Iterable, field: str | None, passed_over: Counter) -> Iterator[Shape]:
    """The regions of VGG Image Annotator's CSV."""
    for line, row in rows:
        where = f"line {line}"
        with as_exported(f"{path}, {where}", "VGG Image Annotator"):
            outline, attributes = (json.loads(row[f"region_{key}attributes"]) for key in ("shape_", ""))
            name = row["filename"] if "filename" in row else row["#filename"]  # of version 1
            if outline:
                yield via_shape((path, where), name, outline, attributes, field, {})
            else:
                passed_over["rows of images without a region"] += 1


def coco_shapes(path: Path, content: dict, field: str | None, passed_over: Counter) -> Iterator[Shape]:
    """The annotations of COCO's JSON: polygons, runs and keypoints. field: of a category, instead of name."""
    with as_exported(str(path), "COCO"):
        images = {image["id"]: image for image in content["images"]}
        texts = {one["id"]: one.get(field, "") if field else one["name"] for one in content["categories"]}
        annotations = list(content["annotations"])
    for number, given in enumerate(annotations, 1):
        with as_exported(f"{path}, annotation {number}", "COCO"):
            where, image = f"{path}, annotation {given.get('id', number)}", images[given["image_id"]]
            size, outline = (int(image["height"]), int(image["width"])), given.get("segmentation")
            kind, parts = "polygon", []
            if isinstance(outline, dict):
                kind, parts = "mask", [(0, 0, coco_mask(outline, size))]
            elif any(outline or ()):  # of a point VGG Image Annotator writes [[]]
                parts = [[pairs(ring)] for ring in outline]
            elif given.get("keypoints"):
                points = np.array(given["keypoints"], float).reshape(-1, 3)
                kind, parts = "point", [pairs(points[points[:, 2] > 0, :2])]
            if parts:
                yield Shape(where, (image["file_name"],), size, kind, parts, texts[given["category_id"]])
            else:
                passed_over["boxes of COCO without an outline"] += 1


def coco_mask(outline: dict, size: tuple[int, int]) -> np.ndarray:
    """The pixels (H, W) of COCO's runs, which go down the columns, as numbers or in a string.

    Raises ValueError unless they are of the size of the image, (H, W).
    """
    (height, width), counts = map(int, outline["size"]), outline["counts"]
    if (height, width) != size:
        raise ValueError(f"the runs are of {width} x {height} pixels, the image has {size[1]} x {size[0]}")
    counts = coco_counts(counts) if isinstance(counts, str) else counts
    return run_lengths(counts, height * width).reshape(width, height).T


def coco_counts(text: str) -> list[int]:
    """The runs in a string: five bits a character; from the fourth run on, what the last but one lacks."""
    counts, value, shift = [], 0, 0
    for character in text:
        code = ord(character) - 48
        value |= (code & 31) << shift
        shift += 5
        if not code & 32:  # the number ends here; its highest bit is the sign
            value -= (code & 16) << (shift - 4)
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            value = shift = 0
    return counts


# ==== Tables =========================================================================================


def read_table(path: Path) -> tuple[list[str], Iterator[tuple[int, dict[str, str]]]]:
    """The columns of a CSV, in lower case, and for each row that is not blank its line and its fields.

    As spreadsheets save it: UTF-8 or UTF-16, a line sep=;, semicolons or tabs, with which numbers like 3,5
    have a decimal comma. Raises InputError.
    """
    try:
        content = path.read_bytes()
        text = content.decode("utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise lc.InputError(f"{path}: cannot be read ({error}); save it as CSV UTF-8") from error
    skipped = re.match(r"sep=(.)\r?\n", text)
    text = text[skipped.end() :] if skipped else text
    text = re.sub(r'" +(?=[,;\t\r\n]|$)', '"', text)  # blanks after quotes
    head = text.partition("\n")[0]
    mark = skipped[1] if skipped else max(",;\t", key=head.count)
    lines = io.StringIO(lc.AFTER_QUOTES.sub("", text), newline="")
    reader = csv.reader(lines, delimiter=mark, skipinitialspace=True, strict=True)
    try:
        columns = [name.strip().lower() for name in next(reader, [])]
    except csv.Error as error:
        raise lc.InputError(f"{path}, line 1: cannot be read ({error}); save it as CSV UTF-8") from error

    if numbers := [name for name in columns if re.fullmatch(r"-?\d[\d. -]*", name)]:
        problem = f"is no head with the names of columns, for it holds {numbers[0][:40]}"
        cure = "put image,x,y,class or lon,lat,class before it; of YOLO export COCO instead"
        raise lc.InputError(f"{path}, line 1: {problem}; {cure}")

    def rows() -> Iterator[tuple[int, list[str]]]:
        try:
            for fields in reader:
                line = reader.line_num + bool(skipped)
                if any(map(str.strip, fields)):
                    if len(fields) != len(columns):
                        cure = "quote a name with a comma, and write 3.5, not 3,5"
                        raise lc.InputError(f"{path}, line {line}: has not {len(columns)} fields; {cure}")
                    yield line, [text.strip() for text in fields]
        except csv.Error as error:
            raise lc.InputError(f"{path}, line {reader.line_num}: cannot be read ({error})") from error

    found = rows() if mark == "," else plain_numbers(path, columns, rows())
    return columns, ((line, dict(zip(columns, fields, strict=True))) for line, fields in found)


def plain_numbers(path: Path, columns: list[str], rows: Iterable[tuple[int, list[str]]]) -> Iterator[tuple]:
    """The rows of a table without separating commas, with a point for the decimal comma, and no thousands.

    1.234 of pixels or metres may be a thousand and more there, or a fraction: the other numbers tell.
    Raises InputError if they do not. 1,234 is left as it is, to be refused as a number.
    """
    rows, metres = list(rows), [at for at, name in enumerate(columns) if name in METRES]
    numbers = [(line, columns[at], fields[at]) for line, fields in rows for at in metres]
    texts = [text for _, _, text in numbers]
    grouped = [one for one in numbers if lc.THOUSANDS.fullmatch(one[2])]
    commas = any("," in text for text in texts) or any(text.count(".") > 1 for text in texts)
    points = any("." in text and not lc.THOUSANDS.fullmatch(text) and "," not in text for text in texts)
    if "image" in columns:  # no image is so large
        points |= any(abs(int(text.replace(".", ""))) >= 100_000 for _, _, text in grouped)
    if grouped and commas == points:
        line, name, text = grouped[0]
        problem = f"{name} is {text!r}: a thousand and more, or a fraction?"
        cure = f"write {text.replace('.', '')} or {text}0, or save the table with commas between its columns"
        raise lc.InputError(f"{path}, line {line}: {problem}; {cure}")
    for line, fields in rows:
        for at, text in enumerate(fields):
            if at in metres and commas and not points:
                text = re.sub(r"\.(?=\d{3}(\D|$))", "", text)
            doubtful = at in metres and MAYBE_THOUSANDS.fullmatch(text)
            fields[at] = text if doubtful else COMMA.sub(r"\1.\2", text)
        yield line, fields


def is_table(path: Path) -> bool:
    """Whether the columns of a text tell classes or places."""
    with contextlib.suppress(lc.InputError):
        columns, _ = read_table(path)
        known = known_field(columns, None) or "region_shape_attributes" in columns
        return bool(known or place_columns(path, columns, None))
    return False


def table_points(path: Path, rows: Iterable, field: str) -> Iterator[Shape]:
    """The points of a CSV with image, x and y in pixels."""
    for line, row in rows:
        where = f"{path}, line {line}"
        point = pairs([number(row[axis], f"{where}: {axis}") for axis in "xy"])
        yield Shape(where, (row["image"],), None, "point", [point], row[field])


def shown(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join([*names[:12], *["…"] * (len(names) > 12)])


def number(text: str, where: str) -> float:
    try:
        found = float(text)
    except ValueError as error:
        cure = "write 3.5 or 1234, without a comma" if "," in text else "it must be a number"
        cure = "write degrees as 15.5, without minutes" if "°" in text else cure
        raise lc.InputError(f"{where} is {text!r}; {cure}") from error
    if not np.isfinite(found):
        raise lc.InputError(f"{where} is {text!r}; it must be a number")
    return found


def choose_field(path: Path, names: Sequence[str], wanted: str | None) -> str:
    """The field that holds the class: the one that is asked for, else a known one. Raises InputError."""
    if (found := known_field(names, wanted)) is not None:
        return found
    if wanted and any(name.lower().startswith(f"{wanted.lower()}:") for name in names):
        cure = "export the sample data, which have one answer for each point"
        raise lc.InputError(f"{path}: holds plot data of Collect Earth Online, shares of answers; {cure}")
    if not names:
        raise lc.InputError(f"{path}: is empty, or has no field for the class; add one")
    cure = f"name one with --field: {shown(names)}"
    cure += f"; if files differ, several: {wanted},{names[0]}" if wanted else ""
    raise lc.InputError(f"{path}: has no field {wanted or 'class'!r}; {cure}")


def known_field(names: Sequence[str], wanted: str | None) -> str | None:
    """The first of the fields that is asked for, by a name or several with commas, else a known one."""
    for given in [wanted, *wanted.split(",")] if wanted else CLASS_FIELDS:
        alike = [name for name in names if name.lower() == given.strip().lower()]
        if alike:
            return given if given in alike else alike[0]
    return None


def place_columns(path: Path, columns: Sequence[str], crs: str | None) -> tuple[str, ...]:
    """The columns that say where a label is: image,x,y, or one of WKT, or of x and y on the ground."""
    if {"image", "x", "y"} <= {*columns} and not crs:
        return "image", "x", "y"
    for name in ("wkt", "geometry", "geom", "the_geom"):
        if name in columns:
            return (name,)
    ending = r"(.*?)(?:decimal)?(?:lat(?:itude)?)"
    found = {match[1]: match[0] for match in (re.fullmatch(ending, name) for name in columns) if match}
    partners = {}
    for before, lat in found.items():
        lon = re.compile(re.escape(before) + "(decimal)?(lon|long|lng|longitude)")
        if partner := next(filter(lon.fullmatch, columns), None):
            partners[before] = partner, lat
    metres = next((pair for pair in METRE_PAIRS if {*pair} <= {*columns}), None)
    if metres and partners and crs:
        need_packages(path)
        if reference_system(crs).is_projected:
            return metres
    best = next((partners[before] for before in PLACES if before in partners), None)
    if not best and len(partners) > 1:
        found = ", ".join("/".join(pair) for pair in partners.values())
        raise lc.InputError(f"{path}: has several places ({found}); call those that count lon and lat")
    best = best or next(iter(partners.values()), metres)
    if not best:
        cure = "call its columns image,x,y,class, or lon,lat,class, or x,y,class with --crs, or wkt,class"
        raise lc.InputError(f"{path}: says not where its labels are ({shown(columns)}); {cure}")
    return best


# ==== Features on the ground =========================================================================


class Features(typing.NamedTuple):
    """Geometries (a GeoSeries), and for each where it stands and what class it names.

    coded: what the file itself says that values of the class mean. folders: where those name it, for each
    feature the folder that holds it and those around it, of `folder_paths`.
    """

    geometry: typing.Any
    wheres: list[str]
    texts: list[str]
    coded: dict[str, str] = types.MappingProxyType({})
    folders: Sequence[tuple[str, ...]] = ()


def need_packages(path: Path) -> None:
    try:
        import geopandas  # noqa: F401
        import rasterio  # noqa: F401
    except ImportError as error:
        cure = "pip install geopandas rasterio"
        raise lc.InputError(f"{path}: labels on the ground need two packages: {cure}") from error


def reference_system(crs: str) -> typing.Any:
    import pyproj

    try:
        return pyproj.CRS.from_user_input(crs)
    except pyproj.exceptions.CRSError as error:
        raise lc.InputError(f"--crs {crs}: is no reference system; write it like EPSG:32633") from error


def table_features(
    path: Path, rows: Iterable, field: str, place: tuple, how: types.SimpleNamespace, gone: Counter
) -> Features:
    """The features of a CSV with coordinates or WKT; lon and lat are EPSG:4326 unless --crs says else."""
    import geopandas
    import shapely

    degrees = len(place) == 2 and place[1].endswith(("lat", "latitude"))
    geometry, wheres, texts = [], [], []
    crs = how.crs or ("EPSG:4326" if degrees else None)
    for line, row in rows:
        where, given = f"{path}, line {line}", [row[name] for name in place]
        if any(text.lower() in NO_PLACE for text in given) or given[-1] == NOT_TAKEN:
            gone["rows without a place"] += 1
            continue
        if len(place) == 1:
            srid, _, text = given[0].rpartition(";")
            system = how.crs or re.sub("(?i)^srid=", "EPSG:", srid) or None
            crs = crs or system
            if system != crs:
                cure = "bring all to one, or give --crs"
                raise lc.InputError(f"{where}: is in {system}, others are in {crs}; {cure}")
            try:
                geometry.append(shapely.from_wkt(text))
            except shapely.errors.ShapelyError as error:
                raise lc.InputError(f"{where}: {given[0][:40]!r} is no WKT; correct or remove it") from error
            except NotImplementedError as error:
                cure = "save its curves as lines (ogr2ogr -nlt CONVERT_TO_LINEAR)"
                raise lc.InputError(f"{where}: {given[0][:40]!r} has curves; {cure}") from error
        else:
            x, y = (number(text, f"{where}: {name}") for text, name in zip(given, place, strict=True))
            west = row.get(re.sub("(lon|long|longitude)$", "ew", place[0])) in ("2", "W", "w")  # of LUCAS
            geometry.append(shapely.Point(-abs(x) if west else x, y))
        wheres.append(where)
        texts.append(row[field])
    if crs is None:
        cure = "give --crs, like EPSG:32633; for pixels call a column image"
        raise lc.InputError(f"{path}: names no reference system for its {' and '.join(place)}; {cure}")
    return Features(geopandas.GeoSeries(geometry, crs=reference_system(crs)), wheres, texts)


def is_vector(path: Path) -> bool:
    """Whether GDAL has a vector driver for a file, or no driver at all; else it is a raster."""
    if path.suffix.lower() == ".parquet":
        return True
    need_packages(path)
    import pyogrio

    with contextlib.suppress(Exception):  # GDAL's errors have no class in common
        if len(pyogrio.list_layers(path)):
            return True
    try:
        lc.open_raster(path).close()
    except lc.InputError:
        if path.suffix.lower() == ".sgrd":
            raise
        return True
    return False


def read_vector(path: Path, how: types.SimpleNamespace, gone: Counter) -> Features:
    """The features of a vector file, of `read_tables`.

    Raises InputError for files without a reference system, or without a field for the class.
    """
    need_packages(path)
    import pandas

    tables, folders = read_tables(path, how.layer, gone), path.suffix.lower() in FOLDERS
    fields = list(dict.fromkeys(name for _, table in tables for name in filled_fields(table)))
    from_folders = folders and not how.field and not any(name.lower() == "class" for name in fields)
    coded: dict[str, str] = {}
    around: list[tuple[str, ...]] = []
    if not from_folders:
        choose_field(path, fields, how.field)  # raises InputError if no layer has it
    if from_folders:
        known = shown(name for name in fields if name not in DRAWING)
        how.cure = f"; of folders in folders the inner class counts; or name a field with --field: {known}"
        around = [table.attrs["folders"] for _, table in tables for _ in range(len(table))]
        texts = [names[0] for names in around]
    else:
        texts = [text for name, table in tables for text in class_texts(path, name, table, how.field, coded)]
    systems = [table.crs for _, table in tables]
    if None not in systems and not how.crs:  # layers may differ
        tables = [(name, table.to_crs(systems[0])) for name, table in tables]
    geometry = pandas.concat([table.geometry for _, table in tables], ignore_index=True)
    if how.crs:
        geometry = geometry.set_crs(reference_system(how.crs), allow_override=True)
    if geometry.crs is None:
        cure = "give it with --crs, like EPSG:32633"
        raise lc.InputError(f"{path}: names no reference system (CRS); {cure}")
    return Features(geometry, name_features(path, tables), texts, coded, around)


def class_texts(
    path: Path, layer: str, table: typing.Any, wanted: str | None, coded: dict[str, str]
) -> list[str]:
    """The class of each feature of a layer; coded gets the names of its values. Raises InputError if it
    calls the field otherwise. The folders of a KML have the fields that their placemarks use.
    """
    field = known_field(list(table.columns), wanted)
    if field is None and len(table) and path.suffix.lower() not in FOLDERS:
        cure = "name both with --field, like class,cover, or read one layer with --layer"
        fields = shown(filled_fields(table)) or "none"
        problem = f"its layer {layer} has no field {wanted or 'class'!r} (it has {fields})"
        raise lc.InputError(f"{path}: {problem}; {cure}")
    if field is not None and path.suffix.lower() == ".gpkg":
        coded |= coded_names(path, layer, field)
    texts = [text_of(value) for value in table[field]] if field else [""] * len(table)
    if path.suffix.lower() == ".shp" and not path.with_suffix(".cpg").exists():
        texts = list(map(as_utf8, texts))
    return texts


def as_utf8(text: str) -> str:
    """A text that was written in UTF-8 and read as Latin-1, as GDAL does where a shapefile lacks its .cpg."""
    with contextlib.suppress(UnicodeError):
        return text.encode("latin-1").decode("utf-8")
    return text


def coded_names(path: Path, layer: str, field: str) -> dict[str, str]:
    """What the values of a field of a GeoPackage mean, as its schema says (a coded value domain)."""
    uri, table = f"file:{urllib.parse.quote(str(path.resolve()))}?mode=ro", "gpkg_data_column_constraints"
    query = f"""SELECT value, {table}.description FROM gpkg_data_columns JOIN {table} USING (constraint_name)
        WHERE table_name = ? AND column_name = ? AND constraint_type = 'enum'"""
    with lc.readable(path), contextlib.closing(sqlite3.connect(uri, uri=True)) as base:
        if not base.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (table,)).fetchall():
            return {}
        return {str(value): name for value, name in base.execute(query, (layer, field)) if name}


def read_tables(path: Path, layer: str | None, gone: Counter) -> list[tuple[str, typing.Any]]:
    """The layers of a vector file by name, as GeoDataFrames: its one, `layer` or, if that is all, every one;
    all folders of a KML, waypoints of a GPX, or its tracks if it has none. Raises InputError for other files.
    """
    import geopandas
    import pyogrio

    try:
        if path.suffix.lower() == ".parquet":
            return [(path.stem, geopandas.read_parquet(path))]
        layers = [name if geometry else None for name, geometry in pyogrio.list_layers(path)]
        if path.suffix.lower() in FOLDERS:  # GDAL calls the second folder of a name NAME (#2)
            layers = [name and re.sub(r" \(#\d+\)$", "", name) for name in layers]
        chosen, reading = (
            choose_layers(path, layers, layer, gone),
            {"engine": "pyogrio", "fid_as_index": True},
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pyogrio: that heights and measures are left out
            tables = [(name, geopandas.read_file(path, layer=at, **reading)) for at, name in chosen]
        if path.suffix.lower() in FOLDERS:
            paths = folder_paths(path, layers)
            for (at, _), (_, table) in zip(chosen, tables, strict=True):
                table.attrs["folders"] = paths[at]
        return tables
    except lc.InputError:
        raise
    except ImportError as error:
        raise lc.InputError(f"{path}: GeoParquet needs another package: pip install pyarrow") from error
    except Exception as error:  # GDAL's errors have no class in common
        cure = "save it anew, as GeoPackage, GeoJSON or CSV"
        raise lc.InputError(f"{path}: cannot be read ({error}); {cure}") from error


def folder_paths(path: Path, layers: Sequence[str]) -> list[tuple[str, ...]]:
    """The names of each folder of a KML and of those around it, the inner one first, which alone GDAL tells.

    layers: as GDAL has them: all folders in the order of the file, and a document with features of its own,
    which is around none. Where the file does not look like that, each is returned alone.
    """
    found: list[tuple[str, ...]] = []

    def walk(element: ElementTree.Element, around: tuple[str, ...]) -> None:
        for child in element:
            if child.tag.rpartition("}")[2] in ("Document", "Folder"):
                names = [one.text or "" for one in child if one.tag.rpartition("}")[2] == "name"]
                found.append(("".join(names[:1]).strip(), *around))
                walk(child, found[-1] if child.tag.endswith("Folder") else around)

    with contextlib.suppress(OSError, ValueError, ElementTree.ParseError, zipfile.BadZipFile):
        text = path.read_bytes()
        if path.suffix.lower() == ".kmz":
            with zipfile.ZipFile(path) as packed:
                (name,) = (name for name in packed.namelist() if name.lower().endswith(".kml"))
                text = packed.read(name)
        walk(ElementTree.fromstring(text), ())
    own = found[max(0, len(found) - len(layers)) :]
    alike = len(found) <= len(layers) + 1 and [names[0] for names in own] == list(layers)
    return own if alike else [(name,) for name in layers]


def name_features(path: Path, tables: Sequence[tuple[str, typing.Any]]) -> list[str]:
    """Where each feature of a vector file stands, for messages."""
    kind = "folder" if path.suffix.lower() in FOLDERS else "layer"
    named = kind == "folder" or len(tables) > 1
    return [
        f"{path}{f', {kind} {name}' if named else ''}, feature {fid}"
        for name, table in tables
        for fid in table.index
    ]


def choose_layers(path: Path, layers: list, wanted: str | None, gone: Counter) -> list[tuple[int, str]]:
    """Number and name of the layers to read; those without geometry are None. Raises InputError."""
    import pyogrio

    known = [(index, name) for index, name in enumerate(layers) if name is not None]
    names, suffix = shown(name for _, name in known) or "none", path.suffix.lower()
    if wanted:
        if chosen := [pair for pair in known if pair[1] == wanted]:
            return chosen
        if known and wanted == "all":
            return known
        raise lc.InputError(f"{path}: has no layer {wanted!r} with geometries; it has {names}")
    if suffix == ".gpx":  # waypoints, routes, tracks and the points of both, be there any or not
        counts = {
            pair: pyogrio.read_info(path, layer=pair[0], force_feature_count=True)["features"]
            for pair in known[:3]
        }
        chosen, *others = sorted(counts, key=lambda pair: not counts[pair])
        for pair in others:
            gone[f"{pair[1]} (--layer {pair[1]} reads them)"] += counts[pair]
        return [chosen]
    if len(known) == 1 or (known and suffix in FOLDERS):
        return known
    cure = "choose one with --layer, or --layer all" if known else "save it with geometries, or as CSV"
    raise lc.InputError(f"{path}: holds {len(known)} layers ({names}); {cure}")


def filled_fields(table: typing.Any) -> list[str]:
    """The fields of a GeoDataFrame that hold something, or all if none does."""
    fields = table.columns.drop(table.geometry.name)
    return [name for name in fields if table[name].notna().any() or name.lower() == "class"]


def text_of(value: typing.Any) -> str:
    """A field as text; whole numbers come as floats where one is missing, or the field is wide."""
    if value is None or str(value) == "<NA>" or value != value:  # in this order: <NA> has no truth
        return ""
    whole = isinstance(value, float) and value.is_integer()
    return str(int(value)) if whole else str(value).strip()
