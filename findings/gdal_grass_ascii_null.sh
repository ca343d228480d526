#!/usr/bin/env bash
# GDAL reads the null cells of a GRASS ASCII grid, written as *, as 0: as class 0, with a value, everywhere.
#
# Behaviour  A raster of sparse labels with the ids 0, 1 and 2, as r.out.ascii of GRASS writes it: a cell without a
#            value is *. GDAL reads each of those as 0 and declares no nodata value, so that nothing is masked: 3 of
#            100 cells are labelled 0, and 93 are read so. No warning is given. A header line "null: *", which
#            r.in.ascii takes, makes it no better: then 0 is declared to be no data, and the true zeros are masked
#            with the others. Written with null_value=255, each cell comes back as it is, and 255 is undeclared; with
#            "null: 255" in the header as well, all is right. GRASS reads its own files right: a round trip shows
#            nothing.
# Version    rasterio 1.4.4 with GDAL 3.10.3, Python 3.11. gdalinfo 3.6.2 reads a file of GRASS 8.2.1 the same.
# Source     https://gdal.org/en/stable/drivers/raster/grassasciigrid.html tells how the type is found, not what *
#            becomes; https://grass.osgeo.org/grass82/manuals/r.out.ascii.html: null_value is * by default. In the
#            code, frmts/aaigrid/aaigriddataset.cpp of https://github.com/OSGeo/gdal hands each word but null to
#            atoi, which makes 0 of *. No report of it was found.
# Guessed    That the reader of a format knows its one sign for "nothing", or stumbles over what is no number.
# Way out    r.out.gdal, which writes a GeoTIFF with its nodata value; or null_value=255, and say that it is no data.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile rasterio==1.4.4 numpy==2.4.6

cd "$work"
"$work/venv/bin/python" - <<'PY'
import sys
import warnings

import numpy as np
import rasterio

print("rasterio", rasterio.__version__, "| GDAL", rasterio.__gdal_version__)
ids = np.full((10, 10), 255)
for row, column, class_id in ((1, 2, 0), (4, 7, 0), (8, 3, 0), (2, 5, 1), (6, 1, 1), (3, 8, 2), (7, 7, 2)):
    ids[row, column] = class_id
labelled = ids < 255
HEADER = "north: 5600100\nsouth: 5600000\neast: 500100\nwest: 500000\nrows: 10\ncols: 10\n"  # as r.out.ascii writes it
held = True
for null, line, zeros, hidden, right in (
    ("*", "", 96, 0, False),
    ("*", "null: *\n", 96, 96, False),
    ("255", "", 3, 0, False),
    ("255", "null: 255\n", 3, 93, True),
):
    rows = ("".join(f"{null if value == 255 else value} " for value in row) for row in ids)
    with open("labels.asc", "w") as file:
        file.write(HEADER + line + "\n".join(rows) + "\n")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        with rasterio.open("labels.asc") as dataset:
            read, seen, nodata = dataset.read(1), dataset.read_masks(1) > 0, dataset.nodata
    said = [str(one.message) for one in said if "georeferenc" not in str(one.message)]
    facts = f"{(read == 0).sum()} cells of 0 where 3 are labelled so, nodata {nodata}, {(~seen).sum()} masked"
    print(f"null cells as {null}, header {line.strip() or 'without null'}: {facts}, {len(said)} warnings")
    found = bool((seen == labelled).all() and (read[labelled] == ids[labelled]).all())
    held &= ((read == 0).sum(), (~seen).sum(), found, len(said)) == (zeros, hidden, right, 0)
print("as described" if held else "NOT as described")
sys.exit(not held)
PY
