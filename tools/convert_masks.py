"""Turn masks in colours, or with odd ids, into those that training reads: class ids, 255 = unlabelled.

    python tools/convert_masks.py --input labels --output dataset/train/masks --palette loveda
    python tools/convert_masks.py --input train --output masks --palette deepglobe \\
        --rename _mask=_sat --tolerance 221
    python tools/convert_masks.py --input labels --output masks --colors '#3c1098,#8429f6' \\
        --names building,land
    python tools/convert_masks.py --input labels --output masks --ids 1,2,5 --names town,town,water \\
        --unlabelled 0

--palette is a data set below or a CSV file with the columns name,color,id (one of color and id may lack).
Rows (and --names) of the same name become one class, a row without a name is unlabelled. Classes keep the
ids of a palette that are 0, 1, 2 and so on; else names that are those of CLASS_NAMES have its order; else
they are numbered as they appear, and ids that change are told. Without a palette the masks' own legends
count (category names, attribute tables, .vat.dbf, .qml). Where ids are given, grey pictures are read as ids;
everything else goes by its colours. What the palette does not know becomes 255, and is told.
--tolerance takes colours damaged by JPEG to the nearest of the palette within that distance in RGB.
--rename OLD=NEW takes the files whose name ends in OLD, and pairs them with their image.
A mask that has a place (GeoTIFF, world file; pip install rasterio) keeps it, as NAME.tif.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import importlib.util
import json
import math
import re
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import geo
import numpy as np
from PIL import Image
from tqdm.auto import tqdm

import landcover_segmentation as lc

# Name, colour, id in the published masks; each with what its publisher says and where. "Publisher's own"
# was read there, "quoted" in a copy of the publisher's words, for the page itself could not be had. The
# colours of data sets that publish ids are of their pictures.
PALETTES = {
    # Quoted: the data page of https://competitions.codalab.org/competitions/18468, as
    # https://github.com/reidfalconer/landcover_segmentation and others copy it, lists these seven RGB
    # values and ID_sat.jpg, ID_mask.png. Publisher's own: that competition's first page, which names the
    # same seven classes. The data page adds that values may not be pure 0 and 255: "binarize them at
    # threshold 128". The nearest colour is just that, and none is further than 221.
    "deepglobe": """urban land,#00ffff, | agriculture land,#ffff00, | rangeland,#ff00ff,
        | forest land,#00ff00, | water,#0000ff, | barren land,#ffffff, | ,#000000,""",
    # Publisher's own: https://github.com/Junjue-Wang/LoveDA, README (ids, 0 is to be ignored) and
    # Semantic_Segmentation/render.py (colours).
    "loveda": """background,#ffffff,1 | building,#ff0000,2 | road,#ffff00,3 | water,#0000ff,4
        | barren,#9f81b7,5 | forest,#00ff00,6 | agriculture,#ffc380,7 | ,#000000,0""",
    # Vaihingen and Potsdam. Quoted: the list "Impervious surfaces (RGB: 255, 255, 255)" to
    # "Clutter/background (RGB: 255, 0, 0)" of
    # https://www.isprs.org/resources/datasets/benchmarks/UrbanSemLab/2d-sem-label-vaihingen.aspx and
    # 2d-sem-label-potsdam.aspx, word for word in
    # https://github.com/giumanuz/Sematic-Segmentation-on-Podsdam-ISPRS, README, and in many more;
    # torchgeo's vaihingen.py and mmsegmentation's isprs.py agree. Black is the border left out in the
    # masks named noBoundary. Names of Potsdam: top_potsdam_2_10_RGB.tif, top_potsdam_2_10_label.tif, so
    # --rename _label=_RGB.
    "isprs": """impervious surfaces,#ffffff, | building,#0000ff, | low vegetation,#00ffff, | tree,#00ff00,
        | car,#ffff00, | clutter,#ff0000, | ,#000000,""",
    # Quoted: the card of
    # https://www.kaggle.com/datasets/humansintheloop/semantic-segmentation-of-aerial-imagery lists these
    # six, as https://huggingface.co/datasets/ayoubkirouane/Dubai_dataset-Aerial_Imagery_Vc copies it
    # whole. The classes.json within the data
    # (https://github.com/smp0714/Semantic-Segmentation-of-Satellite-Imager holds it) names the same six
    # in other colours, but those of the masks are the card's.
    "dubai": """building,#3c1098, | land (unpaved),#8429f6, | road,#6ec1e4, | vegetation,#fedd3a,
        | water,#e2a929, | ,#9b9b9b,""",
    # Publisher's own: https://github.com/bao18/open_earth_map, oem/utils.py (ids, colours, and three
    # names that differ: grass, pavement, cropland). The names are those of the paper,
    # https://arxiv.org/abs/2210.10732.
    "openearthmap": """bareland,#800000,1 | rangeland,#00ff24,2 | developed space,#949494,3 | road,#ffffff,4
        | tree,#226126,5 | water,#0045ff,6 | agriculture land,#4bb549,7 | building,#de1f07,8 | ,#000000,0""",
    # Quoted: https://landcover.ai.linuxpolska.com, "building (1), woodland (2), water(3), road(4)", in
    # the docs of https://github.com/PUTvision/qgis-plugin-deepness and in many more. 0 is all land that
    # is none of the four: a class. The masks have no colours; these are torchgeo's, of
    # torchgeo/datasets/landcoverai.py.
    "landcover.ai": """background,#000000,0 | building,#614a4a,1 | woodland,#267300,2 | water,#00c5ff,3
        | road,#cfcfcf,4""",
}
NOTHING = {"unlabelled", "unlabeled", "unclassified", "nodata", "no data", "no_data", "ignore"}
UNKNOWN = 254  # in a table: neither a class nor known to be unlabelled
TRANSPARENT = 2**24  # the code of pixels without a colour


@dataclass
class Palette:
    """What the codes of masks mean: an id, or a colour as 0xrrggbb -> class id, 255 = unlabelled."""

    names: list[str] = field(default_factory=list)
    colors: list[str | None] = field(default_factory=list)  # one per class, the first that it is given
    by_color: dict[int, int] = field(default_factory=dict)
    by_id: dict[int, int] = field(default_factory=dict)


def make_palette(rows: list[dict], source: str) -> Palette:
    """Makes a palette of rows: name, color and id of each kind of pixel.

    The name, and one of the others, may lack. Raises InputError, which names the row.
    """
    palette = Palette()
    for number, row in enumerate(rows, 1):
        name, color, code = ((row.get(key) or "").strip() for key in ("name", "color", "id"))
        where = f"{source}, entry {number}"
        if color and not re.fullmatch("#[0-9a-fA-F]{6}", color):
            raise lc.InputError(f"{where}: color {color!r} is not like #1e6b34")
        if code and not (re.fullmatch("[0-9]{1,8}", code) and int(code) < TRANSPARENT):
            cure = "leave nodata and nan out; a value that means no data: rio edit-info --nodata=VALUE FILE"
            raise lc.InputError(f"{where}: id {code!r} is not a whole number from 0; {cure}")
        if not color and not code:
            raise lc.InputError(f"{where}: has neither color nor id; the columns are name,color,id")
        if name and name not in palette.names:
            palette.names.append(name)
            palette.colors.append(color.lower() or None)
        class_id = palette.names.index(name) if name else lc.IGNORE_INDEX
        if color and palette.by_color.setdefault(int(color[1:], 16), class_id) != class_id:
            raise lc.InputError(f"{where}: color {color} already belongs to another class")
        if code and palette.by_id.setdefault(int(code), class_id) != class_id:
            raise lc.InputError(f"{where}: id {code} already belongs to another class")
    if not 0 < len(palette.names) < UNKNOWN:
        raise lc.InputError(f"{source}: names {len(palette.names)} classes; 1 to {UNKNOWN - 1} are possible")
    return palette


def in_own_order(palette: Palette) -> Palette:
    """The palette with its own ids if they are 0 to N - 1, else in the order of CLASS_NAMES if it fits."""
    count, ids = len(palette.names), {one: code for code, one in palette.by_id.items() if one != 255}
    own, ours = ([lc.plain_name(name) for name in names] for names in (palette.names, lc.CLASS_NAMES or []))
    alone = sum(one != lc.IGNORE_INDEX for one in palette.by_id.values()) == count
    if alone and sorted(ids.values()) == list(range(count)):
        new = dict(ids)
    elif sorted(own) == sorted(ours):
        new = {class_id: ours.index(name) for class_id, name in enumerate(own)}
    else:
        return palette
    order, new = sorted(new, key=new.get), new | {lc.IGNORE_INDEX: lc.IGNORE_INDEX}
    codes = ({code: new[one] for code, one in table.items()} for table in (palette.by_color, palette.by_id))
    return Palette([palette.names[at] for at in order], [palette.colors[at] for at in order], *codes)


def read_palette(name: str) -> Palette:
    """A palette that is built in, or that of a CSV file."""
    if name in PALETTES:
        entries = map(str.strip, PALETTES[name].split("|"))
        return in_own_order(make_palette(list(csv.DictReader(entries, ("name", "color", "id"))), name))
    if not Path(name).is_file():
        raise lc.InputError(f"--palette {name}: is neither a file nor one of {', '.join(PALETTES)}")
    return in_own_order(make_palette([row for _, row in lc.csv_rows(Path(name), ("name",))], name))


def own_palette(masks: dict[str, Path]) -> Palette:
    """The palette of the masks' legends. Raises InputError, which names the one that fits, without."""
    legend: dict[int, str] = {}
    for path in masks.values():
        for value, name in geo.value_names(path).items():
            if lc.plain_name(legend.setdefault(value, name)) != lc.plain_name(name):
                problem = f"calls {value} {name!r}, an earlier mask {legend[value]!r}"
                raise lc.InputError(f"{path}: {problem}; correct one, or convert them apart")
    rows = [{"name": name if lc.plain_name(name) not in NOTHING else "", "id": str(value)}
            for value, name in sorted(legend.items())]  # fmt: skip
    if legend:
        print("names and ids are those of the masks' own legends")
        return in_own_order(make_palette(rows, "the legends of the masks"))
    seen: set[str] = set()
    for path in list(masks.values())[:20]:
        codes, is_ids = read_codes(path, Palette(by_color={0: 0}, by_id={0: 0}))
        seen |= {str(code) if is_ids else f"#{code:06x}" for code in np.unique(codes) if code != TRANSPARENT}
    most = ", ".join(sorted(seen)[:12]) + (", …" if len(seen) > 12 else "")
    fits = f"; they are those of --palette {' or '.join(fitting)}" if (fitting := palettes_of(seen)) else ""
    lc.complain(f"give --palette, or --colors or --ids: the masks hold {most}{fits}")


def palettes_of(seen: set[str]) -> list[str]:
    """The known palettes that have all of these colours, of which ids are none."""
    fit = []
    for name in PALETTES if all(code.startswith("#") for code in seen) else ():
        if {int(code[1:], 16) for code in seen} <= read_palette(name).by_color.keys():
            fit.append(name)
    return fit


def read_codes(path: Path, palette: Palette) -> tuple[np.ndarray, bool]:
    """The codes of a mask, (H, W) int32, and whether they are ids, of a grey picture; else 0xrrggbb."""
    if palette.by_id and path.suffix.lower() in (".tif", ".tiff") and importlib.util.find_spec("rasterio"):
        with lc.open_raster(path) as dataset:
            if dataset.count == 1:
                geo.check_lossless(path)
                ids = [str(code) for code, class_id in palette.by_id.items() if class_id != lc.IGNORE_INDEX]
                if note := geo.nodata_class(dataset, ids):
                    warnings.warn(note, stacklevel=2)
                return read_raster_codes(dataset), True
    with lc.open_picture(path) as picture:
        deep, grey = lc.is_deep(picture), picture.mode in ("1", "L", "P")
        pixels = np.asarray(picture if deep else picture.convert("RGBA"))
    if palette.by_id and (deep or grey):
        codes = pixels if deep else lc.read_mask(path)
        if codes.ndim != 2 or (codes % 1).any() or codes.min() < 0 or codes.max() >= TRANSPARENT:
            raise lc.InputError(f"{path}: holds values that are no ids: whole numbers from 0, in one channel")
        return codes.astype(np.int32), True
    if deep:
        problem = "has more than 8 bits per channel"
        raise lc.InputError(f"{path}: {problem}; colours have 8, and for ids give --ids")
    red, green, blue, alpha = np.moveaxis(pixels.astype(np.int32), 2, 0)
    is_grey = (red == green).all() and (green == blue).all()
    is_ids = bool(palette.by_id) and is_grey  # ids saved in three equal channels
    if not is_ids and not palette.by_color:
        raise lc.InputError(f"{path}: is a colour picture, but the palette has only ids; give it colours")
    return np.where(alpha == 0, TRANSPARENT, red if is_ids else red << 16 | green << 8 | blue), is_ids


def read_raster_codes(dataset) -> np.ndarray:
    """The ids of a rasterio dataset of one band of any type, (H, W) int32; nodata and NaN are transparent."""
    values, hidden = dataset.read(1).astype(float), dataset.read_masks(1) == 0
    codes = np.where(hidden | np.isnan(values), TRANSPARENT, values)
    if (codes % 1).any() or codes.min() < 0 or codes.max() > TRANSPARENT:
        problem = "holds values that are no ids, which are whole numbers from 0"
        cure = f'if one means no data: rio edit-info --nodata=VALUE "{dataset.name}"'
        raise lc.InputError(f"{dataset.name}: {problem}; {cure}")
    return codes.astype(np.int32)


def rgb_mask_to_class_ids(mask: np.ndarray, palette: Sequence[tuple[int, int, int]]) -> np.ndarray:
    """Turns a colour-coded mask into class ids.

    mask: (H, W, 3) uint8; palette: the RGB colour of each class, in order of id.
    Returns (H, W) uint8 with 255 where the colour is not in the palette.
    """
    if mask.ndim != 3 or mask.shape[2] != 3:
        raise lc.InputError(f"an RGB mask of shape (H, W, 3) is needed, not {mask.shape}")
    class_ids = np.full(mask.shape[:2], lc.IGNORE_INDEX, np.uint8)
    for class_id, color in enumerate(palette):
        class_ids[(mask == np.asarray(color, np.uint8)).all(axis=2)] = class_id
    return class_ids


def class_ids_of(
    codes: np.ndarray, classes: dict[int, int], tolerance: float = 0
) -> tuple[np.ndarray, Counter, int]:
    """Class ids (H, W) uint8; how many pixels each unknown code had; how many took the nearest colour."""
    table = np.full(TRANSPARENT + 1, UNKNOWN, np.uint8)
    table[TRANSPARENT] = lc.IGNORE_INDEX
    table[list(classes)] = list(classes.values())
    class_ids = table[codes]
    unknown = class_ids == UNKNOWN
    strange, counts = np.unique(codes[unknown], return_counts=True)
    near = np.zeros(len(strange), bool)
    if tolerance and len(strange):
        both = np.array(list(classes)), strange
        palette, own = (np.stack([c >> 16, c >> 8 & 255, c & 255], 1) for c in both)
        distance = np.stack([np.linalg.norm(own - color, axis=1) for color in palette])
        near = distance.min(0) <= tolerance
        table[strange[near]] = np.array(list(classes.values()))[distance.argmin(0)[near]]
    table[strange[~near]] = lc.IGNORE_INDEX
    class_ids[unknown] = table[codes[unknown]]
    lost = Counter(dict(zip(strange[~near].tolist(), counts[~near].tolist(), strict=True)))
    return class_ids, lost, int(counts[near].sum())


def find_masks(config: argparse.Namespace) -> dict[str, Path]:
    """The masks of the folder, by name without suffix. Raises InputError without."""
    old = config.rename.partition("=")[0]
    found = lc.files_by_stem(config.input, lc.IMAGE_SUFFIXES)
    masks = {stem: path for stem, path in found.items() if stem.endswith(old)}
    if not masks:
        raise lc.InputError(f"{config.input}: holds no mask NAME{old} ({', '.join(lc.IMAGE_SUFFIXES)})")
    return masks


def check_legend(path: Path, palette: Palette) -> None:
    """Raises InputError if a mask calls an id by the name that the palette gives another."""
    known = {lc.plain_name(name): class_id for class_id, name in enumerate(palette.names)}
    legend = geo.value_names(path) if importlib.util.find_spec("rasterio") else {}
    for value, name in legend.items():
        class_id = palette.by_id.get(value, lc.IGNORE_INDEX)
        if known.get(lc.plain_name(name), class_id) != class_id:
            here = "unlabelled" if class_id == lc.IGNORE_INDEX else palette.names[class_id]
            cure = "correct --ids, --names or the palette; without any, the mask's own legend counts"
            raise lc.InputError(f"{path}: calls {value} {name!r}, which is {here!r} here; {cure}")


def convert(config: argparse.Namespace, palette: Palette) -> None:
    """Converts the masks of a folder, all or none, and says what became of their pixels."""
    old, _, new = config.rename.partition("=")
    masks = find_masks(config)
    if config.output.resolve() == config.input.resolve():
        raise lc.InputError(f"--output {config.output}: is the input; name another folder")
    lc.prepare_output(config.output)
    pixels, unknown, mended, by_id = np.zeros(256, np.int64), Counter(), 0, False
    with tempfile.TemporaryDirectory(dir=config.output, prefix=".partial-") as partial:
        for stem, path in tqdm(masks.items(), "converting", unit="mask", disable=None):
            codes, is_ids = read_codes(path, palette)
            if is_ids:
                check_legend(path, palette)
            classes, tolerance = (palette.by_id, 0) if is_ids else (palette.by_color, config.tolerance)
            class_ids, strange, near = class_ids_of(codes, classes, tolerance)
            save_mask(Path(partial), f"{stem.removesuffix(old)}{new}", class_ids, path)
            pixels += np.bincount(class_ids.ravel(), minlength=256)
            for code, count in strange.items():
                unknown[str(code) if is_ids else f"#{code:06x}"] += count
            mended, by_id = mended + near, by_id or is_ids
        for path in Path(partial).iterdir():
            path.replace(config.output / path.name)
    report(config.output, len(masks), palette, pixels, unknown, mended, by_id)


def save_mask(folder: Path, name: str, class_ids: np.ndarray, source: Path) -> None:
    """Writes NAME.png, or NAME.tif where the source has a place, by which readers know its image's ground."""
    crs = transform = None
    if importlib.util.find_spec("rasterio"):
        with contextlib.suppress(lc.InputError), geo.open_unscaled(source, (1,)) as scene:
            crs, transform = scene.crs, scene.transform
    if transform is None:
        Image.fromarray(class_ids).save(folder / f"{name}.png")
        return
    import rasterio

    height, width = class_ids.shape
    form = {"height": height, "width": width, "count": 1, "dtype": "uint8", "compress": "deflate"}
    form |= {"crs": crs, "transform": transform, "nodata": lc.IGNORE_INDEX}
    with rasterio.open(folder / f"{name}.tif", "w", "GTiff", **form) as dataset:
        dataset.write(class_ids, 1)


def nearest_entry(code: str, palette: Palette) -> str:
    """The entry of the palette that is close to an unknown colour, in words; nothing of ids and of others."""
    if not code.startswith("#"):
        return ""
    own, *colors = ([c >> 16, c >> 8 & 255, c & 255] for c in (int(code[1:], 16), *palette.by_color))
    distances = [math.dist(own, color) for color in colors]
    best = int(np.argmin(distances))
    if distances[best] <= 30:
        class_id = list(palette.by_color.values())[best]
        name = "unlabelled" if class_id == lc.IGNORE_INDEX else palette.names[class_id]
        return f": {name} with --tolerance {math.ceil(distances[best])}"
    return ""


def report(
    output: Path,
    count: int,
    palette: Palette,
    pixels: np.ndarray,
    unknown: Counter,
    mended: int,
    by_id: bool,
) -> None:
    """Prints what became of the pixels, ids that changed and colours that the palette lacks."""
    wrote = geo.counted(count, "mask")
    print(f"wrote {wrote} to {output}, {geo.counted(pixels.sum(), 'pixel')}")
    names, numbers = [*palette.names, "unlabelled"], [*pixels[: len(palette.names)], pixels[-1]]
    for name, number in zip(names, numbers, strict=True):
        print(f"  {name:{max(10, *map(len, palette.names))}}  {number / pixels.sum():7.2%}")
    if mended:
        print(f"{geo.counted(mended, 'pixel')} took the nearest colour of the palette")
    changed = [f"{code} is {one}" for code, one in palette.by_id.items() if one not in (code, 255)]
    if by_id and changed:
        print(f"ids that changed: {', '.join(changed[:20])}{', …' if len(changed) > 20 else ''}")
    if unknown:
        shown = [
            f"{code} ({number:,}{nearest_entry(code, palette)})" for code, number in unknown.most_common(8)
        ]
        rest = f" and {len(unknown) - 8:,} more" if len(unknown) > 8 else ""
        if fitting := palettes_of({*unknown}) if pixels[:255].sum() == 0 else ():
            rest += f"; all of them are in --palette {' or '.join(fitting)}"
        found = f"{geo.counted(unknown.total(), 'pixel')}, {', '.join(shown)}{rest}"
        print(f"not in the palette, and 255 now: {found}")
    names, colors = (json.dumps(texts, ensure_ascii=False) for texts in (palette.names, palette.colors))
    print("paste into landcover_segmentation.py:")
    print(f"NUM_CLASSES: int = {len(palette.names)}\nCLASS_NAMES: list[str] | None = {names}")
    print(f"CLASS_COLORS: list[str] | None = {None if None in palette.colors else colors}")


# =====================================================================================================
# Command line
# =====================================================================================================


def given_palette(args: argparse.Namespace) -> Palette:
    """The palette that the flags describe: a known one, or one spelt out."""
    if args.palette:
        if args.colors or args.ids or args.names or args.unlabelled:
            lc.complain("--palette knows its colours, ids and names; give either it or them")
        return read_palette(args.palette)
    lists = {"color": args.colors, "id": args.ids, "name": args.names}
    lists = {key: text.split(",") for key, text in lists.items() if text}
    lengths = {len(texts) for texts in lists.values()}
    if not lists.keys() & {"color", "id"}:
        if args.names or args.unlabelled:
            lc.complain("--names and --unlabelled go with --colors or --ids; give one of them")
        return own_palette(find_masks(args))
    if len(lengths) > 1:
        lc.complain(f"--colors, --ids and --names differ in length: {', '.join(map(str, sorted(lengths)))}")
    lists.setdefault("name", lc.numbered_classes(lengths.pop()))
    rows = [dict(zip(lists, texts, strict=True)) for texts in zip(*lists.values(), strict=True)]
    nothing = args.unlabelled.split(",") if args.unlabelled else []
    rows += [{"color" if "#" in text else "id": text} for text in nothing]
    return make_palette(rows, "--colors, --ids")


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = lc.FlagParser(description=__doc__)
    flag = parser.add_argument
    flag("--input", metavar="DIR", type=Path, required=True, help="folder of masks")
    flag("--output", metavar="DIR", type=Path, required=True, help="folder for NAME.png or .tif")
    flag("--palette", metavar="NAME|FILE", help=f"{', '.join(PALETTES)}, or a CSV file")
    flag("--colors", metavar="LIST", help="the colour of each class, like '#3c1098,#8429f6'")
    flag("--ids", metavar="LIST", help="the id of each class in the masks, like 1,2,5")
    flag("--names", metavar="LIST", help="names of the classes, in the order of --colors or --ids")
    flag("--unlabelled", metavar="LIST", help="colours or ids that are no class: '#000000' or 0")
    # fmt: off
    flag("--tolerance", metavar="D", type=float, default=0,
         help="distance in RGB that a colour may be off (default: 0)")
    flag("--rename", metavar="OLD=NEW", default="=",
         help="how the names end: _mask=_sat makes 7_mask.tif 7_sat.png")
    # fmt: on
    args = parser.parse_args(argv)
    if "=" not in args.rename or "/" in args.rename or "\\" in args.rename:
        lc.complain(f"--rename {args.rename}: must be OLD=NEW, like _mask=_sat, parts of a file's name")
    if not args.tolerance >= 0:  # NaN is no distance
        lc.complain(f"--tolerance {args.tolerance:g}: must be 0 or more")
    return args


@lc.command_line
def main(argv: list[str]) -> None:
    args = parse(argv)
    convert(args, given_palette(args))


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True, errors="replace")
    sys.exit(main())
