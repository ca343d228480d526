#!/usr/bin/env bash
# exactextract gives row numbers for the column that is asked for, if the column is called "id".
#
# Behaviour  Three fields with the ids 1, 2 and 3 in a column "id" of a GeoDataFrame. exact_extract(raster, fields,
#            "mean", include_cols=["id"], output="pandas") has the ids "0", "1" and "2", as text: the labels of the
#            frame's index. Joined to the fields by them, field 1 gets the mean of field 2 and field 2 that of field 3.
#            The codes "007", "012" and "040" become "0", "1" and "2" as well. Named "ID" or "code", the column comes
#            back as it was. Nobody warns.
# Version    exactextract 0.3.0, geopandas 1.2.0, pandas 3.1.1, rasterio 1.4.4, Python 3.11.
# Source     https://github.com/isciences/exactextract: the docstring of exact_extract calls include_cols the columns
#            from the input features to be included into the output. No report of it was found. In the code,
#            JSONFeature of python/src/exactextract/feature.py takes "id" for the feature's own id and never looks for
#            a property of that name; geopandas' iterfeatures puts the index label there.
# Guessed    That a column is a column, whatever its name; and that a clash of names would be told.
# Way out    fields.rename(columns={"id": "code"}) before it.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile exactextract==0.3.0 geopandas==1.2.0 pandas==3.1.1 \
    rasterio==1.4.4 numpy==2.4.6

cd "$work"
"$work/venv/bin/python" -W ignore - <<'PY'
import sys
from importlib.metadata import version

import geopandas
import numpy as np
import rasterio
import shapely
from exactextract import exact_extract
from rasterio.transform import from_origin

print("exactextract", version("exactextract"), "| geopandas", geopandas.__version__)
form = {"driver": "GTiff", "height": 4, "width": 6, "count": 1, "dtype": "uint8", "crs": "EPSG:32640"}
with rasterio.open("cover.tif", "w", transform=from_origin(0, 4, 1, 1), **form) as dataset:
    dataset.write(np.repeat([[10, 20, 30]], 2, axis=1).repeat(4, axis=0).astype(np.uint8), 1)
squares = [shapely.box(2 * column, 0, 2 * column + 2, 4) for column in range(3)]


def extract(name, values, index=(0, 1, 2)):
    fields = geopandas.GeoDataFrame({name: values}, geometry=squares, crs="EPSG:32640", index=list(index))
    found = exact_extract("cover.tif", fields, ["mean"], include_cols=[name], output="pandas")
    print(f"{name} = {values}, index {list(index)}: {found[name].tolist()} with the means {found['mean'].tolist()}")
    return fields, found


fields, found = extract("id", [1, 2, 3])
held = found["id"].tolist() == ["0", "1", "2"] and found["mean"].tolist() == [10, 20, 30]
joined = fields.merge(found.assign(id=found["id"].astype(int)), on="id", how="left")["mean"]
print("joined to the fields 1, 2, 3 by id:", joined.tolist())
held &= joined.iloc[:2].tolist() == [20, 30] and np.isnan(joined.iloc[2])
held &= extract("id", ["007", "012", "040"])[1]["id"].tolist() == ["0", "1", "2"]
held &= extract("id", [1, 2, 3], index=(2, 0, 1))[1]["id"].tolist() == ["2", "0", "1"]
held &= extract("id", [1, 2, 3], index=(1, 2, 3))[1]["id"].tolist() == ["1", "2", "3"]
held &= extract("ID", [1, 2, 3])[1]["ID"].tolist() == [1, 2, 3]
held &= extract("code", ["007", "012", "040"])[1]["code"].tolist() == ["007", "012", "040"]
print("as described" if held else "NOT as described")
sys.exit(not held)
PY
