#!/usr/bin/env bash
# GDAL's ILWIS driver declares 0 of a byte raster to be no data, even where 255 was declared.
#
# Behaviour  Class ids 0, 1 and 2 in uint8, without a nodata value or with 255. Copied to ILWIS (.mpr) the values are
#            the same, but 0 is declared to be no data in both cases: a third of the map is masked, and whatever warps
#            or counts the copy leaves class 0 out. SAGA's format (.sdat) adds 255 where nothing was declared; IDRISI's,
#            PCIDSK's, Erdas' and ENVI's hand on what there was.
# Version    rasterio 1.4.4 with GDAL 3.10.3, numpy 2.4.6, Python 3.11.
# Source     https://gdal.org/en/stable/drivers/raster/ilwis.html has no word on no data.
# Guessed    That a copy declares what its source declares, or a value that a class cannot have.
# Way out    Shift the ids by one before they go to ILWIS, or read the copy with its mask ignored
#            (gdal_translate -a_nodata none).
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile rasterio==1.4.4 numpy==2.4.6

cd "$work"
"$work/venv/bin/python" -W ignore - <<'PY'
import sys

import numpy as np
import rasterio
from rasterio.shutil import copy
from rasterio.transform import from_origin

print("rasterio", rasterio.__version__, "| GDAL", rasterio.__gdal_version__)
ids = (np.arange(90).reshape(9, 10) % 3).astype(np.uint8)
form = {"driver": "GTiff", "height": 9, "width": 10, "count": 1, "dtype": "uint8", "crs": "EPSG:32640"}
form["transform"] = from_origin(500_000, 2_800_000, 10, 10)
held = True
for declared in (None, 255):
    with rasterio.open("ids.tif", "w", nodata=declared, **form) as dataset:
        dataset.write(ids, 1)
    for driver, name, expected in (
        ("ILWIS", "ids.mpr", 0),
        ("SAGA", "ids.sdat", 255),
        ("RST", "ids.rst", declared),
        ("PCIDSK", "ids.pix", declared),
        ("HFA", "ids.img", declared),
        ("ENVI", "ids.dat", declared),
    ):
        copy("ids.tif", name, driver=driver)
        with rasterio.open(name) as dataset:
            same, hidden = (dataset.read(1) == ids).all(), (dataset.read_masks(1) == 0).mean()
            found = dataset.nodata
        print(f"declared {declared}, as {driver}: nodata {found}, {hidden:.0%} of the pixels masked")
        held &= bool(same) and found == expected and (hidden > 0.3) == (driver == "ILWIS")
        rasterio.shutil.delete(name)
print("as described" if held else "NOT as described")
sys.exit(not held)
PY
