"""Labels given in a real browser end up in the CSV, and nobody else's are lost; strangers get no answer."""

import argparse
import base64
import csv
import http.client
import io
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import urllib.parse

import numpy as np
import pytest
import torch
from conftest import PYTHON, ROOT, write_tiles
from PIL import Image

import landcover_segmentation as lc

sys.path.insert(0, str(ROOT / "tools"))
import active_learning as al
import annotate
import live_model

HEIGHT, WIDTH, WANTED = 40, 60, 5
CLASSES = ["--class-names", "low,middle,high", "--class-colors", "#0000ff,#00ff00,#ff0000"]


@pytest.fixture
def tiles(tmp_path):
    """A folder of three tiles."""
    write_tiles(tmp_path, 3, (HEIGHT, WIDTH))
    return tmp_path / "images"


@pytest.fixture
def serve(tiles):
    """A function that serves the tiles in this process and returns the settings, with the port."""
    servers = []

    def start(*more: str) -> argparse.Namespace:
        given = [
            "--images",
            tiles,
            "--points",
            tiles.parent / "points.csv",
            "--num-points",
            WANTED,
            "--port",
            0,
            *CLASSES,
        ]
        config = annotate.parse([*map(str, given), *map(str, more)])
        annotate.prepare(config)
        servers.append(annotate.Server(config))
        threading.Thread(target=servers[-1].serve_forever, args=(0.05,), daemon=True).start()
        config.port = servers[-1].server_port
        return config

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def send(config, method, path, body=None, **headers):
    """Sends a request as it is told; returns the status and the body."""
    connection = http.client.HTTPConnection("127.0.0.1", config.port, timeout=20)
    connection.request(method, path, body, headers)
    answer = connection.getresponse()
    return answer.status, answer.read()


def ask(config, what, image):
    status, body = send(config, "GET", f"/{what}?image={urllib.parse.quote(image)}")
    assert status == 200, body
    return json.loads(body)


def put(config, image, x, y, was, now):
    body = json.dumps({"image": image, "x": x, "y": y, "was": was, "now": now})
    return send(config, "POST", "/label", body, **{"Content-Type": "application/json"})


def lines(config):
    return config.points.read_text(encoding="utf-8").splitlines()


# ---- In the browser


@pytest.fixture(scope="module")
def browser():
    """Chromium or Chrome, the system's or playwright's own."""
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    installed = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with playwright.sync_playwright() as run:
        try:
            browser = run.chromium.launch(executable_path=installed)
        except playwright.Error:
            if installed:
                raise
            pytest.skip("no browser: apt install chromium, or playwright install chromium")
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser):
    """A function that opens the page of a server in a window of its own. Scripts that fail, fail the test."""
    contexts, failures = [], []

    def start(config, first="Suggestion 1 of", **options):
        contexts.append(browser.new_context(viewport={"width": 1200, "height": 800}, **options))
        page = contexts[-1].new_page()
        page.set_default_timeout(10_000)
        page.on("pageerror", lambda error: failures.append(error))
        page.goto(f"http://127.0.0.1:{config.port}/")
        says(page, first)
        return page

    yield start
    for context in contexts:
        context.close()
    assert not failures


def says(page, text):
    page.locator("#where").filter(has_text=text).wait_for()


def until(page, condition):
    """Waits for what the page's script knows; its policy forbids playwright's own way."""
    for _ in range(200):
        if page.evaluate(f"Boolean({condition})"):
            return
        page.wait_for_timeout(50)
    raise AssertionError(condition)


def labelled(page, here, everywhere):
    """Waits until the page counts so many labels of the tile and of all."""
    page.locator("#tile-count").filter(has_text=f"{here} of {WANTED}").wait_for()
    page.locator("#all-count").filter(has_text=f"{everywhere} of {3 * WANTED}").wait_for()


def on_screen(page, x, y):
    """Where the middle of a pixel is, while the whole tile is shown."""
    box = page.locator("#view").bounding_box()
    scale = min(
        (box["width"] - 24) / WIDTH, (box["height"] - 24) / HEIGHT
    )  # 12 pixels are left free on each side
    left, top = ((box[side] - size * scale) / 2 for side, size in (("width", WIDTH), ("height", HEIGHT)))
    return box["x"] + left + (x + 0.5) * scale, box["y"] + top + (y + 0.5) * scale


def test_labels_given_by_key_and_click_are_in_the_csv_at_once_and_survive_a_reload(serve, open_page):
    config = serve()
    (x0, y0), (x1, y1), (x2, y2), (x3, y3), _ = ask(config, "suggestions", "tile_0.png")
    page = open_page(config)
    says(page, f"x {x0}, y {y0}: not labelled")
    page.keyboard.press("3")
    says(page, f"x {x1}, y {y1}: not labelled")
    assert lines(config) == ["image,x,y,class", f"tile_0.png,{x0},{y0},high"]
    page.get_by_role("button", name="middle").click()
    says(page, f"x {x2}, y {y2}: not labelled")
    page.keyboard.press("s")
    says(page, f"x {x3}, y {y3}: not labelled")
    labelled(page, 2, 2)
    expected = [
        f"tile_0.png,{x0},{y0},high,",
        f"tile_0.png,{x1},{y1},middle,",
        f"tile_0.png,{x2},{y2},,yes",
    ]
    assert lines(config) == ["image,x,y,class,skipped", *expected]

    free = next(
        (x, y) for y in range(5, HEIGHT) for x in range(5, WIDTH) if far_from_suggestions(config, x, y)
    )
    page.mouse.click(*on_screen(page, *free))
    says(page, "Your own pixel, x {}, y {}: not labelled".format(*free))
    page.keyboard.press("1")
    labelled(page, 3, 3)
    assert lines(config)[1:] == [*expected, "tile_0.png,{},{},low,".format(*free)]

    where = on_screen(page, x0, y0)
    page.mouse.click(*where)
    says(page, f"x {x0}, y {y0}: high")
    page.keyboard.press("1")
    page.locator("#time-left").filter(has_text="left at your pace").wait_for()
    assert on_screen(page, x0, y0) == where, "the tile stays where it is as the words come"
    page.mouse.click(*where)
    says(page, f"x {x0}, y {y0}: low")
    page.get_by_role("button", name="Remove").click()
    labelled(page, 2, 2)
    left = [*expected[1:], "tile_0.png,{},{},low,".format(*free)]
    assert lines(config)[1:] == left
    page.keyboard.press("u")
    labelled(page, 3, 3)
    page.keyboard.press("Control+z")
    says(page, f"x {x0}, y {y0}: high")
    assert lines(config)[1:] == [*left, f"tile_0.png,{x0},{y0},high,"]

    page.reload()
    says(page, f"x {x3}, y {y3}: not labelled")
    labelled(page, 3, 3)
    assert [page.locator("#classes .count").nth(index).text_content() for index in range(3)] == [
        "1",
        "1",
        "1",
    ]
    page.mouse.click(*on_screen(page, *free))
    says(page, "Your own pixel, x {}, y {}: low".format(*free))
    assert lines(config)[1:] == [*left, f"tile_0.png,{x0},{y0},high,"]


def test_what_was_labelled_trains_with_the_command_that_the_page_shows(serve, open_page, tmp_path, capsys):
    """Three tiles are labelled by the brightness of the pixel asked for, one pixel is skipped.

    The rest is the command's, and the last tile scores.
    """
    config = serve("--points", tmp_path / "my points.csv")
    page = open_page(config)
    given, learnt = [0, 0, 0], []
    for number in range(3):
        picture = lc.read_image(tmp_path / f"images/tile_{number}.png")
        for x, y in ask(config, "suggestions", f"tile_{number}.png")[:-1]:
            label = int(picture[y, x, 0] > 90) + int(picture[y, x, 0] > 170)
            given[label] += 1
            learnt += [label] * (number < 2)
            says(page, f"x {x}, y {y}: not")
            page.keyboard.press(str(label + 1))
        labelled(page, WANTED - 1, sum(given))
        page.keyboard.press("s")  # the last: the page goes to the next tile by itself
    says(page, "All but the skipped pixels of this tile are labelled")
    assert min(given) > 0
    words = shlex.split(page.locator("#training").text_content())
    quick = {
        "weights": "none",
        "backbone": "mobilenet_v3_large",
        "epochs": 1,
        "batch_size": 2,
        "device": "cpu",
    }
    quick |= {"output_dir": tmp_path / "out", "pseudo_label_weight": 0}
    more = [str(part) for name, value in quick.items() for part in (f"--{name.replace('_', '-')}", value)]
    assert lc.main([*words[2:], *more]) == 0
    said = capsys.readouterr().out
    assert "tiles: 2 train, 1 val" in said and f"val: {WANTED - 1} points" in said
    for name, count in zip(config.class_names, np.bincount(learnt, minlength=3), strict=True):
        assert any(line.split()[:2] == [name, str(count)] for line in said.splitlines()), said
    checkpoint = lc.load_checkpoint(tmp_path / "out/best_model.pth")
    assert checkpoint["class_names"] == ["low", "middle", "high"]
    config = serve(
        "--checkpoint", tmp_path / "out/best_model.pth", "--num-points", 9, "--points", config.points
    )
    assert len(ask(config, "suggestions", "tile_0.png")) == 5


def far_from_suggestions(config, x, y):
    return min(np.hypot(x - px, y - py) for px, py in ask(config, "suggestions", "tile_0.png")) > 5


def test_the_keyboard_alone_is_enough(serve, open_page):
    config = serve()
    asked = {name: ask(config, "suggestions", name) for name in ("tile_0.png", "tile_1.png")}
    page = open_page(config)
    for key in "12312":  # as fast as they come
        page.keyboard.press(key)
    page.locator("#tiles option:checked").filter(has_text="tile_1.png").wait_for(state="attached")
    says(page, "Suggestion 1 of")
    (x, y), names = asked["tile_1.png"][0], config.class_names
    for key in ("ArrowRight", "Shift+ArrowDown" if y < HEIGHT - 10 else "Shift+ArrowUp", "2"):
        page.keyboard.press(key)
    labelled(page, 1, 6)
    expected = [
        f"tile_0.png,{x},{y},{names[i]}"
        for (x, y), i in zip(asked["tile_0.png"], (0, 1, 2, 0, 1), strict=True)
    ]
    moved = min(x + 1, WIDTH - 1), y + 10 if y < HEIGHT - 10 else y - 10
    assert lines(config)[1:] == [*expected, "tile_1.png,{},{},middle".format(*moved)]
    for _ in range(3):
        page.keyboard.press("u")  # the second and third are on the tile before
    labelled(page, 3, 3)
    assert page.locator("#tiles option:checked").text_content().startswith("tile_0.png")
    page.get_by_role("button", name="high").focus()
    page.keyboard.press("Enter")
    labelled(page, 4, 4)
    assert lines(config)[1:] == [*expected[:3], expected[3].replace("low", "high")]


def test_a_key_meant_for_one_tile_does_not_label_the_next(serve, open_page):
    config = serve()
    page = open_page(config)
    with config.writing:  # the first label is slow, and the person is not
        for key in "1n2":
            page.keyboard.press(key)
    says(page, "Suggestion 1 of")
    labelled(page, 0, 1)
    assert len(lines(config)) == 2 and not page.get_by_role("alert").is_visible()


def test_the_pixel_that_is_seen_is_the_pixel_that_is_written(serve, open_page, tiles):
    """One magenta pixel is found on the screen, as a sharp square, at two zooms, and clicked."""
    picture = np.array(Image.open(tiles / "tile_0.png"))
    picture[11, 42] = 255, 0, 255
    Image.fromarray(picture).save(tiles / "tile_0.png")
    config = serve()
    page = open_page(config, device_scale_factor=2)
    for presses in (0, 2):
        page.mouse.click(*on_screen(page, 42, 5))
        for _ in range(presses):
            page.keyboard.press("+")
        rows, columns = magenta(page.locator("#view"))
        assert np.ptp(rows) > 20 and len(rows) > 0.95 * (np.ptp(rows) + 1) * (np.ptp(columns) + 1)
        box = page.locator("#view").bounding_box()
        page.mouse.click(box["x"] + columns.mean() / 2, box["y"] + rows.mean() / 2)
        says(page, "x 42, y 11:")
        rows, columns = magenta(page.locator("#closeup"))
        assert abs(rows.mean() - 248) < 3 and abs(columns.mean() - 248) < 3, "in the middle of the close-up"
    page.keyboard.press("2")
    labelled(page, 1, 1)
    assert lines(config)[1:] == ["tile_0.png,42,11,middle"]


def magenta(canvas):
    """The pixels of a part of the page that are magenta, but for its edges."""
    shown = np.array(Image.open(io.BytesIO(canvas.screenshot())).convert("RGB")).astype(int)
    return np.nonzero((abs(shown - (255, 0, 255)) < 3).all(axis=2))


def test_every_corner_of_a_tile_can_be_clicked(serve, open_page, halves, untrained):
    """No button lies over it: one that is hit instead would switch the map, or accept a patch of it."""
    page = open_page(serve())
    for x in (0, WIDTH - 1):
        for y in (0, HEIGHT - 1):
            page.mouse.click(*on_screen(page, x, y))
            says(page, f"x {x}, y {y}: not labelled")


def test_a_second_tab_and_another_program_lose_no_label(serve, open_page):
    config = serve()
    (x0, y0), (x1, y1) = ask(config, "suggestions", "tile_0.png")[:2]
    pages = [open_page(config) for _ in range(2)]
    pages[0].keyboard.press("1")
    labelled(pages[0], 1, 1)
    pages[1].keyboard.press("3")  # knows nothing of the other
    pages[1].get_by_role("alert").filter(has_text=f"pixel {x0},{y0} was changed elsewhere").wait_for()
    assert lines(config)[1:] == [f"tile_0.png,{x0},{y0},low"]
    labelled(pages[1], 1, 1)
    with config.points.open("a", encoding="utf-8") as file:
        file.write("tile_2.png,7,8,middle\r\n")
    pages[0].keyboard.press("2")
    labelled(pages[0], 2, 2)
    assert lines(config)[1:] == [
        f"tile_0.png,{x0},{y0},low",
        "tile_2.png,7,8,middle",
        f"tile_0.png,{x1},{y1},middle",
    ]


def test_what_goes_wrong_is_said_and_the_next_tile_can_be_labelled(serve, open_page, tiles):
    config = serve()
    (tiles / "tile_1.png").write_bytes((tiles / "tile_1.png").read_bytes()[:200])
    page = open_page(config)
    page.keyboard.press("1")
    labelled(page, 1, 1)
    saved = config.points.read_text()
    config.points.write_text(saved + "tile_0.png,1,1,desert\r\n")
    page.keyboard.press("2")
    page.get_by_role("alert").filter(has_text="line 3: class 'desert'").wait_for()
    labelled(page, 1, 1)
    assert lines(config)[2:] == ["tile_0.png,1,1,desert"], "what cannot be understood is not overwritten"
    config.points.write_text(saved)
    page.keyboard.press("n")
    page.get_by_role("alert").filter(has_text="tile_1.png: cannot be read").wait_for()
    page.keyboard.press("1")  # for a tile that is not there
    page.keyboard.press("n")
    says(page, "Suggestion 1 of")
    assert not page.get_by_role("alert").is_visible() and config.points.read_text() == saved


# ---- The map over the image


@pytest.fixture
def halves(tiles):
    """Tiles that are blue on the left and yellow on the right."""
    for path in tiles.iterdir():
        picture = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
        picture[:, : WIDTH // 2], picture[:, WIDTH // 2 :] = (20, 40, 200), (220, 210, 30)
        Image.fromarray(picture).save(path)


@pytest.fixture
def untrained(monkeypatch):
    """A live map without ImageNet's weights, which need not be here."""
    build = lc.DeepLabV3Segmentation

    def random_network(num_classes, backbone, weights, *more):
        torch.manual_seed(0)
        return build(num_classes, backbone, None)

    monkeypatch.setattr(lc, "DeepLabV3Segmentation", random_network)


def live_map(config, image):
    answer = ask(config, "live", image)
    png = base64.b64decode(answer["map"].split(",")[1])
    return np.array(Image.open(io.BytesIO(png)).convert("RGB")), answer


BLUE, GREEN = np.array([[0, 0, 255], [0, 255, 0]])


def seen_color(page, x, y):
    """The colour on the screen of a pixel of the tile."""
    box = page.locator("#view").bounding_box()
    column, row = (int(at - box[side]) for at, side in zip(on_screen(page, x, y), "xy", strict=True))
    shown = Image.open(io.BytesIO(page.locator("#view").screenshot())).convert("RGB")
    return np.array(shown.getpixel((column, row)), int)


def test_the_live_map_follows_each_click_and_shows_no_class_without_one(serve, open_page, halves, untrained):
    config = serve()
    page = open_page(config)
    says_of_map = page.locator("#map-says")
    assert not says_of_map.is_visible()
    plain = seen_color(page, 8, 30)
    page.keyboard.press("m")
    says_of_map.filter(has_text="begins when two classes have a click").wait_for()
    for x, y, key in ((4, 20, "1"), (55, 20, "3")):
        page.mouse.click(*on_screen(page, x, y))
        says(page, f"x {x}, y {y}")
        page.keyboard.press(key)
    says_of_map.filter(has_text="Learnt from 2 clicks. No click yet, so not shown: middle.").wait_for()
    left = seen_color(page, 8, 30)
    assert (abs(left - (plain + BLUE) / 2) < 6).all(), "half the image, half the class's blue"
    page.mouse.click(*on_screen(page, 4, 20))
    says(page, "x 4, y 20: low")
    page.keyboard.press("2")  # the label is changed, and the map follows
    says_of_map.filter(has_text="so not shown: low").wait_for()
    assert (abs(seen_color(page, 8, 30) - (plain + GREEN) / 2) < 6).all()
    page.keyboard.press("m")
    says_of_map.wait_for(state="hidden")
    assert (abs(seen_color(page, 8, 30) - plain) < 3).all(), "off: the page as it is without"


def test_the_live_map_knows_the_clicks_of_all_tiles_and_of_earlier_sittings(serve, halves, untrained):
    rows = "tile_1.png,4,20,low\ntile_2.png,55,20,high\nelsewhere.png,1,1,middle\n"
    config = serve()
    config.points.write_text("image,x,y,class\n" + rows)
    for _ in range(2):  # an answer takes at least one tile
        shown, answer = live_map(config, "tile_0.png")
    assert answer["labels"] == answer["learnt"] == 2
    found = set(map(tuple, shown.reshape(-1, 3).tolist()))
    assert found == {(0, 0, 255), (255, 0, 0)}, "up to the edges no class without a click on these tiles"
    assert (shown[10:30, 2:20] == (0, 0, 255)).all() and (shown[10:30, 40:58] == (255, 0, 0)).all()
    put(config, "tile_0.png", 30, 20, None, "middle")
    (config.images / "tile_2.png").unlink()
    assert live_map(config, "tile_0.png")[1]["labels"] == 2, "what was taken away stops nothing"


@pytest.mark.parametrize(
    ("backbone", "depths"), [("efficientnet_lite0", [16, 24, 40, 112, 320]), ("mobilenet_v3_large", [960])]
)
def test_the_light_classifier_sees_all_stages_of_the_small_network(backbone, depths):
    """Those between the first and the last tell much of what lies between an edge and a scene."""
    network = lc.DeepLabV3Segmentation(2, backbone, weights=None).eval()
    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    features = live_model.frozen_features(network, image)
    assert features.shape == (3 + sum(depths), 16, 16)  # sides are filled up to multiples of 32
    parts = features.split([3, *depths])
    assert all(part.std(0).max() > 0 for part in parts)


def test_the_light_classifier_is_the_kernel_ridge_regression_of_scikit_learn(monkeypatch):
    """Of as many clicks as it compares pixels to; of more it comes near."""
    kernel_ridge = pytest.importorskip("sklearn.kernel_ridge", reason="pip install scikit-learn")
    draw = torch.Generator().manual_seed(0)
    class_ids = torch.arange(120) % 8 // 3  # two classes of three eighths, one of two
    vectors = torch.randn(120, 5, generator=draw) + class_ids[:, None]
    gamma = live_model.KERNEL / (vectors - vectors.mean(0)).square().sum(1).mean().item()
    theirs = kernel_ridge.KernelRidge(alpha=live_model.RIDGE, kernel="rbf", gamma=gamma)
    share = np.bincount(class_ids) / 120
    theirs.fit(vectors, np.eye(3)[class_ids] - 1 / 3, sample_weight=1 / (3 * share[class_ids]))
    pixels = torch.randn(50, 5, generator=draw)
    expected = torch.from_numpy(theirs.predict(pixels) + 1 / 3).float()
    torch.testing.assert_close(
        live_model.fit(vectors, class_ids, 3).scores(pixels), expected, rtol=0, atol=1e-3
    )
    monkeypatch.setattr(live_model, "ANCHORS", 60)
    near = live_model.fit(vectors, class_ids, 3).scores(pixels)
    assert (near - expected).abs().max() < 0.1 and (near.argmax(1) == expected.argmax(1)).float().mean() > 0.9


def test_the_live_map_takes_longer_strides_over_a_large_image(serve, halves, untrained, monkeypatch):
    """Or it would not follow: at 2000 x 3000 pixels each click cost ten seconds or more, and 800 MB."""
    assert [live_model.stride_of(*size) for size in ((1, 1), (1024, 1024), (2000, 3000), (4096, 4096))] == [
        4,
        4,
        16,
        16,
    ]
    monkeypatch.setattr(live_model, "MOST_STEPS", 50)
    config = serve()
    for x, label in ((4, "low"), (55, "high")):
        put(config, "tile_0.png", x, 20, None, label)
    shown, answer = live_map(config, "tile_0.png")
    assert answer["learnt"] == 2 and config.live.see("tile_0.png")[0].shape[1:] == (8, 8)
    assert (shown[10:30, 2:18] == (0, 0, 255)).all() and (shown[10:30, 42:58] == (255, 0, 0)).all()


def test_memory_of_the_live_map_is_bounded_over_two_thousand_clicks(monkeypatch):
    monkeypatch.setattr(live_model, "frozen_features", lambda network, image: torch.rand(8, 16, 16))
    monkeypatch.setattr(live_model, "BYTES_KEPT", 3 * 8 * 16 * 16 * 4)
    image, draw = np.zeros((64, 64, 4), np.uint8), np.random.default_rng(0)
    live = live_model.LiveModel(torch.nn.Identity, lambda name: image, 3)
    labels = {}
    for click in range(2000):
        x, y = draw.integers(0, 64, 2).tolist()
        labels[f"tile {click // 40}", x, y] = click % 3
    _, learnt = live.draw("tile 0", labels, seconds=60)
    assert learnt == len(labels) == len(live.vectors) and len(live.features) == 3
    few = {pixel: label for pixel, label in labels.items() if pixel[0] < "tile 2"}
    live.draw("tile 1", few)
    assert len(live.vectors) == len(few), "what is no label any more is forgotten"


def test_the_map_of_the_model_is_what_it_predicts(serve, open_page, model):
    config = serve("--checkpoint", model)
    page = open_page(config)
    page.keyboard.press("m")
    page.locator("#map-says").filter(has_text="What the model sees").wait_for()
    shown = np.array(Image.open(io.BytesIO(send(config, "GET", "/map?image=tile_0.png")[1])).convert("RGB"))
    images = lc.load_and_preprocess_image(config.tiles["tile_0.png"])
    with torch.inference_mode():
        expected = lc.load_model(model)(images).argmax(1)[0].numpy()
    assert (shown == lc.colorize(expected, config.palette)).mean() > 0.99, "but for ties"
    page.keyboard.press("1")
    labelled(page, 1, 1)


HUNDRED_KEYS = """  // at once: no person is faster
[...Array(100).keys()].forEach((at) => {
  view.dispatchEvent(new KeyboardEvent("keydown", {key: String(at % 3 + 1), bubbles: true}));
})
"""


def test_no_click_waits_for_the_live_map_and_a_hundred_keys_at_once_are_all_written(
    serve, open_page, halves, untrained
):
    config = serve("--num-points", 100)
    page = open_page(config)
    with config.live.lock:  # the map takes its time
        page.keyboard.press("m")
        page.evaluate(HUNDRED_KEYS)
        page.locator("#all-count").filter(has_text="100 of 300").wait_for()
    assert len(lines(config)) == 101
    page.locator("#map-says").filter(has_text="Learnt from 100 clicks").wait_for()


def test_neighbours_lie_around_a_tile_that_was_cut_and_their_maps_follow(
    serve, open_page, halves, untrained, tiles
):
    """In the window 256 pixels are free on each side of a tile that is square."""
    for number, (row, column) in enumerate([(0, 0), (0, 1), (5, 5)]):
        picture = np.full((64, 64, 3), (90, 90, 90 + 50 * number), np.uint8)
        Image.fromarray(picture).save(tiles / f"scene_r{row:03}_c{column:03}.png")
    for path in tiles.glob("tile_*"):
        path.unlink()
    config = serve()
    page = open_page(config)
    until(page, "neighbours.length === 1 && String(neighbours[0].sides) === '64,0,128,64'")
    box = page.locator("#view").bounding_box()
    edge = box["width"] / 2 + 0.4 * box["height"]
    shown = np.array(Image.open(io.BytesIO(page.locator("#view").screenshot())).convert("RGB"), int)
    here, beside = (shown[int(box["height"] / 2) + 40, int(edge + away)] for away in (-9, 9))
    assert (abs(here - 90) < 3).all() and beside[2] > beside[0] + 20, "bluer, and paler than it is"
    for x, label in ((4, "low"), (60, "high")):
        put(config, "scene_r000_c000.png", x, 20, None, label)
    page.keyboard.press("m")
    until(page, "map && neighbours[0].map")
    page.keyboard.press("m")
    until(page, "!map && !neighbours[0].map")


@pytest.mark.parametrize("form", ["world file", "GeoTIFF", "aux.xml"])
def test_neighbours_are_found_by_their_place_on_the_ground(serve, tiles, form):
    """Half a metre per pixel. The second lies to the right, the third at its corner in pixels twice as wide,
    the fourth beyond, the fifth, of another system, on the first."""
    rasterio = pytest.importorskip("rasterio")
    for path in tiles.iterdir():
        path.unlink()
    system, other = "EPSG:32633", "EPSG:32634"
    places = [
        (0, 0, 0.5),
        (30, 0, 0.5),
        (30, -20, 1.0),
        (70, 0, 0.5),
        *([(0, 0, 0.5)] if form != "world file" else []),
    ]
    for number, (right, up, size) in enumerate(places):
        path = tiles / f"photo {number}.{'tif' if form == 'GeoTIFF' else 'png'}"
        how = {"transform": rasterio.transform.from_origin(5e5 + right, 5e6 + up, size, size)}
        how |= {"crs": other if number == 4 else system, "count": 3, "dtype": "uint8"}
        if form == "world file":
            Image.new("RGB", (WIDTH, HEIGHT)).save(path)
            numbers = size, 0, 0, -size, 5e5 + right + size / 2, 5e6 + up - size / 2
            path.with_suffix(".pgw").write_text("\n".join(map(str, numbers)))
            continue
        driver = "GTiff" if form == "GeoTIFF" else "PNG"
        with rasterio.open(path, "w", driver, height=HEIGHT, width=WIDTH, **how) as file:
            file.write(np.full((3, HEIGHT, WIDTH), 90, np.uint8))
    config = serve()
    found = [(each["index"], each["sides"]) for each in ask(config, "neighbours", "photo 0" + path.suffix)]
    assert found == [
        (1, [WIDTH, 0, 2 * WIDTH, HEIGHT]),
        (2, [WIDTH, HEIGHT, 3 * WIDTH, 3 * HEIGHT]),
    ]
    assert [each["index"] for each in ask(config, "neighbours", "photo 3" + path.suffix)] == [2]


def test_the_only_labels_of_a_class_teach_and_do_not_score():
    common = {f"tile_{number}": {"low", "high"} for number in range(9)}
    assert annotate.tiles_that_score(common | {"tile_9": {"low"}}) == ["tile_8", "tile_9"]
    assert annotate.tiles_that_score(common | {"tile_9": {"low", "rare"}}) == ["tile_7", "tile_8"]
    two = {"tile_8": {"low", "rare"}, "tile_9": {"high", "rare"}}
    assert annotate.tiles_that_score(common | two) == ["tile_7", "tile_9"], "one of both teaches it"
    apart = {"a": {"low"}, "b": {"middle"}, "c": {"high"}}
    assert annotate.tiles_that_score(apart) == ["c"], "nothing else could score"


def test_an_accepted_patch_of_the_map_gives_labels_in_it_and_is_undone_at_once(
    serve, open_page, halves, untrained
):
    config = serve()
    page = open_page(config)
    page.keyboard.press("r")
    page.get_by_role("alert").filter(has_text="Show a map (M)").wait_for()
    page.keyboard.press("m")
    for x, key in ((4, "1"), (55, "3")):
        page.mouse.click(*on_screen(page, x, 20))
        says(page, f"x {x}, y 20")
        page.keyboard.press(key)
    page.locator("#map-says").filter(has_text="Learnt from 2 clicks").wait_for()
    before = lines(config)
    page.mouse.click(*on_screen(page, 10, 8))
    page.get_by_role("button", name="Accept patch: low").wait_for()
    page.keyboard.press("r")
    says(page, "labels of low added in this patch. Suggestion")
    added = [line.split(",") for line in lines(config)[len(before) :]]
    assert added[0][1:3] == ["10", "8"], "the pixel itself, too"
    assert len(added) >= 2 and all(label == "low" and 3 <= int(x) < 30 for _, x, _, label in added)
    assert page.locator("#where").text_content().startswith(f"{len(added)} labels")
    page.keyboard.press("u")
    until(page, "labels.size === 2")
    assert lines(config) == before
    page.keyboard.down("Shift")
    page.mouse.click(*on_screen(page, 50, 33))
    page.keyboard.up("Shift")
    until(page, "changes.length === 3")
    assert {line.split(",")[3] for line in lines(config)[len(before) :]} == {"high"}
    *others, (x, y) = [
        (int(x), int(y)) for _, x, y, _ in (line.split(",") for line in lines(config)[len(before) :])
    ]
    put(config, "tile_0.png", x, y, "high", "middle")
    page.keyboard.press("u")
    page.get_by_role("alert").filter(has_text=f"pixel {x},{y} was changed elsewhere").wait_for()
    assert others and lines(config) == [*before, f"tile_0.png,{x},{y},middle"], "of the patch the others go"


def test_the_tile_stays_where_it_is_while_an_error_comes_and_goes(serve, open_page):
    """A click that is on its way hits the pixel that was aimed at."""
    config = serve()
    page = open_page(config)
    whole, aimed = page.locator("#view").bounding_box(), on_screen(page, 4, HEIGHT - 1)
    page.keyboard.press("r")
    alert = page.get_by_role("alert")
    alert.filter(has_text="Show a map (M)").wait_for()
    over = alert.bounding_box()
    assert page.locator("#view").bounding_box() == whole
    assert whole["y"] < over["y"] and over["y"] + over["height"] <= whole["y"] + whole["height"] + 1
    page.mouse.click(*aimed)
    says(page, f"x 4, y {HEIGHT - 1}")
    page.keyboard.press("1")
    alert.wait_for(state="hidden")
    assert page.locator("#view").bounding_box() == whole


def test_the_words_of_the_map_give_way_to_the_pixel_in_question(serve, open_page):
    page = open_page(serve())
    page.keyboard.press("m")
    words = page.locator("#map-says")
    for y in (1, HEIGHT - 2, 1):
        page.mouse.click(*on_screen(page, 2, y))
        says(page, f"x 2, y {y}")
        over, (_, place) = words.bounding_box(), on_screen(page, 2, y)
        assert not over["y"] <= place <= over["y"] + over["height"]


RIM = """
(() => {
  const pen = new OffscreenCanvas(image.width, image.height).getContext("2d"), {rim} = patch;
  pen.lineWidth = 0.2;
  const columns = [...Array(image.width).keys()], rows = [...Array(image.height).keys()];
  return rows.map((y) => columns.map((x) => pen.isPointInStroke(rim, x, y + 0.5)));
})()
"""


def test_the_patch_that_is_outlined_is_the_one_that_is_accepted(serve, open_page, halves, untrained):
    """The map has an island of another class, and a corner that touches the patch by a corner alone."""
    config = serve()
    class_ids = np.zeros((HEIGHT, WIDTH), np.uint8)
    class_ids[10:30, 10:40], class_ids[15:20, 15:20], class_ids[30:, 40:] = 1, 2, 1
    config.live.draw = lambda name, labels: (class_ids, len(labels))
    for x, label in ((4, "low"), (12, "middle"), (17, "high")):
        put(config, "tile_0.png", x, 17, None, label)
    page = open_page(config)
    page.keyboard.press("m")
    page.mouse.click(*on_screen(page, 30, 25))
    page.get_by_role("button", name="Accept patch: middle").wait_for()
    rim = np.array(page.evaluate(RIM))
    inside = np.pad(class_ids[:30] == 1, ((0, 0), (1, 0)))[:, :-1] != (class_ids[:30] == 1)
    assert (rim[:30] == inside).all() and not rim[30:].any(), "a side to the left of each pixel that differs"
    class_ids[:] = 0  # the map changes behind the page's back
    page.keyboard.press("r")
    page.get_by_role("alert").filter(has_text="the map has changed and says low at 30,25 now").wait_for()
    assert len(lines(config)) == 4


def test_patches_of_noisy_images_do_not_fall_into_crumbs(serve, halves, tiles, untrained):
    """Noise of 20 grey levels, at which scikit-image's superpixels collapse into one."""
    for path in tiles.iterdir():
        picture = np.array(Image.open(path)) + np.random.default_rng(0).normal(0, 20, (HEIGHT, WIDTH, 3))
        Image.fromarray(np.uint8(picture.clip(0, 255))).save(path)
    config = serve()
    for x, label in ((4, "low"), (55, "high"), (20, "low"), (40, "high")):
        put(config, "tile_0.png", x, 20, None, label)
    for x, label, color in ((12, "low", "#0000ff"), (48, "high", "#ff0000")):
        body = json.dumps({"image": "tile_0.png", "x": x, "y": 8, "mode": "live", "color": color})
        status, answer = send(config, "POST", "/region", body, **{"Content-Type": "application/json"})
        added = json.loads(answer).get("added", [])
        assert status == 200 and len(added) >= 3, answer
        assert all(found == label and (x < WIDTH / 2) == (at < WIDTH / 2) for at, _, found in added)
        assert np.ptp([y for _, y, _ in added]) > HEIGHT / 3, "spread over all of it"


@pytest.fixture
def quick_training(monkeypatch, quick_starts):
    """Training without ImageNet's weights, for an epoch."""
    words_of = annotate.training_words
    monkeypatch.setattr(annotate, "GENTLY", [])
    quick = "--weights none --backbone mobilenet_v3_large --epochs 1 --batch-size 2 --device cpu"
    quick = f"{quick} --pseudo-label-weight 0 --cut-mix 0".split()
    monkeypatch.setattr(
        annotate, "training_words", lambda *given: (found := words_of(*given)) and found + quick
    )


def test_a_key_trains_the_network_while_labels_are_given_and_takes_it_over(
    serve, open_page, halves, quick_training, monkeypatch
):
    config = serve()
    page = open_page(config)
    page.keyboard.press("t")
    page.get_by_role("alert").filter(has_text="too little to train on").wait_for()
    for tile in range(3):
        for x, label in ((4, "low"), (55, "high")):
            put(config, f"tile_{tile}.png", x, 20, None, label)
    page.keyboard.press("t")
    said = page.locator("#training-says")
    said.filter(has_text="Training begins").wait_for()
    assert send(config, "POST", "/train", "{}", **{"Content-Type": "application/json"})[0] == 409
    page.keyboard.press("2")
    labelled(page, 3, 3)
    said.filter(has_text="Trained and taken over: mean recall").wait_for(timeout=90_000)
    kept = config.points.with_suffix(".pth")
    assert lc.load_model(kept).class_names == ["low", "middle", "high"] and config.model
    page.keyboard.press("m")
    page.locator("#map-says").filter(has_text="What the model sees").wait_for()
    figures = iter((0.5, 0.6))  # the new model's, and the earlier one's
    scored = lambda *_: argparse.Namespace(label="mean recall", value=next(figures))  # noqa: E731
    monkeypatch.setattr(annotate, "held_out_score", scored)
    before = config.model
    assert "the earlier model stays" in annotate.take_over(
        config, kept, annotate.training_words(config, kept.parent)
    )
    assert config.model is before


def test_labels_that_taught_the_earlier_model_do_not_judge_it(serve, tiles, tmp_path, model, monkeypatch):
    config = serve()
    rows = [f"tile_{number},{x},20,{label}" for number in range(3) for x, label in ((4, "low"), (55, "high"))]
    (tmp_path / "val.csv").write_text("\n".join(["image,x,y,class", *rows]))
    words = f"python module --val-image-dir {tiles} --val-mask-dir {tmp_path}/val.csv --num-classes 3"
    judging, validate = [], lc.validate

    def spy(network, loader, *rest, **how):
        judging.append(len(loader))
        return validate(network, loader, *rest, **how)

    monkeypatch.setattr(lc, "validate", spy)
    monkeypatch.setattr(lc, "load_model", lambda path, load=lc.load_model: load(path, "cpu"))
    for taught in (["tile_0.png", "tile_2.png"], [f"tile_{number}.png" for number in range(3)]):
        kept = config.points.with_suffix(".pth")
        lc.save_checkpoint(
            kept, lc.load_model(model), config.class_names, labelled_pixels=dict.fromkeys(taught)
        )
        config.model = None  # a sitting begins
        said = annotate.take_over(config, model, [*words.split(), "--class-names", "low,middle,high"])
        assert said.startswith("Trained and taken over"), "it is the same model"
    assert judging == [1, 1, 3, 3], "of three tiles; all of them where no other is left"


# ---- A reference sample

SAMPLE = [
    ("tile_2", 7, 8, "secret one"),
    ("tile_0.png", 59, 0, "secret two"),
    ("tile_2", 30, 20, "secret one"),
]


@pytest.fixture
def sample(tmp_path):
    """A reference sample of three points on two tiles, as assess.py draws it."""
    head = "image,x,y,class,stratum,inclusion_probability"
    rows = [f"{image},{x},{y},,{stratum},0.0125" for image, x, y, stratum in SAMPLE]
    (tmp_path / "points.csv").write_text("\n".join([head, *rows]) + "\n")
    return rows


def test_a_reference_sample_is_labelled_blind_in_the_order_of_the_file(serve, open_page, sample):
    config = serve()
    seen = []
    page = open_page(config, first="Point 1 of 3, x 7, y 8: not labelled. 3 not looked at yet, 0 skipped")
    page.on("response", lambda response: seen.append(response.url))
    assert not page.locator("#tiles").is_visible() and not page.locator("#training").is_visible()
    assert not page.get_by_role("button", name="Map").is_visible()
    page.keyboard.press("2")
    says(page, "Point 2 of 3, x 59, y 0: not labelled. 2 not looked at yet")
    page.keyboard.press("s")
    says(page, "Point 3 of 3, x 30, y 20: not labelled. 1 not looked at yet, 1 skipped")
    page.mouse.click(*on_screen(page, 3, 3))  # picks nothing
    page.keyboard.press("3")
    says(page, "All points but 1 skipped are labelled")
    assert [line.split(",")[3] for line in lines(config)[1:]] == ["middle", "", "high"]
    assert lines(config)[0] == "image,x,y,class,stratum,inclusion_probability,skipped"
    kept = [line.split(",") for line in lines(config)[1:]]
    assert [[*row[:3], "", *row[4:6]] for row in kept] == [row.split(",") for row in sample]
    page.keyboard.press("ArrowRight")
    says(page, "Point 1 of 3, x 7, y 8: middle")
    page.keyboard.press("Delete")
    says(page, "Point 1 of 3, x 7, y 8: not labelled")
    page.keyboard.press("u")
    page.keyboard.press("ArrowRight")
    says(page, "Point 2 of 3, x 59, y 0: skipped")
    page.reload()
    says(page, "All points but 1 skipped are labelled")
    page.keyboard.press("ArrowRight")
    says(page, "Point 1 of 3, x 7, y 8: middle")
    assert not any("/map" in url or "/suggestions" in url for url in seen)
    assert "secret" not in page.content()


def test_nothing_of_a_reference_sample_but_its_points_reaches_the_page(serve, sample, model):
    config = serve()
    for path in ("/state", "/tile?image=tile_2.png", "/suggestions?image=tile_2.png"):
        status, body = send(config, "GET", path)
        assert status == 200 and b"secret" not in body and b"0.0125" not in body
    assert [tile["name"] for tile in json.loads(send(config, "GET", "/state")[1])["tiles"]] == [
        "tile_0.png",
        "tile_2.png",
    ]
    before = config.points.read_bytes()
    assert put(config, "tile_0.png", 1, 1, None, "low")[0] == 400, "no point is added"
    assert send(config, "GET", "/map?image=tile_2.png")[0] == 404 and config.points.read_bytes() == before
    for name, x, y, _ in SAMPLE:
        tile = name.removesuffix(".png") + ".png"
        assert json.loads(put(config, tile, x, y, "", "low")[1])["training"] is None
    with pytest.raises(lc.InputError, match="is labelled blind; leave --checkpoint away"):
        serve("--checkpoint", model)
    config.points.write_text("image,x,y,class,inclusion_probability\nnowhere,1,2,,0.1\n")
    with pytest.raises(lc.InputError, match="nowhere, for one, is not in"):
        serve()


def test_two_keys_at_once_label_one_point_of_a_sample(serve, open_page, sample):
    """The second was hit before its point was seen."""
    config = serve()
    page = open_page(config, first="Point 1 of 3")
    with config.writing:
        page.keyboard.press("1")
        page.keyboard.press("3")
    says(page, "Point 2 of 3, x 59, y 0: not labelled")
    assert [line.split(",")[3] for line in lines(config)[1:]] == ["low", "", ""]


def test_a_scene_of_20000_pixels_comes_in_parts_at_the_zoom_in_metres(serve, open_page, tiles, tmp_path):
    """Pixels of half a metre: 20 m are 40 pixels, and the pixel in question is in their middle."""
    rasterio = pytest.importorskip("rasterio")
    place = {"crs": "EPSG:32633", "transform": rasterio.transform.from_origin(5e5, 5e6, 0.5, 0.5)}
    form = {"width": 20_000, "height": 20_000, "count": 3, "dtype": "uint8", "tiled": True, "SPARSE_OK": True}
    with rasterio.open(tiles / "scene.tif", "w", "GTiff", **place, **form) as file:
        ground = np.full((3, 512, 512), 90, np.uint8)
        ground[:, 188, 312] = 255, 0, 255
        file.write(ground, window=((15_812, 16_324), (17_688, 18_200)))
    rows = "scene,18000,16000,,water,0.1\nscene,19999,0,,land,0.1\n"
    (tmp_path / "points.csv").write_text(f"image,x,y,class,stratum,inclusion_probability\n{rows}")
    config = serve("--around", 20)
    assert config.metres["scene.tif"] == pytest.approx(0.5)
    page = open_page(config, first="Point 1 of 2, x 18000, y 16000")
    assert page.locator("#extent").text_content() == "Close-up 16 m wide; a pixel is 0.5 m"
    until(page, "image.parts.near?.bitmap && image.parts.detail?.bitmap")
    sizes = page.evaluate("Object.values(image.parts).map(({bitmap}) => bitmap.width)")
    assert max(sizes) < 600, "pixels of a side that went to the browser"
    rows, columns = magenta(page.locator("#view"))
    box = page.locator("#view").bounding_box()
    side = min(box["width"], box["height"]) / 40
    assert side - 2 <= np.ptp(rows) + 1 <= side + 1
    assert abs(rows.mean() - box["height"] / 2) < 2 and abs(columns.mean() - box["width"] / 2) < 2
    assert send(config, "GET", "/image?image=scene.tif")[0] == 400, "never whole"
    page.keyboard.press("1")
    says(page, "Point 2 of 2, x 19999, y 0: not labelled")


# ---- What is asked for


def test_without_a_model_the_pixels_are_spread_out_and_always_the_same(serve, tiles):
    config = serve()
    asked = ask(config, "suggestions", "tile_0.png")
    distance = np.linalg.norm(np.array(asked)[:, None] - np.array(asked)[None], axis=-1)
    assert len(asked) == WANTED and distance[distance > 0].min() >= int(np.sqrt(HEIGHT * WIDTH / WANTED) / 2)
    Image.fromarray(np.zeros((1000, 1000, 3), np.uint8)).save(tiles / "wide.png")
    rows = [y for _, y in ask(serve("--num-points", 40), "suggestions", "wide.png")]
    assert rows != sorted(rows) and all(min(abs(y - at) for y in rows) < 100 for at in range(0, 1000, 50))
    assert asked == ask(serve(), "suggestions", "tile_0.png") != ask(config, "suggestions", "tile_1.png")
    (x, y), *rest = asked
    put(config, "tile_0.png", x, y, None, "low")
    assert ask(config, "suggestions", "tile_0.png") == asked, "they stay while the page is open"
    put(config, "tile_0.png", *rest[0], None, "")
    assert ask(config, "suggestions", "tile_0.png")[-1] == rest[0], "what was skipped is asked again last"
    fresh = ask(serve(), "suggestions", "tile_0.png")
    assert len(fresh) == WANTED - 1 and fresh[-1] == rest[0] and [x, y] not in fresh
    assert ask(serve("--num-points", "1"), "suggestions", "tile_0.png") == [rest[0]], "enough are labelled"


@pytest.fixture
def model(tmp_path):
    torch.manual_seed(0)
    names, colors = ["a", "b", "c"], ["red", "green", "blue"]
    lc.save_checkpoint(
        tmp_path / "m.pth", lc.DeepLabV3Segmentation(3, "mobilenet_v3_large", None), names, colors
    )
    return tmp_path / "m.pth"


def test_a_model_asks_where_it_is_least_sure_and_brings_its_classes(serve, model, tiles, tmp_path):
    given = [
        "suggest",
        "--checkpoint",
        model,
        "--images",
        tiles,
        "--num-points",
        WANTED,
        "--output",
        tmp_path / "s.csv",
    ]
    assert al.main([*map(str, given)]) == 0
    rows = [
        row for row in csv.DictReader((tmp_path / "s.csv").open(newline="")) if row["image"] == "tile_1.png"
    ]
    config = serve("--checkpoint", model)
    suggested = [[int(row["x"]), int(row["y"])] for row in rows]
    assert ask(config, "suggestions", "tile_1.png") == suggested
    assert config.class_names == ["low", "middle", "high"], "flags come first"
    bare = annotate.parse(["--images", str(tiles), "--checkpoint", str(model)])
    annotate.prepare(bare)
    assert bare.class_names == ["a", "b", "c"] and bare.colors == ["#ff0000", "#008000", "#0000ff"]

    config = serve(
        "--points", tmp_path / "s.csv"
    )  # what `suggest` wrote is asked in its order, and filled in
    assert ask(config, "suggestions", "tile_1.png") == suggested
    put(config, "tile_1.png", *suggested[0], "", "low")
    filled = next(row for row in csv.DictReader((tmp_path / "s.csv").open(newline="")) if row["class"])
    assert filled == rows[0] | {"class": "low"}


def test_the_page_and_its_labels_do_not_wait_for_the_model(serve, model, monkeypatch):
    done, begun, predict = threading.Event(), threading.Event(), al.predict

    def slow(*arguments):
        begun.set()
        assert done.wait(20)
        return predict(*arguments)

    monkeypatch.setattr(al, "predict", slow)
    config = serve("--checkpoint", model)
    asking = threading.Thread(target=ask, args=(config, "suggestions", "tile_0.png"))
    asking.start()
    assert begun.wait(20)
    assert send(config, "GET", "/")[0] == 200 and ask(config, "tile", "tile_0.png")["labels"] == []
    assert put(config, "tile_0.png", 3, 4, None, "low")[0] == 200 and lines(config)[1:] == [
        "tile_0.png,3,4,low"
    ]
    assert asking.is_alive()
    done.set()
    asking.join(20)
    assert not asking.is_alive()


# ---- The CSV


def test_a_csv_that_was_begun_is_continued_and_nothing_in_it_is_lost(serve, tmp_path):
    """Ids, names without suffix, other columns, other images, half pixels, an open row, a byte order mark."""
    begun = "\ufeffimage,x,y,Class,who\ntile_0,3.5,4,2,Ann\nelsewhere.tif,900,800,low,\ntile_0.png,7,8,,Bob\n"
    (tmp_path / "points.csv").write_text(begun, encoding="utf-8")
    config = serve()
    answer = ask(config, "tile", "tile_0.png")
    assert answer.pop("skipped") == [], "nobody has looked at the open row yet"
    assert answer == {"labels": [[3, 4, "high"], [7, 8, ""]], "counts": [0, 0, 1], "training": None}
    assert put(config, "tile_0.png", 9, 9, None, "middle")[0] == 200
    kept = ["image,x,y,class,who", "tile_0,3.5,4,2,Ann", "elsewhere.tif,900,800,low,", "tile_0.png,7,8,,Bob"]
    assert lines(config) == [*kept, "tile_0.png,9,9,middle,"]
    assert put(config, "tile_0.png", 3, 4, "high", "low")[0] == 200
    assert put(config, "tile_0.png", 7, 8, "", "high")[0] == 200
    assert lines(config)[1:] == [
        "tile_0,3.5,4,low,Ann",
        kept[2],
        "tile_0.png,7,8,high,Bob",
        "tile_0.png,9,9,middle,",
    ]
    assert not list(tmp_path.glob(".partial-*"))


def test_labels_that_come_at_once_are_all_written(serve):
    config = serve()
    rows = [
        threading.Thread(target=lambda y=y: [put(config, "tile_0.png", x, y, None, "low") for x in range(8)])
        for y in range(4)
    ]
    for row in rows:
        row.start()
    for row in rows:
        row.join(60)
    assert sorted(lines(config)[1:]) == sorted(f"tile_0.png,{x},{y},low" for x in range(8) for y in range(4))


def test_a_label_that_cannot_be_written_is_refused_and_the_file_stays(serve, monkeypatch):
    config = serve()
    put(config, "tile_0.png", 3, 4, None, "low")
    before = config.points.read_bytes()

    def full(path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(lc, "atomic_write", full)
    status, body = put(config, "tile_0.png", 5, 6, None, "low")
    assert (
        status == 422
        and "No space left" in json.loads(body)["error"]
        and "not saved" in json.loads(body)["error"]
    )
    assert config.points.read_bytes() == before and ask(config, "tile", "tile_0.png")["labels"] == [
        [3, 4, "low"]
    ]


# ---- Strangers


@pytest.mark.parametrize(
    "method, path, headers, status",
    [
        ("GET", "/", {}, 200),
        ("GET", "/", {"Host": "localhost:{port}"}, 200),
        ("GET", "/", {"Host": "evil.example"}, 403),
        ("GET", "/", {"Host": "evil.example:{port}"}, 403),
        ("GET", "/state", {"Sec-Fetch-Site": "cross-site"}, 403),
        ("GET", "/image?image=tile_0.png", {"Sec-Fetch-Site": "same-site"}, 403),
        ("GET", "/image?image=../images/tile_0.png", {}, 404),
        ("GET", "/image?image=/etc/passwd", {}, 404),
        ("GET", "/tools/annotate.py", {}, 404),
        ("GET", "/../points.csv", {}, 404),
        ("GET", "/label", {}, 404),
        ("PUT", "/label", {}, 501),
        ("POST", "/label", {"Origin": "http://127.0.0.1:{port}"}, 200),
        ("POST", "/label", {"Origin": "http://evil.example"}, 403),
        ("POST", "/label", {"Origin": "null"}, 403),
        ("POST", "/label", {"Origin": "http://127.0.0.1:1"}, 403),
        ("POST", "/label", {"Sec-Fetch-Site": "cross-site"}, 403),
        ("POST", "/label", {"Host": "evil.example:{port}"}, 403),
        ("POST", "/label", {"Content-Type": "text/plain"}, 415),
        ("POST", "/label", {"Content-Type": "application/x-www-form-urlencoded"}, 415),
    ],
)
def test_only_our_own_page_is_answered(serve, method, path, headers, status):
    config = serve()
    body = (
        json.dumps({"image": "tile_0.png", "x": 1, "y": 2, "was": None, "now": "low"})
        if method == "POST"
        else None
    )
    given = {"Content-Type": "application/json"} | headers
    found, _ = send(
        config, method, path, body, **{name: text.format(port=config.port) for name, text in given.items()}
    )
    assert found == status and config.points.exists() == (method == "POST" and status == 200)


@pytest.mark.parametrize(
    "change, status",
    [
        ({"image": "../tile_0.png"}, 404),
        ({"image": ["tile_0.png"]}, 404),
        ({"x": WIDTH}, 400),
        ({"y": -1}, 400),
        ({"x": "1"}, 400),
        ({"x": True}, 400),
        ({"now": "desert"}, 400),
        ({"now": {"a": 1}}, 400),
        ({"was": "high"}, 409),
        ({"more": "x" * 20_000}, 413),
    ],
)
def test_a_label_that_makes_no_sense_is_refused(serve, change, status):
    config = serve()
    body = json.dumps({"image": "tile_0.png", "x": 1, "y": 2, "was": None, "now": "low"} | change)
    found, answer = send(config, "POST", "/label", body, **{"Content-Type": "application/json"})
    assert found == status and json.loads(answer)["error"] and not config.points.exists()
    assert send(config, "POST", "/label", "[1]", **{"Content-Type": "application/json"})[0] == 400
    assert send(config, "POST", "/label", "{", **{"Content-Type": "application/json"})[0] == 400


def test_nothing_is_loaded_from_elsewhere_and_nothing_reaches_beyond_this_machine(serve):
    config = serve()
    connection = http.client.HTTPConnection("127.0.0.1", config.port, timeout=20)
    connection.request("GET", "/")
    answer = connection.getresponse()
    page, policy = answer.read().decode(), answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy and "unsafe" not in policy
    nonce = policy.split("'nonce-")[1].split("'")[0]
    assert page.count(f'nonce="{nonce}"') == 2 and "NONCE" not in page and "://" not in page
    addresses = {info[4][0] for info in socket.getaddrinfo(socket.gethostname(), None)} - {"127.0.0.1", "::1"}
    for address in [address for address in addresses if not address.startswith("127.")]:
        with pytest.raises(OSError):
            socket.create_connection((address, config.port), timeout=2).close()


# ---- Start and end


def test_tiles_that_browsers_show_otherwise_come_as_the_module_reads_them(serve, tiles):
    """A TIFF, and a photograph whose EXIF says to turn it."""
    picture = Image.open(tiles / "tile_0.png")
    picture.save(tiles / "scene.tif")
    turned = Image.Exif()
    turned[0x0112] = 6
    picture.save(tiles / "photo é.jpg", exif=turned)
    config = serve()
    for name in ("scene.tif", "photo é.jpg"):
        status, body = send(config, "GET", f"/image?image={urllib.parse.quote(name)}")
        assert status == 200 and Image.open(io.BytesIO(body)).format == "PNG"
        assert (np.array(Image.open(io.BytesIO(body)).convert("RGB")) == lc.read_image(tiles / name)).all()


def test_deep_images_are_shown_as_training_scales_them_and_nothing_is_asked_where_there_is_no_data(
    serve, tiles
):
    rasterio = pytest.importorskip("rasterio")
    for path in tiles.iterdir():
        values = np.array(Image.open(path)).astype(np.uint16).transpose(2, 0, 1) * 40
        path.unlink()
        values[:, :, : WIDTH // 2] = 0
        form = {"count": 3, "dtype": "uint16", "height": HEIGHT, "width": WIDTH, "nodata": 0}
        with rasterio.open(path.with_suffix(".tif"), "w", "GTiff", **form) as file:
            file.write(values)
    config = serve()
    ranges = lc.band_ranges(sorted(tiles.iterdir()))
    shown = np.array(Image.open(io.BytesIO(send(config, "GET", "/image?image=tile_0.tif")[1])))
    assert (
        shown[:, WIDTH // 2 :, :3] == lc.read_image(tiles / "tile_0.tif", ranges=ranges)[:, WIDTH // 2 :]
    ).all()
    assert (shown[:, : WIDTH // 2, 3] == 0).all() and (shown[:, WIDTH // 2 :, 3] == 255).all()
    asked = ask(config, "suggestions", "tile_0.tif")
    assert len(asked) == WANTED and min(x for x, _ in asked) >= WIDTH // 2
    status, answer = put(config, "tile_0.tif", 0, 0, None, "low")
    assert (
        status == 400 and "has no data at 0,0" in json.loads(answer)["error"] and not config.points.exists()
    )
    assert put(config, "tile_0.tif", WIDTH - 1, 0, None, "low")[0] == 200


@pytest.mark.parametrize("deep", [True, False])
def test_a_model_of_another_depth_is_refused_before_the_page_opens(serve, tiles, tmp_path, deep):
    rasterio = pytest.importorskip("rasterio")
    for path in list(tiles.iterdir()):
        values = np.array(Image.open(path)).astype("uint16" if deep else "uint8").transpose(2, 0, 1)
        path.unlink()
        form = {"count": 3, "dtype": values.dtype, "height": HEIGHT, "width": WIDTH}
        with rasterio.open(path.with_suffix(".tif"), "w", "GTiff", **form) as file:
            file.write(values)
    network = lc.DeepLabV3Segmentation(3, "mobilenet_v3_large", None)
    network.reading["ranges"] = None if deep else [[0, 9000]] * 3
    lc.save_checkpoint(tmp_path / "m.pth", network, ["low", "middle", "high"])
    with pytest.raises(lc.InputError, match="tile_0.tif: has " + ("more than 8" if deep else "8") + " bits"):
        serve("--checkpoint", tmp_path / "m.pth")


@pytest.mark.parametrize("bands, with_model", [([1], True), ([1, 2, 3, 4], True), ([1, 2, 3, 4], False)])
def test_tiles_of_other_bands_are_shown_and_mapped(serve, tiles, monkeypatch, bands, with_model):
    rasterio = pytest.importorskip("rasterio")
    for path in list(tiles.iterdir()):
        values = np.array(Image.open(path)).transpose(2, 0, 1)[[0, 1, 2, 0]]
        path.unlink()
        form = {"count": 4, "dtype": "uint8", "height": HEIGHT, "width": WIDTH}
        with rasterio.open(path.with_suffix(".tif"), "w", "GTiff", **form) as file:
            file.write(values)
    network = lambda classes, *_: build(classes, "mobilenet_v3_large", None, bands=bands)  # noqa: E731
    build, path = lc.DeepLabV3Segmentation, tiles.parent / "m.pth"
    model = network(3)
    model.normalisation = {"mean": [0.5] * len(bands), "std": [0.2] * len(bands)}
    lc.save_checkpoint(path, model, ["low", "middle", "high"])
    if not with_model:
        monkeypatch.setattr(lc, "BANDS", bands)
        monkeypatch.setattr(lc, "DeepLabV3Segmentation", network)
    config = serve(*(["--checkpoint", path] if with_model else []))
    status, body = send(config, "GET", "/image?image=tile_0.tif")
    shown = np.array(Image.open(io.BytesIO(body)))
    expected = lc.read_image(tiles / "tile_0.tif", bands=[1, 1, 1] if bands == [1] else [1, 2, 3])
    assert status == 200 and (shown[..., :3] == expected).all() and (shown[..., 3] == 255).all()
    assert len(ask(config, "suggestions", "tile_0.tif")) == WANTED
    assert send(config, "GET", "/map?image=tile_0.tif")[0] == (200 if with_model else 404)
    for x, label in ((4, "low"), (55, "high")):
        assert put(config, "tile_0.tif", x, 20, None, label)[0] == 200
    assert ask(config, "live", "tile_0.tif")["learnt"] == 2


def test_a_label_outside_of_its_tile_is_named_by_the_live_map(serve):
    config = serve()
    config.points.write_text("image,x,y,class\ntile_1.png,4,20,low\ntile_2.png,55,200,high\n")
    status, body = send(config, "GET", "/live?image=tile_0.png")
    assert status == 422 and "point 55,200 lies outside tile_2.png" in json.loads(body)["error"]


def test_a_model_of_an_earlier_sitting_with_other_classes_is_no_yardstick(serve, model, monkeypatch):
    config = serve()
    shutil.copyfile(model, config.points.with_suffix(".pth"))
    scored = lambda *_: argparse.Namespace(label="mean recall", value=0.5)  # noqa: E731
    monkeypatch.setattr(annotate, "held_out_score", scored)
    monkeypatch.setattr(lc, "load_model", lambda path, load=lc.load_model: load(path, "cpu"))
    assert "before" not in annotate.take_over(config, model, [])
    assert config.reading is config.model.reading, "the tiles are read as it was taught to"


def test_a_model_of_an_earlier_version_is_no_yardstick(serve, model, monkeypatch):
    config = serve()
    known = torch.load(model)
    torch.save(known | {"model_state_dict": {}}, config.points.with_suffix(".pth"))
    scored = lambda *_: argparse.Namespace(label="mean recall", value=0.5)  # noqa: E731
    monkeypatch.setattr(annotate, "held_out_score", scored)
    monkeypatch.setattr(lc, "load_model", lambda path, load=lc.load_model: load(path, "cpu"))
    assert "before" not in annotate.take_over(config, model, [])


@pytest.mark.parametrize(
    "change, named",
    [
        (["--images", "{data}/nowhere"], "nowhere"),
        (["--checkpoint", "{data}/two.pth"], "--class-names: the model of --checkpoint has 2 classes"),
        (["--images", "{data}/empty"], "holds no image"),
        (["--points", "{data}/empty"], "--points"),
        (["--points", "{data}/nowhere/points.csv"], "--points"),
        (["--points", "{data}/images/tile_0.png"], "NAME.csv"),
        (["--points", "{data}/foreign.csv"], "foreign.csv, line 2: class 'desert'"),
        (["--points", "{data}/twice.csv"], "line 3: point 1,2 of tile_0.png has another class in line 2"),
        (["--checkpoint", "{data}/images/tile_0.png"], "tile_0.png"),
        (["--num-points", "0"], "--num-points"),
        (["--class-names", "low"], "--class-names"),
        (["--class-names", "low,Low,high"], "--class-names: give 2 to 254 names that differ"),
        (["--class-colors", "red,#ff0000,blue"], "--class-colors: #ff0000 stands for two classes"),
        (["--class-names", "low,high"], "--class-colors"),
        (["--port", "{taken}"], "--port"),
        (["--port", "80"], "--port"),
        (["--nonsense"], "--nonsense"),
    ],
)
def test_bad_input_is_one_line(tiles, tmp_path, capsys, change, named):
    (tmp_path / "empty").mkdir()
    if "{data}/two.pth" in change:
        two = lc.DeepLabV3Segmentation(2, "mobilenet_v3_large", None)
        lc.save_checkpoint(tmp_path / "two.pth", two, ["a", "b"])
    (tmp_path / "foreign.csv").write_text("image,x,y,class\ntile_0.png,1,2,desert\n")
    (tmp_path / "twice.csv").write_text("image,x,y,class\ntile_0.png,1,2,low\ntile_0,1,2,high\n")
    given = [
        "--images",
        str(tiles),
        "--points",
        str(tmp_path / "points.csv"),
        "--port",
        "0",
        "--no-browser",
        *CLASSES,
    ]
    capsys.readouterr()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        change = [part.format(data=tmp_path, taken=taken.getsockname()[1]) for part in change]
        assert annotate.main([*given, *change]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and named in error
    assert not (tmp_path / "points.csv").exists()


def test_control_c_ends_cleanly_and_says_how_to_train(tiles, tmp_path):
    """Started as a user would."""
    given = [
        "--images",
        tiles,
        "--points",
        tmp_path / "my points.csv",
        "--port",
        "0",
        "--no-browser",
        *CLASSES,
    ]
    process = subprocess.Popen(
        [*PYTHON, ROOT / "tools/annotate.py", *given],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    address = process.stdout.readline().split("http://127.0.0.1:")[1]
    config = argparse.Namespace(port=int(address.split("/")[0]), points=tmp_path / "my points.csv")
    for tile in range(3):
        assert put(config, f"tile_{tile}.png", 5, 6, None, "high")[0] == 200
    process.send_signal(signal.SIGINT)
    said, errors = process.communicate(timeout=60)
    assert process.returncode == 0 and not errors and "3 labels" in said
    assert lines(config)[1:] == [f"tile_{tile}.png,5,6,high" for tile in range(3)]
    program, _, *words = shlex.split(said.splitlines()[-1])
    assert shutil.which(program)
    settings = lc.parse_settings(words)
    for path, rows in ((settings.train_mask_dir, 2), (settings.val_mask_dir, 1)):
        points, _ = lc.read_points(path, lc.list_images(tiles), settings.class_names)
        assert len(points) == rows
    assert settings.output_dir == str(tmp_path / "my points.model"), "an earlier model is not overwritten"
    assert settings.class_names == ["low", "middle", "high"] and settings.num_classes == 3
    assert settings.num_points is None and settings.crop_size == HEIGHT


def test_a_server_that_is_killed_while_it_trains_loses_no_label(serve, open_page, halves, untrained, tiles):
    points = tiles.parent / "points.csv"
    given = [
        "--images",
        tiles,
        "--points",
        points,
        "--num-points",
        WANTED,
        "--port",
        "0",
        "--no-browser",
        *CLASSES,
    ]
    process = subprocess.Popen(
        list(map(str, [sys.executable, ROOT / "tools/annotate.py", *given])),
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    port = process.stdout.readline().split("http://127.0.0.1:")[1].split("/")[0]
    page = open_page(argparse.Namespace(port=port))
    for tile in range(3):
        labelled(page, 0, tile)
        says(page, "Suggestion 1 of")
        page.keyboard.press("2")
        labelled(page, 1, tile + 1)
        page.keyboard.press("n")
    page.keyboard.press("t")
    page.locator("#training-says").filter(has_text="Training begins").wait_for()
    page.keyboard.press("3")
    labelled(page, 2, 4)
    os.killpg(process.pid, signal.SIGKILL)  # and what it started
    process.wait(20)
    page.keyboard.press("1")
    page.get_by_role("alert").filter(has_text="annotate.py does not answer").wait_for()
    labelled(page, 2, 4)
    before = points.read_text()
    assert [line.split(",")[3] for line in before.splitlines()[1:]] == ["middle", "middle", "middle", "high"]
    config = serve("--port", port)
    page.reload()
    says(page, "Suggestion 1 of")
    labelled(page, 2, 4)
    page.keyboard.press("1")
    labelled(page, 3, 5)
    assert points.read_text().startswith(before) and len(lines(config)) == 6
    assert not page.locator("#training-says").text_content()
    page.locator("#train:enabled").wait_for()


def test_the_val_tiles_of_the_constants_score_where_they_are_those_of_the_tiles(
    serve, tiles, tmp_path, monkeypatch
):
    monkeypatch.setattr(lc, "TRAIN_IMAGE_DIR", str(tiles))
    monkeypatch.setattr(lc, "VAL_MASK_DIR", str(tmp_path / "masks"))
    monkeypatch.setattr(lc, "CLASS_NAMES", ["low", "middle", "high"])
    config = serve()
    for tile in range(2):
        answer = json.loads(put(config, f"tile_{tile}.png", 5, 6, None, "high")[1])
        assert bool(answer["training"]) == (tile == 1)
    settings = lc.parse_settings(shlex.split(answer["training"])[2:])
    assert settings.train_mask_dir == str(config.points) and settings.val_mask_dir == str(tmp_path / "masks")
    with config.points.open("a") as file:
        file.write("elsewhere.png,1,2,low\n")
    training = ask(config, "tile", "tile_0.png")["training"]
    settings = lc.parse_settings(shlex.split(training)[2:])
    assert settings.val_mask_dir == str(tmp_path / "masks")
    points, _ = lc.read_points(settings.train_mask_dir, lc.list_images(tiles), ["low", "middle", "high"])
    assert points == {f"tile_{tile}": {(6, 5): 2} for tile in range(2)}, (
        "without what training would not find"
    )
