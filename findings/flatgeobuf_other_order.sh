#!/usr/bin/env bash
# A FlatGeobuf that geopandas writes holds the rows in another order, and the index does not tell.
#
# Behaviour  500 labelled points in the order in which they were drawn. points.to_file("points.fgb") and read_file give
#            the same rows in the order of their place on a curve through the area: here not one is at its old
#            position, and the index counts from 0 to 499 again. Predictions kept as a list beside the points then
#            belong to others: of four classes a quarter agrees by chance. With SPATIAL_INDEX="NO" the order stays, and
#            so it does in GeoPackage, GeoJSON and shapefile.
# Version    geopandas 1.2.0, pyogrio 0.13.0 with GDAL 3.12.4, pandas 3.1.1, numpy 2.4.6, Python 3.11.
# Source     https://gdal.org/en/stable/drivers/vector/flatgeobuf.html: SPATIAL_INDEX is YES by default. That
#            features are sorted for it: https://github.com/OSGeo/gdal/issues/1964; pyogrio's tests allow for it:
#            https://github.com/geopandas/pyogrio/pull/75. geopandas' to_file has no word of it.
# Guessed    That rows come back in the order in which they were written, as from the other formats.
# Way out    points.to_file(path, SPATIAL_INDEX="NO"); or a column of ids, and a join by it, never by position.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile geopandas==1.2.0 pyogrio==0.13.0 pandas==3.1.1 numpy==2.4.6

cd "$work"
"$work/venv/bin/python" -W ignore - <<'PY'
import sys

import geopandas
import numpy as np
import pyogrio

print("geopandas", geopandas.__version__, "| pyogrio", pyogrio.__version__, "| GDAL", pyogrio.__gdal_version__)
draw = np.random.default_rng(0)
rows = {"number": np.arange(500), "class": draw.integers(0, 4, 500)}
places = geopandas.points_from_xy(*draw.uniform(0, 10_000, (2, 500)))
points = geopandas.GeoDataFrame(rows, geometry=places, crs="EPSG:32640")
held = True
for name, options in (
    ("points.fgb", {}),
    ("plain.fgb", {"SPATIAL_INDEX": "NO"}),
    ("points.gpkg", {}),
    ("points.geojson", {}),
    ("points.shp", {}),
):
    points.to_file(name, **options)
    found = geopandas.read_file(name)
    stay = np.mean(found["number"] == points["number"])
    agree = np.mean(found["class"] == points["class"])
    print(f"{name}: {stay:.1%} of the rows at their place, the classes by position agree in {agree:.0%}")
    held &= found.index.tolist() == list(range(500)) and sorted(found["number"]) == list(range(500))
    held &= (stay < 0.02 and agree < 0.4) if name == "points.fgb" else stay == 1
print("as described" if held else "NOT as described")
sys.exit(not held)
PY
