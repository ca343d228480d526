"""Cut large scenes and their masks or points into train and val tiles, in the layout that training reads.

    python tools/cut_tiles.py --images scenes --masks masks --output dataset
    python tools/cut_tiles.py --images scenes --points points.csv --class-names water,forest --output dataset

Scenes are of any size (GeoTIFFs: pip install rasterio; their tiles keep the georeference). Masks are
NAME.png or NAME.tif of class ids, 255 = unlabelled. The points are one file for all scenes: a CSV with
the columns image,x,y,class, pixels from the top left corner, which is 0,0, or vector points (.geojson,
.gpkg) with a field class; the class by id or by name. A point without a class is not labelled yet and is
passed over.

Neighbouring tiles look alike, so whole blocks of --block x --block tiles go to one side, and so does one
block in several scenes; train tiles on ground of val tiles are left out. Blocks are chosen
at random, by --seed: of 1000 draws of about --val-share of the tiles, the one with most classes on both
sides, then the one where the val share of the tiles and of the labels of each class is closest to what
was asked for. Tiles without a label are left out; those at the right and lower edge are padded with
pixels without data, or with --edges drop left out. Pixels without data become 255 in the mask and stay so
in the image. Values are written as they are: 16-bit scenes and those of many bands become GeoTIFFs like
them.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import shlex
import sys
import tempfile
import typing
import warnings
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import geo
import numpy as np
from labels import POINT_SUFFIXES, class_names, read_points
from PIL import Image
from tqdm.auto import tqdm

import landcover_segmentation as lc

SIDES = ("train", "val")
Reader = typing.Callable[[int, int], np.ndarray]  # (top, bottom) -> class ids (bottom - top, W) uint8

# =====================================================================================================
# Masks or points -> labels, row by row
# =====================================================================================================


@contextlib.contextmanager
def open_mask(path: Path) -> typing.Iterator[tuple[tuple[int, int], Reader]]:
    """The shape and the reader of a mask: a TIFF by rasterio, by rows; anything else whole."""
    if geo.is_picture(path):
        mask = lc.read_mask(path)
        yield mask.shape, lambda top, bottom: mask[top:bottom]
        return
    import rasterio

    geo.check_lossless(path)
    with lc.open_raster(path) as dataset, rasterio.Env(GDAL_CACHEMAX=2**28):
        if dataset.count != 1:
            raise lc.InputError(f"{path}: is a colour picture; see tools/convert_masks.py")
        yield (
            dataset.shape,
            lambda top, bottom: lc.raster_mask(dataset, ((top, bottom), (0, dataset.width))),
        )


def sparse_rows(points: lc.Points, width: int) -> Reader:
    table = [(*at, class_id) for at, class_id in points.items()]
    rows, columns, ids = np.array(table, np.int64).reshape(-1, 3).T

    def read(top: int, bottom: int) -> np.ndarray:
        ids_here = np.full((bottom - top, width), lc.IGNORE_INDEX, np.uint8)
        here = (rows >= top) & (rows < bottom)
        ids_here[rows[here] - top, columns[here]] = ids[here]
        return ids_here

    return read


# =====================================================================================================
# Scenes -> tiles -> blocks -> train and val
# =====================================================================================================


def bands_of(path: Path) -> tuple[int, ...]:
    """The bands of a scene but alpha, counted from 1; three of grey scenes and of what Pillow reads."""
    if geo.is_picture(path):
        return lc.RGB_BANDS
    with lc.open_raster(path) as dataset:
        alphas = lc.alpha_bands(dataset, ())
        bands = tuple(band for band in dataset.indexes if band not in alphas)
    return bands if len(bands) > 1 else lc.RGB_BANDS


def band_names(path: Path) -> list[str | None]:
    """What a scene calls each of the bands that its tiles hold, by which a map tells exchanged ones."""
    if geo.is_picture(path):
        return []
    with lc.open_raster(path) as dataset:
        read = lc.choose_bands(path, bands_of(path), dataset.dtypes)
        return [dataset.descriptions[band - 1] for band in read]


@contextlib.contextmanager
def open_labels(name: str, config: argparse.Namespace) -> typing.Iterator[tuple[geo.Scene, Reader]]:
    """Opens a scene and the labels that belong to it."""
    labels = config.labels[name]
    with contextlib.ExitStack() as stack:
        path = config.scenes[name]
        scene = stack.enter_context(geo.open_unscaled(path, bands_of(path)))
        if isinstance(labels, dict):
            yield scene, sparse_rows(labels, scene.width)
            return
        geo.check_same_ground(labels, path)
        geo.check_value_names(labels, path, config.class_names)
        if not geo.is_picture(labels):
            with lc.open_raster(labels) as dataset:
                if note := geo.nodata_class(dataset, [str(at) for at in range(len(config.class_names))]):
                    warnings.warn(note, stacklevel=2)
        shape, read = stack.enter_context(open_mask(labels))
        if tuple(shape) != (scene.height, scene.width):
            raise lc.InputError(f"{labels}: differs in size from {path}; make them the same size")
        yield scene, read


def cut(name: str, config: argparse.Namespace, bar: tqdm) -> typing.Iterator[tuple]:
    """Yields (scene, row, column, bands and alpha, class ids, labels hidden by nodata) of every tile.

    Holds one row of tiles at a time.
    """
    size, num_classes = config.tile, len(config.class_names)
    with open_labels(name, config) as (scene, read):
        for top in range(0, scene.height, size):
            pixels, ids = (source(top, min(top + size, scene.height)) for source in (scene.read, read))
            wrong = ids[(ids >= num_classes) & (ids != lc.IGNORE_INDEX)]
            if len(wrong):
                last = f"with {num_classes} classes they end at {num_classes - 1}"
                cure = "name all with --class-names; ids from 1: tools/convert_masks.py --ids"
                raise lc.InputError(f"{config.labels[name]}: holds class id {wrong.max()}; {last}; {cure}")
            hidden = (pixels[..., -1] == 0) & (ids != lc.IGNORE_INDEX)
            ids = np.where(hidden, np.uint8(lc.IGNORE_INDEX), ids)
            for left in range(0, scene.width, size):
                columns = slice(left, left + size)
                picture, mask = pixels[:, columns], ids[:, columns]
                lacking = [(0, size - length) for length in mask.shape]
                picture = np.pad(picture, [*lacking, (0, 0)])
                mask = np.pad(mask, lacking, constant_values=lc.IGNORE_INDEX)
                yield scene, top // size, left // size, picture, mask, int(hidden[:, columns].sum())
            bar.update()


def plan(config: argparse.Namespace, bar: tqdm) -> tuple[dict, Counter]:
    """Reads everything once. Returns the tiles to write, and what is left out: tiles by reason, and labels.

    The tiles are {(scene, row, column): labelled pixels per class (C,)}. Sets config.places, the reference
    system and transform of each scene.
    """
    config.places = {}
    tiles, size, left_out = {}, config.tile, Counter(config.passed_over)
    for name in config.scenes:
        for scene, row, column, _, mask, hidden in cut(name, config, bar):
            counts = np.bincount(mask.ravel(), minlength=256)[: len(config.class_names)]
            left_out["labels without data"] += hidden
            config.places[name] = scene.crs, scene.transform
            if not counts.any():
                left_out["tiles without a label"] += 1
            elif config.edges == "drop" and (
                (row + 1) * size > scene.height or (column + 1) * size > scene.width
            ):
                left_out["edge tiles"] += 1
                left_out["labels in edge tiles"] += int(counts.sum())
            else:
                tiles[name, row, column] = counts
    return tiles, left_out


def block_name(key: tuple, config: argparse.Namespace) -> tuple:
    """The block of a tile: where it lies on the ground, so that two dates of one place go to one side."""
    name, row, column = key[0], key[1] // config.block, key[2] // config.block
    crs, transform = config.places[name]
    if transform is None:
        return name, row, column
    side = config.block * config.tile
    corner = np.array(geo.on_ground(transform, column * side, row * side))
    pixel = abs(transform.determinant) ** 0.5
    return str(crs), *np.round(corner / pixel).astype(int).tolist(), round(pixel, 9)


def tile_bounds(keys: list[tuple], config: argparse.Namespace) -> np.ndarray:
    """left, bottom, right, top of each tile (N, 4), in the reference system of the first scene that has one;
    NaN without a place."""
    bounds = np.full((len(keys), 4), np.nan)
    system = next((crs for crs, _ in config.places.values() if crs), None)
    for at, (name, row, column) in enumerate(keys):
        crs, transform = config.places[name]
        if transform is not None:
            left, right, top, bottom = (config.tile * side for side in (column, column + 1, row, row + 1))
            corners = lc.on_ground(transform, (left, right, left, right), (top, top, bottom, bottom))
            x, y = lc.corners_in(system, (crs, transform, corners))
            bounds[at] = min(x), min(y), max(x), max(y)
    return bounds


def on_ground_of_val(tiles: dict, val: set[tuple], config: argparse.Namespace) -> list[tuple]:
    """The train tiles that share ground with a val tile of another scene.

    Those of one scene never do, though the bounds of its turned tiles overlap.
    """
    keys, val_keys = [key for key in tiles if key not in val and len(config.scenes) > 1], sorted(val)
    own, other = tile_bounds(keys, config), tile_bounds(val_keys, config)
    scenes, found = np.array([name for name, _, _ in val_keys]), []
    for key, (left, bottom, right, top) in zip(keys, own, strict=True):
        width = np.minimum(right, other[:, 2]) - np.maximum(left, other[:, 0])
        height = np.minimum(top, other[:, 3]) - np.maximum(bottom, other[:, 1])
        least = (right - left) / config.tile / 2  # neighbours meet but for rounding
        if ((width > least) & (height > least) & (scenes != key[0])).any():
            found.append(key)
    return found


def choose_val(tiles: dict, config: argparse.Namespace) -> set[tuple]:
    """The keys of the tiles that become val: whole blocks, the best of 1000 draws, as the help says."""
    block_of = {key: block_name(key, config) for key in tiles}
    blocks = {block: index for index, block in enumerate(dict.fromkeys(block_of.values()))}
    if len(blocks) < 2:
        problem = "all tiles with labels lie in one block"
        raise lc.InputError(f"--block {config.block}: {problem}; make it or --tile smaller")
    amounts = np.zeros((len(blocks), 1 + len(config.class_names)))  # tiles, then labels of each class
    for key, counts in tiles.items():
        amounts[blocks[block_of[key]]] += [1, *counts]
    total, rng = amounts.sum(0), lc.named_rng(config.seed, "blocks")
    draws = []
    for _ in range(1000):
        order = rng.permutation(len(blocks))
        share_so_far = amounts[order, 0].cumsum()[:-1] / total[0]
        val = order[: 1 + np.abs(share_so_far - config.val_share).argmin()]
        share = amounts[val].sum(0)[total > 0] / total[total > 0]
        missing = ((share == 0) | (share == 1)).sum()
        off = np.abs(share - config.val_share)
        draws.append((missing, off[0] + off[1:].mean(), val))
    val = set(min(draws, key=lambda draw: draw[:2])[2].tolist())
    return {key for key in tiles if blocks[block_of[key]] in val}


def write_tile(
    folder: Path, name: str, scene: geo.Scene, picture: np.ndarray, mask: np.ndarray, at: tuple, names: list
) -> None:
    """Writes image and mask of a tile whose top left pixel is at (row, column) of its scene.

    names: of the bands. What alpha hides stays hidden.
    """
    Image.fromarray(mask).save(folder / "masks" / f"{name}.png")
    bands, alpha = picture[..., :-1], np.uint8(picture[..., -1])
    count = bands.shape[2]
    if scene.transform is None and not scene.deep and count == 3 and not any(names):
        Image.fromarray(bands if alpha.all() else picture).save(folder / "images" / f"{name}.png")
        return
    import rasterio
    from rasterio.windows import Window, transform

    place = {}
    if scene.transform is not None:
        place = {"crs": scene.crs, "transform": transform(Window(at[1], at[0], *mask.shape), scene.transform)}
    form = {"height": len(mask), "width": len(mask), "count": count, "dtype": bands.dtype}
    form |= {"compress": "deflate", "photometric": "rgb" if count == 3 else "minisblack"}
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        with rasterio.open(folder / "images" / f"{name}.tif", "w", "GTiff", **place, **form) as dataset:
            dataset.write(bands.transpose(2, 0, 1))
            for band, band_name in zip(dataset.indexes, names, strict=False):
                dataset.set_band_description(band, band_name or "")
            if not alpha.all():
                dataset.write_mask(alpha)


def cut_scenes(config: argparse.Namespace) -> None:
    """Plans, writes to a temporary folder, and puts train/ and val/ in place only when all is done."""
    rows = find_inputs(config)
    with tqdm(total=2 * rows, desc="reading", unit="row of tiles", disable=None) as bar:
        tiles, left_out = plan(config, bar)
        val = choose_val(tiles, config)
        for key in on_ground_of_val(tiles, val, config):
            left_out["train tiles on ground of val tiles of another scene"] += 1
            left_out["labels in those tiles"] += int(tiles.pop(key).sum())
        if not tiles.keys() - val:
            problem = "all other tiles lie on ground of val tiles"
            raise lc.InputError(f"--val-share {config.val_share}: {problem}; make it or --block smaller")
        lc.prepare_output(config.output)
        bar.set_description("cutting")
        with tempfile.TemporaryDirectory(dir=config.output, prefix=".partial-") as partial:
            for side in SIDES:
                for kind in ("images", "masks"):
                    (Path(partial) / side / kind).mkdir(parents=True)
            for name, path in config.scenes.items():
                names = band_names(path)
                for scene, row, column, picture, mask, _ in cut(name, config, bar):
                    if (name, row, column) in tiles:
                        folder = Path(partial) / SIDES[(name, row, column) in val]
                        tile_name = f"{Path(name).stem}_r{row:03}_c{column:03}"
                        at = row * config.tile, column * config.tile
                        write_tile(folder, tile_name, scene, picture, mask, at, names)
            for side in SIDES:
                (Path(partial) / side).replace(config.output / side)
    report(config, tiles, val, left_out)


def find_inputs(config: argparse.Namespace) -> int:
    """Sets config.scenes and config.labels, both by file name: a path to a mask or the points.

    Returns the number of rows of tiles.
    """
    for side in SIDES:
        if (config.output / side).exists():
            cure = "remove it or name another --output"
            raise lc.InputError(f"{config.output / side}: is there already; {cure}")
    scenes = by_stem(config.images, lc.IMAGE_SUFFIXES)
    if not scenes:
        suffixes = ", ".join(lc.IMAGE_SUFFIXES)
        raise lc.InputError(f"{config.images}: holds no image ({suffixes}); correct --images")
    sizes, config.passed_over = {}, {}
    for path in scenes.values():
        with geo.open_unscaled(path, bands_of(path)) as scene:
            sizes[path.name] = (scene.height, scene.width)
    if config.points:
        points, config.passed_over = read_points(config.points, scenes, config.class_names)
        config.labels = {scenes[stem].name: own for stem, own in points.items()}
    else:
        found = by_stem(config.masks, lc.MASK_SUFFIXES)
        masks = {lc.folded(stem): path for stem, path in found.items()}
        if config.images.is_file() and config.masks.is_file():  # they belong together, whatever their names
            masks = {lc.folded(config.images.stem): config.masks}
        for stem, path in scenes.items():
            if lc.folded(stem) not in masks:
                problem = f"has no mask of that name in {config.masks}"
                raise lc.InputError(f"{path}: {problem}; add it or remove the image")
        config.labels = {path.name: masks[lc.folded(stem)] for stem, path in scenes.items()}
        geo.check_palettes(config.labels.values())
    config.scenes = {path.name: path for path in scenes.values() if path.name in config.labels}
    return sum(math.ceil(sizes[name][0] / config.tile) for name in config.scenes)


def by_stem(source: Path, suffixes: tuple[str, ...]) -> dict[str, Path]:
    """The files of a folder, or a single one, by name without suffix."""
    return {source.stem: source} if source.is_file() else lc.files_by_stem(source, suffixes)


def report(config: argparse.Namespace, tiles: dict, val: set, left_out: Counter) -> None:
    """Prints tiles and labels of each side and what was left out; warns of classes that a side lacks."""
    counts = {side: sum(tiles[key] for key in tiles if (key in val) == (side == "val")) for side in SIDES}
    width = max(10, *map(len, config.class_names))
    share = f"{len(val) / len(tiles):.1%} of the tiles to val"
    print(f"wrote {config.output}/train and {config.output}/val, {share}")
    print(f"  {'':{width}}  {'train':>14}  {'val':>14}")
    print(f"  {'tiles':{width}}  {len(tiles) - len(val):>14,}  {len(val):>14,}")
    for name, *numbers in zip(config.class_names, *counts.values(), strict=True):
        print(f"  {name:{width}}  {numbers[0]:>14,}  {numbers[1]:>14,}")
    for what, number in left_out.items():
        if number:
            print(f"left out: {what} ({number:,})")
    if counts["val"].sum() < lc.SPARSE_SHARE * len(val) * config.tile**2:  # as training judges
        print("note: val has points only, so its score will be their accuracy: mIoU takes dense masks")
    for name, *numbers in zip(config.class_names, *counts.values(), strict=True):
        lacking = [side for side, number in zip(SIDES, numbers, strict=True) if not number]
        if lacking:
            cure = "label more of it elsewhere, or try another --block or --seed"
            cure = "label some" if len(lacking) == 2 else cure
            warnings.warn(f"{' and '.join(lacking)} has no label of {name}: {cure}", stacklevel=2)
        elif numbers[1] < 10:
            cure = "label more of it elsewhere, or try a smaller --block or another --seed"
            few = geo.counted(numbers[1], "labelled pixel")
            print(f"note: val has {few} of {name}, whose score says little: {cure}")
    counts = {len(bands_of(path)) for path in config.scenes.values()}
    if (count := min(counts)) > 3:
        every = ",".join(map(str, range(1, count + 1)))
        print(f"note: of {count} bands training reads 1,2,3; to learn from all add --bands={every}")
    print(f"train on them: {training_command(config, counts)}")


def training_command(config: argparse.Namespace, counts: set[int]) -> str:
    """What to type to train on these tiles, where the constants of the module name others.

    counts: of the scenes' bands.
    """
    kinds = [(side, kind) for side in SIDES for kind in ("image", "mask")]
    folders = [f"--{side}-{kind}-dir={config.output / side / kind}s" for side, kind in kinds]
    words = ["python", "landcover_segmentation.py", *folders]
    if list(config.class_names) != list(lc.CLASS_NAMES):
        words += [f"--num-classes={len(config.class_names)}", f"--class-names={','.join(config.class_names)}"]
        words += ["--class-colors=None"]
    if counts == {2}:  # else the first is read as grey
        words += ["--bands=1,2"]
    return shlex.join([*words, "--num-points=None"] if config.points else words)


# =====================================================================================================
# Command line
# =====================================================================================================


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = lc.FlagParser(description=__doc__)
    flag = parser.add_argument
    group = parser.add_mutually_exclusive_group(required=True)
    # fmt: off
    flag("--images", metavar="PATH", type=Path, required=True, help="a scene or a folder of them")
    group.add_argument("--masks", metavar="PATH", type=Path,
                       help="class ids in NAME.png or .tif: a folder or the mask of one scene")
    group.add_argument("--points", metavar="FILE", type=Path,
                       help="points of all scenes: .csv of image,x,y,class, .geojson or .gpkg")
    flag("--output", metavar="DIR", type=Path, required=True, help="folder for train/ and val/")
    flag("--class-names", metavar="LIST",
         help="in order of id, like water,forest (default: CLASS_NAMES of the module)")
    flag("--tile", metavar="N", type=int, default=256, help="side of the tiles in pixels (default: 256)")
    flag("--block", metavar="N", type=int, default=4, help="side of the blocks in tiles (default: 4)")
    flag("--val-share", metavar="S", type=float, default=0.2,
         help="share of the tiles that become val (default: 0.2)")
    flag("--edges", choices=("pad", "drop"), default="pad",
         help="what becomes of tiles at the edge (default: pad)")
    flag("--seed", metavar="N", type=int, default=0, help="decides the blocks (default: 0)")
    # fmt: on
    args = parser.parse_args(argv)
    args.class_names = class_names(args.class_names)
    for name, low, high in (("tile", 32, 8192), ("block", 1, 10**6)):
        if not low <= getattr(args, name) <= high:
            lc.complain(f"--{name} {getattr(args, name)}: must lie between {low} and {high}")
    if not 0 < args.val_share < 1:
        lc.complain(f"--val-share {args.val_share}: must lie between 0 and 1")
    if args.points and not lc.is_points_file(args.points, POINT_SUFFIXES):
        lc.complain(f"--points {args.points}: must be a file {', '.join(POINT_SUFFIXES)}")
    return args


@lc.command_line
def main(argv: list[str]) -> None:
    cut_scenes(parse(argv))


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True, errors="replace")
    sys.exit(main())
