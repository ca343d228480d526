"""Generate a land-cover dataset of aerial-looking landscapes, to try everything without a download.

    python tools/generate_dataset.py                                   # 24 + 8 tiles of 256 px into dataset/
    python tools/generate_dataset.py --output big --train 200 --size 512 --seed 1
    python tools/generate_dataset.py --output scenes --scenes 8 --train 480 --val 240 --size 128

Writes `OUTPUT/{train,val}/images/NAME.jpg` (RGB) and `OUTPUT/{train,val}/masks/NAME.png` (uint8 ids).
Six classes: water, forest, cropland, grassland, built-up, road. Built-up covers the buildings AND the yards
and paved ground of the blocks between the streets; streets, main roads and bridges are road.

With `--scenes` the tiles come from so many regions that differ in soil, season, haze, sun and pixel size
(1 to 2 m), with what makes maps hard: tracks and streams of two or three pixels (road and water), and two
rare classes, greenhouse and bare ground. They are named sceneS_partP_N; parts 3, 6 and 9 are val. With
`--infrared` they are GeoTIFF with near infrared as the fourth band, and two classes more, which it alone
tells from what they look like: conifer (forest) and artificial turf (grassland). RGB stays what it was.

The classes share their colours on purpose, and light and haze change from tile to tile: grassland and
cropland differ by row texture, forest and murky water by crowns, roads, yards, roofs and bare fields by shape
and surroundings.

The same seed gives the same tiles with the same versions of OpenCV and NumPy (dataset/: 5.0 and 2.4).
"""

import argparse
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

# The order gives the class ids of the masks. The shipped tiles have the first six.
CLASS_NAMES = ("water", "forest", "cropland", "grassland", "built-up", "road")
WATER, FOREST, CROPLAND, GRASSLAND, BUILT_UP, ROAD = range(len(CLASS_NAMES))
RARE_NAMES = ("greenhouse", "bare ground")
INFRARED_NAMES = ("conifer", "artificial turf")
GREENHOUSE, BARE, CONIFER, TURF = range(len(CLASS_NAMES), len(CLASS_NAMES) + 4)
SEEN_AS = {CONIFER: FOREST, TURF: GRASSLAND}  # without infrared

JPEG_QUALITY = 92  # high enough for the rows of a field to survive

# Palettes, RGB 0..255. Cropland and grassland draw from the same one, and the others overlap with it.
OPEN_LAND = ((92, 112, 62), (70, 92, 52), (122, 120, 76), (166, 150, 102), (132, 106, 80), (148, 136, 112))
CANOPY = ((44, 64, 38), (62, 78, 40), (54, 68, 50), (84, 76, 46))
MURKY_WATER = ((56, 66, 50), (40, 54, 52), (98, 94, 74), (72, 90, 92))
YARD = ((140, 136, 128), (156, 142, 116), (116, 110, 100), (98, 112, 70), (122, 118, 78))
ROOF = ((148, 98, 80), (108, 104, 102), (176, 168, 156), (124, 102, 84), (84, 80, 80))
PAVING = ((98, 98, 98), (146, 143, 136), (162, 146, 118), (120, 114, 106))
GLASS = ((196, 204, 204), (222, 224, 220), (168, 182, 186))
PITCH = ((74, 104, 58), (92, 118, 66), (66, 96, 62))

# What the colours of a scene tend to: open land and canopy by season, the ground by soil, and water.
SEASONS = (
    ((92, 128, 56), (84, 112, 48)),  # spring
    ((184, 164, 112), (70, 82, 46)),  # a dry summer
    ((138, 116, 74), (132, 96, 50)),  # autumn
    ((116, 110, 96), (94, 88, 74)),  # winter
)
SOILS = ((170, 108, 76), (142, 138, 132), (184, 160, 116), (112, 92, 74))
WATERS = ((40, 60, 72), (86, 124, 120), (112, 98, 70))

# Share of near infrared sent back. Of classes that are not here it follows what is seen of them.
REFLECTANCE = {WATER: 0.04, FOREST: 0.56, GRASSLAND: 0.48, CONIFER: 0.28, TURF: 0.14}


@dataclass(frozen=True)
class Scene:
    """What the tiles of one region share; as it stands here, the shipped tiles' one."""

    open_land: tuple = OPEN_LAND  # palettes, RGB 0..255
    canopy: tuple = CANOPY
    water: tuple = MURKY_WATER
    yard: tuple = YARD
    paving: tuple = PAVING
    haze: tuple = (-0.05, 0.18)  # share of the light that is haze, from, to
    shadow: float = 1.0  # length of shadows, the shipped tiles' = 1
    parcel: float = 1.0  # side of the fields, likewise
    pixel: float = 1.0  # metres
    detailed: bool = False  # whether there are thin things, rare classes and infrared


def draw_scene(rng, number):
    """The scene of that number: the seasons take turns, all else is drawn."""

    def toward(palette, tone):
        share = rng.uniform(0.3, 0.65)
        return tuple(map(tuple, (1 - share) * np.array(palette) + share * np.array(tone)))

    (open_land, canopy), soil = SEASONS[number % len(SEASONS)], SOILS[rng.integers(len(SOILS))]
    clearest = rng.uniform(-0.05, 0.22)
    return Scene(
        open_land=(*toward(OPEN_LAND, open_land), soil),
        canopy=toward(CANOPY, canopy),
        water=toward(MURKY_WATER, WATERS[rng.integers(len(WATERS))]),
        yard=toward(YARD, soil),
        paving=toward(PAVING, soil),
        haze=(clearest, clearest + 0.1),
        shadow=rng.uniform(0.6, 1.8),
        parcel=rng.uniform(0.7, 1.5),
        pixel=rng.uniform(1, 2),
        detailed=True,
    )


# ============================================================================
# Random shapes
# ============================================================================


def noise(rng, size, *cells):
    """Smooth random field (size,size) float32 of mean 0, deviation 1; `cells`: wavelengths in pixels."""
    field = np.zeros((size, size), np.float32)
    for cell in cells:
        n = size // cell + 4  # the spare cells keep the border of the resize out of sight
        grid = rng.standard_normal((n, n)).astype(np.float32)
        octave = cv2.resize(grid, (n * cell, n * cell), interpolation=cv2.INTER_CUBIC)
        y, x = rng.integers(cell, 2 * cell, 2)
        field += cell * octave[y : y + size, x : x + size]
    return (field - field.mean()) / (field.std() + 1e-6)


def mix(rng, palette, n=1):
    """`n` colours (n,3) float32 in 0..1, each between two of the palette and a little lighter or darker."""
    colours = np.array(palette, np.float32) / 255
    a, b = colours[rng.integers(len(colours), size=(2, n))]
    t = rng.random((n, 1), np.float32)
    return (a + (b - a) * t) * rng.uniform(0.88, 1.12, (n, 1)).astype(np.float32)


def winding_line(rng, size, through, angle, bend):
    """Points (n,2) x, y of a curve across the tile through `through`, at `angle`, swinging `bend` pixels."""
    along = np.linspace(-1.5, 1.5, 301) * size
    swing = np.zeros_like(along)
    for wavelength in size * rng.uniform((0.9, 0.5, 0.25), (1.6, 0.8, 0.4)):
        phase = rng.uniform(0, 2 * np.pi)
        swing += bend * wavelength / size * (np.sin(2 * np.pi * along / wavelength + phase) - np.sin(phase))
    forward, sideways = np.array([np.cos(angle), np.sin(angle)]), np.array([-np.sin(angle), np.cos(angle)])
    return through + along[:, None] * forward + swing[:, None] * sideways


def distance_to(size, lines, closed=False):
    """Distance (size,size) in pixels to the nearest of some lines, each (n,2) x, y."""
    clear = np.ones((size, size), np.uint8)
    cv2.polylines(clear, [np.round(line * 8).astype(np.int32) for line in lines], closed, 0, shift=3)
    return cv2.distanceTransform(clear, cv2.DIST_L2, 5)


def fill(canvas, polygon, value):
    """Paint a convex polygon (n,2) into the canvas, in place."""
    cv2.fillConvexPoly(canvas, np.round(polygon * 8).astype(np.int32), value, shift=3)


def axes(polygon):
    """Centre, long unit axis, short unit axis and the two side lengths of the rectangle around a polygon."""
    box = cv2.boxPoints(cv2.minAreaRect(polygon.astype(np.float32)))
    sides = sorted((box[1] - box[0], box[2] - box[1]), key=np.linalg.norm, reverse=True)
    lengths = [max(float(np.linalg.norm(side)), 1e-3) for side in sides]
    return box.mean(0), sides[0] / lengths[0], sides[1] / lengths[1], lengths


def split(rng, polygon, area, jitter):
    """Cut a convex polygon (n,2) across its long side, again and again, into pieces of about `area` pixels.

    One rule gives fields, town blocks and plots. `jitter`: radians a cut strays from the right angle.
    """
    if cv2.contourArea(polygon.astype(np.float32)) < area * rng.uniform(1, 2.5):
        return [polygon]
    centre, long, short, (length, _) = axes(polygon)
    turn = rng.normal(0, jitter)
    normal = np.cos(turn) * long + np.sin(turn) * short
    side = (polygon - centre - long * length * rng.uniform(-0.18, 0.18)) @ normal
    return [piece for sign in (1, -1) for piece in split(rng, clip(polygon, sign * side), area, jitter)]


def clip(polygon, side):
    """The part of a convex polygon where `side`, its corners' signed distance to a line, is not negative."""
    kept = []
    for a, b, side_a, side_b in zip(np.roll(polygon, 1, 0), polygon, np.roll(side, 1), side, strict=True):
        if side_a * side_b < 0:
            kept.append(a + (b - a) * side_a / (side_a - side_b))
        if side_b >= 0:
            kept.append(b)
    return np.array(kept)


# ============================================================================
# Land cover: each function says where something is and what it looks like, before shadows and weather
# ============================================================================


def lay_water(rng, size):
    """Boolean mask of a lake, a river, both or none."""
    lake, river = rng.random(2) < (0.45, 0.65)
    water = np.zeros((size, size), bool)
    if lake:
        level = noise(rng, size, 96, 40)
        water |= level < np.quantile(level, rng.uniform(0.08, 0.28))
    if river:
        through, angle = rng.uniform(0.2, 0.8, 2) * size, rng.uniform(0, np.pi)
        course = winding_line(rng, size, through, angle, bend=rng.uniform(15, 40))
        water |= distance_to(size, [course]) < rng.uniform(5, 13) * (1 + 0.25 * noise(rng, size, 48))
    return water


def lay_fields(rng, size, scene, land, verge):
    """Cropland and grassland in parcels of `land`, grass wherever `verge`: mask (H,W), image (H,W,3)."""
    parcels = split(rng, land, (scene.parcel * rng.uniform(35, 62)) ** 2, jitter=0.12)
    n = len(parcels)
    ids = np.zeros((size, size), np.int32)
    for i, parcel in enumerate(parcels):
        fill(ids, parcel, i)
    centres = np.clip([parcel.mean(0) for parcel in parcels], 0, size - 1).astype(int)
    use = noise(rng, size, 64)[centres[:, 1], centres[:, 0]] + rng.normal(0, 0.5, n)
    ploughed = (use > np.quantile(use, rng.uniform(0.05, 0.85)))[ids] & ~verge

    long = np.array([axes(parcel)[1] for parcel in parcels], np.float32)
    y, x = np.mgrid[:size, :size].astype(np.float32)
    across = x * -long[ids, 1] + y * long[ids, 0] + 0.7 * noise(rng, size, 24)
    period, depth, phase = rng.uniform((3.2, 0.09, 0), (7.5, 0.2, 6), (n, 3)).astype(np.float32).T
    rows = depth[ids] * np.sin(2 * np.pi * across / period[ids] + phase[ids])
    tramlines = 0.12 * (np.abs(across % (6 * period[ids]) - 3) < 0.8)

    colour = mix(rng, scene.open_land, n)[ids]
    # A meadow has no ploughed edge: its colours run into each other.
    meadow = cv2.GaussianBlur(colour, (0, 0), 5)
    drought = noise(rng, size, 48, 16)[..., None] * np.float32((0.035, 0.018, 0.007))
    meadow = (meadow + meadow.mean((0, 1))) / 2 + drought
    texture = np.where(ploughed, 1 + rows - tramlines, 1 + 0.06 * noise(rng, size, 32, 12, 5))
    image = np.where(ploughed[..., None], colour, meadow) * texture[..., None]
    return np.where(ploughed, CROPLAND, GRASSLAND), image.astype(np.float32)


def lay_forest(rng, size, scene, sun):
    """Canopy whose edge follows whole crowns, lit from `sun` (unit vector x, y): mask, colour (H,W,3)."""
    zone = noise(rng, size, 80, 28, 10)
    wooded = zone > np.quantile(zone, 1 - max(rng.uniform(-0.06, 0.55), 0))
    spacing = rng.uniform(5, 8.5)
    y, x = np.mgrid[-1 : size / spacing + 1, -1 : size / spacing + 1].reshape(2, -1) * spacing
    x, y = (np.clip(c + rng.uniform(-0.45, 0.45, c.size) * spacing, 0, size - 1).astype(int) for c in (x, y))
    empty = np.ones((size, size), np.uint8)
    empty[y, x] = 0
    distance, crown = cv2.distanceTransformWithLabels(empty, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    rooted = np.zeros(crown.max() + 1, bool)
    rooted[crown[y, x]] = wooded[y, x]

    dome = cv2.GaussianBlur(np.clip(1 - (distance / (0.72 * spacing)) ** 2, 0, 1), (0, 0), 0.7)
    slope = np.stack([cv2.Sobel(dome, cv2.CV_32F, 1, 0), cv2.Sobel(dome, cv2.CV_32F, 0, 1)], -1) / 8
    # Heights fall towards the sun on the lit side, hence the minus.
    light = 0.72 + 0.45 * dome - spacing * 0.42 * (slope @ sun.astype(np.float32))
    tint = mix(rng, scene.canopy) * (
        1 + 0.09 * rng.standard_normal((rooted.size, 3)).astype(np.float32) * (1, 0.7, 0.5)
    )
    tint *= 1 + 0.1 * rng.standard_normal((rooted.size, 1))
    return rooted[crown], tint[crown] * np.clip(light, 0.35, 1.5)[..., None]


def lay_roads(rng, size, scene, angle, centre):
    """Boolean mask of one or two main roads that meet at `centre`, and their colour (H,W,3)."""
    mask, colour = np.zeros((size, size), bool), np.zeros((size, size, 3), np.float32)
    for turn in (0, np.pi / 2)[: rng.integers(1, 3)]:
        route = winding_line(rng, size, centre, angle + turn + rng.normal(0, 0.3), bend=rng.uniform(4, 18))
        distance = distance_to(size, [route])
        road = distance < rng.uniform(2.5, 4)
        mask |= road
        colour[road] = mix(rng, scene.paving)
        colour[distance < 0.7] *= rng.uniform(1, 1.25)
    return mask, colour


def lay_town(rng, size, scene, land, centre):
    """Blocks cut from the polygon `land` round `centre`, with yards and streets.

    Returns the built-up mask, the street mask, the colour (H,W,3) and the plots, a list of polygons.
    """
    built, colour = np.zeros((size, size), np.uint8), np.zeros((size, size, 3), np.float32)
    radius = rng.choice((0, 1), p=(0.15, 0.85)) * rng.uniform(0.15, 0.36) * size
    blocks = [
        block
        for block in split(rng, land, rng.uniform(40, 54) ** 2, jitter=0.04)
        if np.linalg.norm(block.mean(0) - centre) < radius * rng.uniform(0.75, 1.25)
    ]
    area = rng.uniform(10, 15) ** 2
    plots = [
        plot
        for block in blocks
        for plot in split(rng, 0.12 * block.mean(0) + 0.88 * block, area, jitter=0.04)
    ]
    for block in blocks:
        fill(built, block, 1)
    for ground, look in zip(blocks + plots, mix(rng, scene.yard, len(blocks + plots)), strict=True):
        fill(colour, ground, look.tolist())
    streets = distance_to(size, blocks, closed=True) < rng.uniform(2, 3)
    colour[streets] = mix(rng, scene.paving)
    return built > 0, streets, colour, plots


def build(rng, plots, blocked, sun, colour):
    """Paint roofs into `colour`, in place, on most plots that are not `blocked`: heights (H,W) in pixels."""
    height = np.zeros(blocked.shape, np.float32)
    blocked = cv2.dilate(np.uint8(blocked), np.ones((3, 3)))
    for plot, roof in zip(plots, mix(rng, ROOF, len(plots)), strict=True):
        middle, long, short, lengths = axes(plot)
        a, b = (
            axis * length / 2 * rng.uniform(0.5, 0.85)
            for axis, length in zip((long, short), lengths, strict=True)
        )
        walls = middle + np.array([a + b, b - a, -a - b, a - b])
        footprint = np.zeros_like(blocked)
        fill(footprint, walls, 1)
        if rng.random() < 0.08 or (footprint & blocked).any():
            continue
        fill(height, walls, rng.uniform(3, 6.5))
        pitch = rng.choice((0, 0.25))
        for eaves in (b, -b):
            facing = eaves @ sun / np.linalg.norm(eaves)
            fill(
                colour,
                middle + np.array([a + eaves, eaves - a, -a, a]),
                (roof * (1 + pitch * facing)).tolist(),
            )
    return height


# ============================================================================
# What scenes have beside: thin, rare, or told by infrared alone
# ============================================================================


def lay_line(rng, size, scene):
    """Boolean mask of a winding line in two tiles of three, two or three pixels of the picture wide."""
    there, through, angle = rng.random() < 0.65, rng.uniform(0.1, 0.9, 2) * size, rng.uniform(0, np.pi)
    distance = distance_to(size, [winding_line(rng, size, through, angle, bend=9)])
    return (distance < scene.pixel * rng.uniform(0.9, 1.5)) & there


def lay_bare_ground(rng, size, scene):
    """A pit of `BARE` ground in one tile of three: mask, colour (H,W,3)."""
    there, centre, radius = rng.random() < 0.35, rng.uniform(0.1, 0.9, 2) * size, rng.uniform(12, 28)
    distance = np.linalg.norm(np.mgrid[:size, :size] - centre[:, None, None], axis=0)
    pit = (distance / radius + 0.35 * noise(rng, size, 24, 8) < 1) & there
    colour = mix(rng, scene.paving) * (1.05 + 0.1 * noise(rng, size, 12, 5, 2)[..., None])
    return pit, colour


def rectangle(middle, half_length, half_width):
    """Corners (4,2) of a rectangle from its centre and half of each side, vectors x, y."""
    a, b = half_length, half_width
    return middle + np.array([a + b, b - a, -a - b, a - b])


def lay_greenhouses(rng, size):
    """A row of greenhouses in one tile of three: mask, colour (H,W,3)."""
    mask, colour = np.zeros((size, size), np.uint8), np.zeros((size, size, 3), np.float32)
    middle, angle, glass = rng.uniform(0.15, 0.85, 2) * size, rng.uniform(0, np.pi), mix(rng, GLASS)[0]
    along, across = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    length, width = rng.uniform(14, 32) * along, rng.uniform(3, 5) * across
    for hall in range(rng.integers(3, 8) if rng.random() < 0.35 else 0):
        ridge = middle + 2.3 * hall * width
        fill(mask, rectangle(ridge, length, width), 1)
        for slope, light in ((0.5, 1.04), (-0.5, 0.9)):
            half = rectangle(ridge + slope * width, length, width / 2)
            fill(colour, half, (light * glass).tolist())
    return mask > 0, colour


def lay_pitch(rng, size, centre):
    """A sports pitch near a town's centre in most tiles: mask, colour (H,W,3), whether it is artificial."""
    mask, colour = np.zeros((size, size), np.uint8), np.zeros((size, size, 3), np.float32)
    there, artificial = rng.random(2) < (0.7, 0.5)
    angle, away = rng.uniform(0, 2 * np.pi, 2)
    middle = centre + rng.uniform(0.1, 0.3) * size * np.array([np.cos(away), np.sin(away)])
    along, across = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    length, width = rng.uniform(18, 30) * along, rng.uniform(11, 18) * across
    y, x = np.mgrid[:size, :size].astype(np.float32)
    mown = np.sin((x * along[0] + y * along[1]) * np.pi / 5) > 0
    colour[:] = mix(rng, PITCH) * (1 + 0.07 * mown[..., None])
    for line in (rectangle(middle, 0.88 * length, 0.88 * width), middle + 0.88 * np.array([width, -width])):
        colour[distance_to(size, [line], closed=True) < 0.8] = 0.78
    if there:
        fill(mask, rectangle(middle, length, width), 1)
    return mask > 0, colour, artificial


def add_infrared(rng, mask, image):
    """The landscape with a fourth band (H,W,4): as rough as it looks, as bright as its class is.

    Some stands of the forest become conifer in the mask, in place.
    """
    stands = noise(rng, len(mask), 64, 24) > rng.uniform(-1, 1)
    mask[(mask == FOREST) & stands] = CONIFER
    grey, vigour = image.mean(-1), 3 * image[..., 1] - 1.5 * (image[..., 0] + image[..., 2])
    band = 1.15 * grey + np.clip(vigour, 0, 0.4) * np.isin(mask, (CROPLAND, BUILT_UP))
    for label, share in REFLECTANCE.items():
        where = mask == label
        if where.any():
            band[where] = share * rng.uniform(0.85, 1.15) * np.sqrt(grey[where] / grey[where].mean())
    return np.dstack([image, band])


# ============================================================================
# One tile
# ============================================================================


def compose(rng, size, scene):
    """Lay everything over everything: mask (H,W) uint8 and the sunlit landscape (H,W,3) float32.

    Of a detailed scene, (H,W,4) with near infrared.
    """
    azimuth, angle = rng.uniform(0, 2 * np.pi), rng.uniform(0, np.pi)
    sun = np.array([np.cos(azimuth), np.sin(azimuth)])
    water = lay_water(rng, size)
    ashore = cv2.distanceTransform(np.uint8(~water), cv2.DIST_L2, 5)
    # Towns keep their feet dry: of a few places, the one that is farthest from the water.
    centre = max(
        rng.uniform(0.2, 0.8, (6, 2)) * size, key=lambda place: ashore[tuple(place.astype(int)[::-1])]
    )
    roads, paving = lay_roads(rng, size, scene, angle, centre)
    # Nobody ploughs up to the water or the kerb.
    verge = cv2.dilate(np.uint8(water | roads), cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (9, 9))) > 0
    everything = (size / 2, size / 2), (1.5 * size, 1.5 * size), np.degrees(angle)
    land = cv2.boxPoints(everything)  # covers every corner
    mask, image = lay_fields(rng, size, scene, land, verge)
    wooded, canopy = lay_forest(rng, size, scene, sun)
    built, streets, town, plots = lay_town(rng, size, scene, land, centre)
    below, above = lay_details(rng, size, scene, centre) if scene.detailed else ([], [])
    blocked = np.logical_or.reduce([water, roads, streets, *(where for where, _, _ in above)])
    height = build(rng, plots, blocked, sun, town) * scene.shadow
    murk = mix(rng, scene.water) * (1 + 0.04 * noise(rng, size, 64, 24)[..., None])

    for where, label, look in (
        (wooded, FOREST, canopy),
        *below,
        (built, BUILT_UP, town),
        (streets, ROAD, town),
        *above,
        (water, WATER, murk),
        (roads, ROAD, paving),
    ):
        mask[where], image[where] = label, look[where]
    height[mask == FOREST] = rng.uniform(3, 5) * scene.shadow
    if scene.detailed:
        image = add_infrared(rng, mask, image)
    # A bridge is level with its road, so its shadow falls on the water only.
    shadow = cast_shadow(height, sun) | (cast_shadow(2.0 * (roads & water), sun) & (mask == WATER))
    bands = image.shape[-1]
    image[shadow] *= np.float32((0.5, 0.53, 0.6, 0.42))[:bands]  # what is left is the blue light of the sky
    grain = 1 + rng.uniform(0.02, 0.05) * noise(rng, size, 2)
    image *= np.where(mask == WATER, 1, grain)[..., None]
    return mask.astype(np.uint8), image


def lay_details(rng, size, scene, centre):
    """Layers (where, label, colour) of a detailed scene: those below the town, and those above it."""
    pit, gravel = lay_bare_ground(rng, size, scene)
    halls, glass = lay_greenhouses(rng, size)
    pitch, turf, artificial = lay_pitch(rng, size, centre)
    stream, track = lay_line(rng, size, scene), lay_line(rng, size, scene)
    water, earth = (np.tile(mix(rng, palette), (size, size, 1)) for palette in (scene.water, scene.paving))
    below = [(pit, BARE, gravel), (stream, WATER, water), (track, ROAD, earth), (halls, GREENHOUSE, glass)]
    return below, [(pitch, TURF if artificial else GRASSLAND, turf)]


def cast_shadow(height, sun):
    """Boolean mask of the pixels that something taller keeps in the shade; heights in pixels."""
    shadow = np.zeros(height.shape, bool)
    for step in range(1, int(np.ceil(height.max())) + 1):
        shift = np.float32([[1, 0, -step * sun[0]], [0, 1, -step * sun[1]]])
        shadow |= cv2.warpAffine(height, shift, height.shape[::-1], flags=cv2.INTER_NEAREST) > height + step
    return shadow


def photograph(rng, image, scene):
    """The picture (H,W,bands) uint8 of a landscape; light, clouds, haze and camera differ by tile."""
    size, infrared = len(image), image.shape[-1] - 3  # 0 or 1 band of it, which every draw leaves alone
    light = rng.uniform(1, 1.4) * rng.uniform(0.94, 1.06, 3) * (1 + 0.05 * noise(rng, size, 128)[..., None])
    if rng.random() < 0.35:
        cloud = 1 / (1 + np.exp(-4 * (noise(rng, size, 96) - rng.uniform(0.2, 1))))
        light *= 1 - 0.35 * cloud[..., None]
    veil = rng.uniform((0.6, 0.64, 0.68), (0.75, 0.78, 0.84))
    haze = np.clip(rng.uniform(*scene.haze) + 0.03 * noise(rng, size, 96), 0, 1)[..., None]
    if infrared:  # haze scatters blue light most, and this least
        light, veil = np.dstack([light, light[..., :1]]), np.append(veil, 0.6)
        haze = haze * (1, 1, 1, 0.4)
    image = np.clip(image * light * (1 - haze) + veil * haze, 0, 1) ** rng.uniform(0.85, 1.15)
    image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.45, 0.75))
    image += rng.normal(0, rng.uniform(0.004, 0.014), image.shape)
    return np.uint8(np.clip(image, 0, 1) * 255 + 0.5)


def generate_tile(seed, size=256, scene=Scene()):
    """One landscape: image (size,size,bands) uint8, RGB or RGB and infrared, mask (size,size) uint8 of ids.

    `seed`: an int or a sequence of ints; the same seed, size and scene give the same tile. A detailed scene
    has the fourth band and all classes; `without_infrared` takes them away.
    """
    rng = np.random.default_rng(seed)
    mask, image = compose(rng, round(size * scene.pixel), scene)
    if len(mask) != size:  # each pixel gets the mean colour of its ground, and the class at its centre
        image = cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)
        mask = cv2.resize(mask, (size, size), interpolation=cv2.INTER_NEAREST_EXACT)
    return photograph(rng, image, scene), mask


def without_infrared(image, mask):
    """The same tile as a camera for visible light has it: classes that look alike are one."""
    ids = np.arange(256, dtype=np.uint8)
    ids[list(SEEN_AS)] = list(SEEN_AS.values())
    return image[..., :3], ids[mask]


# ============================================================================
# The dataset
# ============================================================================


def place_of(part, i, scenes):
    """Scene and name of the i-th tile: tiles go round the scenes, then round the parts of train or val."""
    scene, parts = 1 + i % scenes, {"train": (1, 2, 4, 5, 7, 8), "val": (3, 6, 9)}[part]
    return scene, f"scene{scene}_part{parts[i // scenes % len(parts)]}_{i:03d}"


def write_dataset(output, counts, seed, size, scenes=0, infrared=False):
    """Write `counts` = {'train': n, 'val': m} tiles below `output`, in the place of its train/ and val/."""
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)
    # No tile has a 2 in this place of its seed.
    looks = [draw_scene(np.random.default_rng([seed, 2, number]), number) for number in range(scenes)]
    tiles = [(number, part, i) for number, part in enumerate(counts) for i in range(counts[part])]
    # The tiles are moved into place when all are there, so a run that was stopped leaves no half dataset.
    with tempfile.TemporaryDirectory(dir=output, prefix=".unfinished_") as unfinished:
        for number, part, i in tqdm(tiles, desc="generating", unit="tile"):
            scene, name = Scene(), f"{part}_{i:02d}"
            if scenes:
                place, name = place_of(part, i, scenes)
                scene = looks[place - 1]
            # The part is in the seed, so that more training tiles leave the validation tiles as they are.
            image, mask = generate_tile([seed, number, i], size, scene)
            if not infrared:
                image, mask = without_infrared(image, mask)
            # Tiles lie apart: what lies on the ground of train tiles flatters the score.
            place = 4 * size * (i % 100), 4 * size * (200 * number + i // 100)  # pixels are of 2 m at most
            write_tile(Path(unfinished, part), name, image, mask, scene.pixel, place)
        for part in counts:
            if (output / part).exists():
                shutil.rmtree(output / part)
            Path(unfinished, part).replace(output / part)


def write_tile(folder, name, image, mask, pixel, place):
    """Write images/NAME.jpg, or .tif of more than three bands, and masks/NAME.png.

    pixel: its size in metres. place: of the tile, metres to the east and north of that of the first.
    """
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    _, png = cv2.imencode(".png", mask)
    (folder / "masks" / f"{name}.png").write_bytes(png)  # raises on a full disk; cv2.imwrite returns False
    if image.shape[-1] == 3:
        _, jpg = cv2.imencode(".jpg", image[..., ::-1], (cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY))
        (folder / "images" / f"{name}.jpg").write_bytes(jpg)
        return
    import rasterio

    height, width, count = image.shape
    shape = {"height": height, "width": width, "count": count, "dtype": image.dtype}
    corner = rasterio.Affine(pixel, 0, 300_000 + place[0], 0, -pixel, 1_000_000 + place[1])
    ground = {"crs": "EPSG:32633", "transform": corner}
    how = {"driver": "GTiff", "compress": "deflate", "photometric": "RGB", "alpha": "unspecified"}
    with rasterio.open(folder / "images" / f"{name}.tif", "w", **shape, **ground, **how) as file:
        file.write(image.transpose(2, 0, 1))


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, default=Path("dataset"), help="folder (default: %(default)s)")
    parser.add_argument(
        "--seed", type=int, default=0, help="another number, another dataset (default: %(default)s)"
    )
    parser.add_argument("--train", type=int, default=24, help="training tiles (default: %(default)s)")
    parser.add_argument("--val", type=int, default=8, help="validation tiles (default: %(default)s)")
    parser.add_argument(
        "--size", type=int, default=256, help="side of a tile in pixels (default: %(default)s)"
    )
    parser.add_argument(
        "--scenes", type=int, default=0, help="regions, each of its own look, with thin and rare classes"
    )
    parser.add_argument(
        "--infrared", action="store_true", help="a fourth band, and two classes that it alone tells"
    )
    parser.add_argument(
        "--force", action="store_true", help="replace train/ and val/ in a folder that is not empty"
    )
    args = parser.parse_args()
    if min(args.seed, args.scenes) < 0 or min(args.train, args.val) < 1 or args.size < 64:
        parser.error("--seed, --scenes must be 0 or more, --train, --val 1 or more, --size 64 or more")
    if args.infrared and not args.scenes:
        parser.error("--infrared is a band of scenes; add --scenes 8")
    if args.output.exists() and not args.output.is_dir():
        parser.error(f"{args.output} is a file; name a folder with --output")
    if args.output.is_dir() and any(args.output.iterdir()) and not args.force:
        parser.error(f"{args.output} is not empty; name another, or replace its train/ and val/ with --force")
    if args.infrared:
        try:
            import rasterio  # noqa: F401
        except ImportError:
            parser.error("--infrared writes GeoTIFF: pip install rasterio")
    return args


def main():
    args = parse_arguments()
    counts = {"train": args.train, "val": args.val}
    write_dataset(args.output, counts, args.seed, args.size, args.scenes, args.infrared)
    names = [*CLASS_NAMES, *(RARE_NAMES if args.scenes else ()), *(INFRARED_NAMES if args.infrared else ())]
    print(f"{len(names)} classes, in order of id: {','.join(names)}")


if __name__ == "__main__":
    main()
