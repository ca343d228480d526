#!/usr/bin/env bash
# Long integer ids come back from geopandas as floats, and two ids become one.
#
# Behaviour  1. A shapefile with ids of 19 digits holds every digit, but read_file gives float64: the ids
#            ...001 and ...002 are equal. No value is missing, and all fit into 64 bits. GeoPackage and
#            GeoJSON give them back exactly. read_file(path, ADJUST_TYPE="YES") reads the shapefile right.
#            2. One missing value makes an integer column float64, in all three: 2**53 + 1 becomes 2**53,
#            and classes 1 and 2 become 1.0 and 2.0. Without the row that has the gap, the same file gives
#            integers: the type hangs on the rows that are read.
# Version    geopandas 1.2.0, pyogrio 0.13.0 with GDAL 3.12.4, pandas 3.1.1, Python 3.11.
# Source     1. https://gdal.org/en/stable/drivers/vector/shapefile.html, open option ADJUST_TYPE: a width of
#            19 or 20 may be an Integer64 or larger and is held as Real. ADJUST_TYPE=YES reads all rows first.
#            2. https://pyogrio.readthedocs.io/en/latest/known_issues.html, "Support for null values"; asked
#            for at https://github.com/geopandas/geopandas/issues/2339
# Guessed    That integers that were written and fit come back as they were; or a warning.
# Way out    Open shapefiles with ADJUST_TYPE="YES"; compare 1 and 1.0 as one class; take ids as text.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile geopandas==1.2.0 pyogrio==0.13.0 pandas==3.1.1 \
    numpy==2.4.6

cd "$work"
"$work/venv/bin/python" - <<'EOF'
import sys

import geopandas as gpd
import pandas as pd
import pyogrio

FORMATS = ("shp", "gpkg", "geojson")


def write(ids):
    points = gpd.points_from_xy(range(len(ids)), range(len(ids)))
    frame = gpd.GeoDataFrame({"id": pd.array(ids, "Int64")}, geometry=points, crs="EPSG:4326")
    for form in FORMATS:
        frame.to_file(f"ids.{form}")


print("geopandas", gpd.__version__, "| pyogrio", pyogrio.__version__, "| pandas", pd.__version__)
print("GDAL", pyogrio.__gdal_version_string__)
held = True

ids = [1000000000000000001, 1000000000000000002]
write(ids)
for form, options in (*((form, {}) for form in FORMATS), ("shp", {"ADJUST_TYPE": "YES"})):
    column = gpd.read_file(f"ids.{form}", **options)["id"]
    print(f"19 digits, {form} {options}: {column.dtype}, {[int(value) for value in column]}")
    if form == "shp" and not options:
        held &= column.dtype == "float64" and column.nunique() == 1
    else:
        held &= column.dtype == "int64" and column.tolist() == ids

ids = [2**53, 2**53 + 1, None]
write(ids)
for form in FORMATS:
    whole = gpd.read_file(f"ids.{form}")["id"]
    start = gpd.read_file(f"ids.{form}", rows=2)["id"]
    print(f"one gap, {form}: {whole.dtype} {whole.tolist()}, two rows: {start.dtype} {start.tolist()}")
    held &= whole.dtype == "float64" and whole.nunique() == 1
    held &= start.dtype == "int64" and start.tolist() == ids[:2]
print("as described" if held else "NOT as described")
sys.exit(not held)
EOF
