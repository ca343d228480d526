"""Points of any kind -> points.csv, which training reads and a person can open.

    python tools/labels.py --labels field.gpkg --images dataset/train/images --output dataset/train/points.csv
    python landcover_segmentation.py --train-mask-dir dataset/train/points.csv

--labels is a file of vector points (.geojson, .gpkg; pip install geopandas rasterio) with a field class, in
whatever reference system, or a CSV with the columns image,x,y,class. The class is a name, in any case, or
an id. A vector point belongs to every image of --images on which it falls, a GeoTIFF; for train and val run
the program once for each. Points outside of all images and those without a class are passed over, and
counted.

The CSV has the columns image,x,y,class: file name, whole pixels from the top left corner, which is 0,0, and
the name of the class.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import geo

import landcover_segmentation as lc

COLUMNS = ("image", "x", "y", "class")


def class_names(text: str | None) -> list[str]:
    """The names that --class-names gives, in order of id, else those of the module. Raises InputError."""
    given = [name.strip() for name in text.split(",")] if text else lc.CLASS_NAMES
    names = given or lc.numbered_classes(lc.NUM_CLASSES)
    if not 0 < len(set(names)) == len(names) < 255 or not all(names):
        lc.complain("--class-names: give 1 to 254 names that differ from each other")
    return names


def check_no_label_lost(path: Path) -> None:
    """Raises InputError if a CSV that is to be written would replace labels that somebody gave."""
    if path.is_dir():
        raise lc.InputError(f"{path}: is a folder; name a file with --output")
    if path.exists() and any(row["class"] for _, row in lc.csv_rows(path, COLUMNS)):
        raise lc.InputError(f"{path}: holds labels, which would be lost; name another file with --output")


def write_points(
    path: Path, points: dict[str, lc.Points], images: dict[str, Path], names: Sequence[str]
) -> None:
    """Writes the points of all images as the CSV that `lc.read_points` reads."""
    rows = [
        (images[stem].name, x, y, names[class_id])
        for stem, own in points.items()
        for (y, x), class_id in own.items()
    ]
    with (
        lc.atomic_write(path) as partial_path,
        partial_path.open("w", newline="", encoding="utf-8") as file,
    ):
        csv.writer(file).writerows([COLUMNS, *rows])


def report(path: Path, points: dict[str, lc.Points], names: Sequence[str], passed_over: Counter) -> None:
    counts = Counter(class_id for own in points.values() for class_id in own.values())
    print(f"wrote {path}: {counts.total():,} points in {len(points):,} images")
    for class_id, name in enumerate(names):
        print(f"  {name:{max(10, *map(len, names))}}  {counts[class_id]:>10,}")
    for reason, number in passed_over.items():
        if number:
            print(f"passed over: {number:,} {reason}")


# =====================================================================================================
# Command line
# =====================================================================================================


def parse(argv: list[str]) -> argparse.Namespace:
    parser = lc.FlagParser(description=__doc__)
    flag = parser.add_argument
    # fmt: off
    flag("--labels", metavar="FILE", type=Path, required=True,
         help="points: .geojson, .gpkg, or .csv of image,x,y,class")
    flag("--images", metavar="DIR", type=Path, required=True, help="the images that they lie on")
    flag("--output", metavar="FILE", type=Path, default=Path("points.csv"), help="(default: %(default)s)")
    flag("--class-names", metavar="LIST",
         help="in order of id, like water,forest (default: CLASS_NAMES of the module)")
    # fmt: on
    args = parser.parse_args(argv)
    args.class_names = class_names(args.class_names)
    if not lc.is_points_file(args.labels, geo.POINT_SUFFIXES):
        lc.complain(f"--labels {args.labels}: must be a file {', '.join(geo.POINT_SUFFIXES)}")
    if args.output.suffix.lower() != ".csv":
        lc.complain(f"--output {args.output}: must be a file NAME.csv")
    return args


@lc.command_line
def main(argv: list[str]) -> None:
    args = parse(argv)
    check_no_label_lost(args.output)
    images = lc.list_images(args.images)
    points, passed_over = geo.read_points(args.labels, images, args.class_names)
    passed_over["images without a point"] += len(images) - len(points)
    lc.prepare_output(args.output.parent)
    write_points(args.output, points, images, args.class_names)
    report(args.output, points, args.class_names, passed_over)


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True, errors="replace")
    sys.exit(main())
