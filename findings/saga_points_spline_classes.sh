#!/usr/bin/env bash
# SAGA reads the class of a map at points by a spline, cut off to a whole number: half the points get a wrong class.
#
# Behaviour  A map of the ids 1 to 6 in bytes, in fields of 10 x 10 pixels, and 3000 points that know their class.
#            "Add Grid Values to Points", with its settings untouched, gives 49% of them their class. Not only borders
#            suffer: of the points two pixels or more inside a field of one class, 48% get the class below theirs: a
#            spline that comes to 2.9999 is cut off to 2, as the new field has the grid's type. On pixel centres it
#            is no better. All values are whole numbers, most of them classes, so that nothing looks interpolated, and
#            a map without an error scores no better than a coin. Bilinear is right at 94%, nearest neighbour at all.
#            "Add Grid Values to Shapes" splines points, too, but its field holds fractions, which one sees.
# Version    SAGA 8.5.0 of Debian 12; pyshp 3.1.6, numpy 2.4.6, Python 3.11.
# Source     saga_cmd shapes_grid 0 prints the default of RESAMPLING: 3, B-spline. RSAGA, which calls this very tool,
#            takes nearest neighbour unless told: https://rdrr.io/cran/RSAGA/man/rsaga.add.grid.values.to.points.html,
#            as did QGIS: https://docs.qgis.org/2.18/en/docs/user_manual/processing_algs/saga/shapes_grid.html. Of what
#            becomes of the fraction nothing was found, and no report.
# Guessed    That the value of a grid at a point is that of the cell it lies in; or that interpolation shows.
# Way out    -RESAMPLING 0; in the window, Resampling: Nearest Neighbour, each time.
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
import os
import subprocess
import sys

import numpy as np
import shapefile

SIZE, FIELD = 200, 10
program, libraries = sys.argv[1:]
saga = {"LD_LIBRARY_PATH": libraries, "SAGA_TLB": f"{libraries}/saga"}


def run(*words: object) -> str:
    return subprocess.run([program, *map(str, words)], env=os.environ | saga, capture_output=True, text=True).stdout


rng = np.random.default_rng(0)
ids = np.kron(rng.integers(1, 7, (SIZE // FIELD,) * 2), np.ones((FIELD, FIELD), int)).astype(np.uint8)
ids[::-1].tofile("map.sdat")  # from the lowest row up; positions in the header are of a cell's middle
with open("map.sgrd", "w") as file:
    file.write("NAME = map\nDATAFORMAT = BYTE_UNSIGNED\nPOSITION_XMIN = 0.5\nPOSITION_YMIN = 0.5\n")
    file.write(f"CELLCOUNT_X = {SIZE}\nCELLCOUNT_Y = {SIZE}\nCELLSIZE = 1\nNODATA_VALUE = 255\n")
rows, columns = rng.integers(0, SIZE, (2, 3000))
down, across = rng.uniform(0.02, 0.98, (2, 3000))
down[:1000] = across[:1000] = 0.5  # a third of the points on pixel centres
truth = ids[rows, columns]
with shapefile.Writer("points", shapeType=shapefile.POINT) as file:
    file.field("truth", "N", 3)
    for x, y, class_id in zip(columns + across, SIZE - rows - down, truth.tolist()):
        file.point(x, y)
        file.record(class_id)
inside = np.logical_and.reduce([(at % FIELD >= 2) & (at % FIELD < FIELD - 2) for at in (rows, columns)])

print(run("--version").strip())
held = "B-Spline" in (text := run("shapes_grid", 0)) and text.rstrip().splitlines()[-1].strip() == "Default: 3"
for what, flags, low, high in (
    ("as it comes", (), 0.4, 0.6),
    ("bilinear", ("-RESAMPLING", 1), 0.88, 0.97),
    ("nearest neighbour", ("-RESAMPLING", 0), 1, 1),
):
    run("shapes_grid", 0, "-SHAPES", "points.shp", "-GRIDS", "map.sgrd", "-RESULT", "out.shp", *flags)
    with shapefile.Reader("out.shp") as file:
        records = np.array([list(record) for record in file.records()], float)
    found, right = records[:, 1], records[:, 1] == truth
    below = (found == truth - 1.0)[inside].mean()
    shares = right.mean(), right[:1000].mean(), right[inside].mean(), below, (found == found.round()).mean()
    words = "right {:.0%}, on centres {:.0%}, inside fields {:.0%} and one below {:.0%}; whole numbers {:.0%}"
    print(f"{what}: {words.format(*shares)}")
    held &= bool((records[:, 0] == truth).all() and low <= right.mean() <= high and (found == found.round()).all())
    held &= bool((below > 0.35) == (what == "as it comes"))
print("as described" if held else "NOT as described")
sys.exit(not held)
PY
