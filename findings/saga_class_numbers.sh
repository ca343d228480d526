#!/usr/bin/env bash
# SAGA's supervised classification numbers the classes anew, from the south up, though the training areas have ids.
#
# Behaviour  Three bands of four stripes, and a training polygon in each, whose field holds the ids 1 to 4 from north
#            to south as whole numbers. The map that "Supervised Classification for Grids" makes has 4 where the
#            training says 1, 3 for 2, 2 for 3 and 1 for 4: the class that is met first, row by row from the lowest,
#            becomes 1. Each pixel is in the right stripe, and each value is an id that exists. Trained on 2 and 4
#            alone, the map has 2 and 1. The order of the polygons in the file changes nothing; with one class less, all
#            numbers shift: so the maps of two scenes do not fit together. What became what is said by the table
#            CLASSES_LUT alone, which need not be asked for, and which no exported GeoTIFF takes along.
# Version    SAGA 8.5.0 of Debian 12; pyshp 3.1.6, numpy 2.4.6, Python 3.11.
# Source     https://saga-gis.sourceforge.io/saga_tool_doc/9.3.3/imagery_classification_0.html, as that of 8.1.0, calls
#            CLASSES_LUT "a reference list of the grid values that have been assigned to the training classes". How,
#            and that ids which are numbers do not count, is not said. No report of it was found.
# Guessed    That ids which are whole numbers are the values of the map, as in OTB's ImageClassifier; names have to
#            be numbered, ids need not.
# Way out    -CLASSES_LUT, each time, and "Reclassify Grid Values" by it before the map leaves SAGA.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile pyshp==3.1.6 numpy==2.4.6

cd "$work"
apt-get -qq -o APT::Sandbox::User=root download \
  saga=8.5.0+dfsg-2 libsaga-api8=8.5.0+dfsg-2 libwxbase3.2-1 libpcre2-32-0 libgomp1 libexpat1 # Debian 12, 7 MB
for package in *.deb; do dpkg -x "$package" root; done
libraries=$work/root/usr/lib/x86_64-linux-gnu

"$work/venv/bin/python" - "$work/root/usr/bin/saga_cmd" "$libraries" <<'PY'
import csv
import os
import subprocess
import sys

import numpy as np
import shapefile

SIDE, STRIPE = 60, 15
COLORS = np.array([(20, 200, 90), (80, 30, 200), (160, 120, 60), (230, 220, 30)])  # of the classes 1 to 4
program, libraries = sys.argv[1:]
saga = {"LD_LIBRARY_PATH": libraries, "SAGA_TLB": f"{libraries}/saga"}


def run(*words: object) -> str:
    return subprocess.run([program, *map(str, words)], env=os.environ | saga, capture_output=True, text=True).stdout


truth = np.repeat(np.arange(1, 5), STRIPE)[:, None].repeat(SIDE, 1)
noise = np.random.default_rng(0).normal(0, 5, (3, SIDE, SIDE))
for band in range(3):
    values = COLORS[truth - 1, band] + noise[band]
    values[::-1].astype(np.float32).tofile(f"band{band}.sdat")  # from the lowest row up
    with open(f"band{band}.sgrd", "w") as file:
        file.write(f"NAME = band{band}\nDATAFORMAT = FLOAT\nPOSITION_XMIN = 0.5\nPOSITION_YMIN = 0.5\n")
        file.write(f"CELLCOUNT_X = {SIDE}\nCELLCOUNT_Y = {SIDE}\nCELLSIZE = 1\nNODATA_VALUE = -99999\n")


def classify(order: list[int]) -> tuple[dict[int, int], dict[int, int]]:
    """The value of the map most frequent in each stripe that was trained, and what the table says of it.

    order: of the polygons in the file.
    """
    with shapefile.Writer("training", shapeType=shapefile.POLYGON) as file:
        file.field("id", "N", 4)
        for class_id in order:
            low = SIDE - STRIPE * class_id + 3
            file.poly([[[5, low], [5, low + 9], [25, low + 9], [25, low], [5, low]]])
            file.record(class_id)
    named = "-TRAINING", "training.shp", "-TRAINING_CLASS", "id"
    out = "-CLASSES", "map.sgrd", "-CLASSES_LUT", "table.csv"
    run("imagery_classification", 0, "-GRIDS", "band0.sgrd;band1.sgrd;band2.sgrd", *named, *out)
    found = np.fromfile("map.sdat", np.uint8).reshape(SIDE, SIDE)[::-1]
    seen = {class_id: int(np.bincount(found[truth == class_id]).argmax()) for class_id in sorted(order)}
    exact = all((found[truth == class_id] == value).mean() > 0.99 for class_id, value in seen.items())
    with open("table.csv", newline="") as file:
        table = {int(row["CLASS"]): int(row["VALUE"]) for row in csv.DictReader(file)}
    return (seen if exact else {}), dict(sorted(table.items()))


print(run("--version").strip())
held = True
for order, expected in (
    ([1, 2, 3, 4], {1: 4, 2: 3, 3: 2, 4: 1}),
    ([3, 1, 4, 2], {1: 4, 2: 3, 3: 2, 4: 1}),
    ([2, 4], {2: 2, 4: 1}),
    ([1, 2, 3], {1: 3, 2: 2, 3: 1}),
):
    seen, table = classify(order)
    print(f"training ids {order}: in the map {seen}; the table says {table}")
    held &= seen == table == expected
print("as described" if held else "NOT as described")
sys.exit(not held)
PY
