import base64
import io
import math
import os
import re
import shutil
from datetime import date
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from helpers import colour, noise, save_png
from PIL import Image

from model.checkpoint import fingerprint, load_checkpoint
from model.limits import MAX_QUALITY
from utils.report.page import MAX_SHOWN, write_report
from utils.report.views import ACTUAL_SIDE, AMPLIFY, MAX_SIDE
from utils.scores import Origin, Result, Score
from xfr.checkpoints import SHIPPED
from xfr.file import unpack

HOSTILE = [
    '"><script>document.title = "taken"</script>.png',
    "'\" onerror='alert(1)' $bpp ${psnr} <!-- end -->.png",
    "</title></style></script><img src=x onerror=alert(1)>.png",
    os.fsdecode(b"caf\xe9 & co.png"),
]
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-dev-shm-usage --disable-quic --no-first-run "
    "--disable-sync --disable-background-networking --disable-component-update"
).split()


class Page(HTMLParser):
    """The page as a browser reads it: how many of each element, the sources, the text."""

    def __init__(self, path: Path):
        super().__init__()
        self.source, self.elements, self.images, self.words = path.read_text("utf-8"), {}, [], ""
        self.feed(self.source)

    def handle_starttag(self, tag, attributes):
        self.elements[tag] = self.elements.get(tag, 0) + 1
        if tag == "img":
            self.images.append(dict(attributes)["src"])
        assert not [name for name, _ in attributes if name.startswith("on") or name == "style"]

    def handle_data(self, data):
        self.words += data


def opened(uri: str) -> Image.Image:
    kind, _, data = uri.partition(",")
    assert kind == "data:image/webp;base64"
    return Image.open(io.BytesIO(base64.b64decode(data)))


def measures(psnr: float) -> dict:
    return {"psnr": psnr, "ssim": None, "ms_ssim": None}


def pictures(
    folder: Path, names: list[str], height: int = 40, width: int = 60, **values
) -> list[Result]:
    """A result for each of ``names``, all of the same two files."""
    pixels = colour(height, width)
    first = save_png(folder / "first.png", pixels)
    second = save_png(folder / "second.png", np.minimum(pixels, 245) + 10)
    numbers = {"psnr": 30.0, "ssim": 0.9, "ms_ssim": None} | values
    score = (width, height, 7200, 900, 8.0, 3.0)
    origin = Origin(0x01234567, 35, False, "")
    files = str(first), str(second), origin
    return [Result(Score(name, *score, dict(numbers)), *files) for name in names]


@pytest.fixture
def page(tmp_path):
    def build(listed: list[Result], second: Path | None = None) -> Page:
        write_report(tmp_path / "report.html", listed, 10**8, second)
        return Page(tmp_path / "report.html")

    return build


def test_hostile_names_stay_text(page, tmp_path):
    plain = page(pictures(tmp_path, ["a.png"] * len(HOSTILE)))
    hostile = page(pictures(tmp_path, HOSTILE))
    assert hostile.elements == plain.elements
    for name in HOSTILE[:-1]:
        assert hostile.words.count(name) == 3  # row, heading, label
    assert hostile.words.count("caf\\udce9 & co.png") == 3


def test_page_needs_no_network(page, tmp_path):
    built = page(pictures(tmp_path, HOSTILE))
    assert not re.search(r"https?:|//\w+\.\w", built.source)
    assert not {"link", "iframe", "base", "form", "object"} & set(built.elements)
    assert "default-src 'none'; img-src data:;" in built.source
    assert "unsafe" not in built.source


def test_images_are_those_of_the_files(page, tmp_path):
    built = page(pictures(tmp_path, ["a.png"]))
    original, reconstruction, error = (np.asarray(opened(uri)) for uri in built.images)
    assert original.shape == (40, 60, 3)
    assert abs(reconstruction.mean() - original.mean() - 10) < 1
    assert abs(error.mean() - 10 * AMPLIFY) < 2
    assert f"{AMPLIFY} times amplified" in built.words


def test_pictures_are_capped_in_number(page, tmp_path):
    names = [f"{index}.png" for index in range(MAX_SHOWN + 3)]
    built = page(pictures(tmp_path, names))
    assert built.elements["article"] == MAX_SHOWN
    assert built.elements["tr"] == len(names) + 3
    assert len(built.images) == 3 * MAX_SHOWN
    assert f"Below are {MAX_SHOWN} of the {len(names)} pictures" in built.words
    assert built.source.count('href="#picture-') == MAX_SHOWN


@pytest.mark.parametrize("shape", [(300, 2000), (2000, 3)])
def test_pictures_are_capped_in_size_and_it_is_said(page, tmp_path, shape):
    built = page(pictures(tmp_path, ["large.png"], *shape))
    assert {max(opened(uri).size) for uri in built.images} == {MAX_SIDE}
    assert "Reduced to 40\u202f% from" in built.words
    assert "Reduced" not in page(pictures(tmp_path, ["small.png"])).words


def test_missing_and_infinite_scores(page, tmp_path):
    built = page(pictures(tmp_path, ["a.png"], psnr=math.inf, ssim=None))
    assert '<td data-key="Infinity">∞</td>' in built.source
    assert '<td data-key="">–</td>' in built.source


def test_headers_sort_by_the_numbers_themselves(page, tmp_path):
    """The keys of a row: bytes, rate, PSNR, SSIM, MS-SSIM, ratio and pixels."""
    built = page(pictures(tmp_path, ["a.png"], psnr=math.inf))
    keys = re.findall(r'data-key="([^"]*)"', built.source)[:7]
    assert keys == ["900", "3.0", "Infinity", "0.9", "", "8.0", "2400"]


def test_the_worst_pictures_are_shown_and_first(page, tmp_path):
    names = [f"{index}.png" for index in range(MAX_SHOWN + 3)]
    listed = pictures(tmp_path, names)
    for result, psnr in zip(listed, [None, math.inf, *range(50, 30, -1)]):
        result.score.measures["psnr"] = psnr
    built = page(listed)
    shown = re.findall(r"<h2 [^>]*><bdi>(.*?)</bdi>", built.source)
    assert shown == [f"{index}.png" for index in range(len(names) - 1, 2, -1)]
    assert "with the lowest PSNR first" in built.words
    links = re.findall(r'<a href="#picture-(\d+)"><bdi>(.*?)</bdi>', built.source)
    assert {shown[int(index)]: name for index, name in links} == {name: name for name in shown}


def test_ssimulacra_2_has_a_column_if_it_was_scored_and_tells_the_worst(page, tmp_path):
    listed = pictures(tmp_path, ["a.png", "b.png"])
    assert "SSIMULACRA" not in page(listed).words
    for result, value in zip(listed, (71.25, 43.5)):
        result.score.measures["ssimulacra2"] = value
    built = page(listed)
    assert '<td data-key="71.25">71.2</td>' in built.source
    assert "with the lowest SSIMULACRA 2 first" in built.words
    assert re.findall(r"<h2 [^>]*><bdi>(.*?)</bdi>", built.source) == ["b.png", "a.png"]


def test_page_names_checkpoint_quality_target_and_date(page, tmp_path):
    listed = pictures(tmp_path, ["a.png", "b.png"])
    words = page(listed).words
    assert "Checkpoint 0000000001234567, quality 35." in words
    assert f"2 pictures, {date.today().isoformat()}." in words
    listed[0].origin = Origin(0x89ABCDEF, 60, False, "max_bytes 20000")
    words = page(listed).words
    assert "Checkpoint 0000000001234567 and 0000000089abcdef, qualities 35 to 60" in words
    assert "chosen for --max_bytes 20000" in words
    listed[0].origin = Origin(0x01234567, 35, True, "")
    expected = "Checkpoint 0000000001234567, quality 35, 1 graphic."
    assert expected in page(listed).words
    listed[0].origin = Origin(SHIPPED["hyperprior"].fingerprint, 35, False, "")
    assert "quality 35. hyperprior was trained for PSNR." in page(listed).words
    listed[0].origin = listed[1].origin = None
    assert "Checkpoint" not in page(listed).words


def test_page_has_totals_and_averages(page, tmp_path):
    listed = pictures(tmp_path, ["a.png", "b.png"])
    listed[1].score = Score("b.png", 600, 400, 9000, 4500, 2.0, 0.15, measures(40.0))
    built = page(listed)
    total = 8 * (900 + 4500) / (60 * 40 + 600 * 400)
    assert f"bpp {total:.3f}, ratio 3.00, 35.00 dB PSNR on average." in built.words
    assert f'<td data-key="{total}">{total:.3f}</td>' in built.source
    assert '<td data-key="5400">5,400</td>' in built.source
    average = built.source.split("Average")[1].split("</tr>")[0]
    assert '<td data-key="35.0">35.00</td>' in average
    assert ">1.575<" not in average and ">5.0<" not in average  # means of rates, not rates


def test_a_second_run_lies_beside_the_first(page, tmp_path):
    listed = pictures(tmp_path, ["a.png", "b.png"])
    other = save_png(tmp_path / "avif <&>/a.png", np.maximum(colour(40, 60), 40) - 40)
    listed[0].second = str(other)
    listed[0].second_score = Score("a.png", 60, 40, 7200, 450, 16.0, 1.5, measures(28.125))
    built = page(listed, other.parent)
    assert "In grey, avif <&>: bpp 1.500, ratio 16.00, 28.12 dB PSNR on average." in built.words
    assert '<td data-key="30.0">30.00<small>28.12</small>' in re.sub(r"\n", "", built.source)
    assert '<td data-key="30.0">30.00<small>–</small>' in re.sub(r"\n", "", built.source)
    assert len(built.images) == 6 + 3
    original, first, second = (
        np.asarray(Image.open(path)).mean()
        for path in (listed[0].original, listed[0].reconstructed, other)
    )
    shown = [np.asarray(opened(uri)).mean() for uri in built.images[:4]]
    assert shown == pytest.approx([original, first, first, second], abs=2)
    assert "Error of avif <&>" in built.words


def test_script_lays_a_second_folder_beside_the_first(workplace, script):
    for name in ("a", "b"):
        save_png(workplace / f"photos/{name}.png", colour(40, 60))
        (workplace / f"out/compressed/{name}.xfr").parent.mkdir(parents=True, exist_ok=True)
        (workplace / f"out/compressed/{name}.xfr").write_bytes(bytes(100))
        save_png(workplace / f"out/reconstructed/{name}.bmp", colour(40, 60, seed=1))
    (workplace / "other").mkdir()
    Image.fromarray(colour(40, 60)).save("other/b.webp", quality=50)
    flags = ["--folder_path_original", "photos", "--folder_path_second", "other"]
    done = script("test", *flags)
    assert done.code == 0, done.err
    built = Page(workplace / "out/scores/scores.html")
    size = Path("other/b.webp").stat().st_size
    source = built.source.replace("\n", "")
    assert source.count(f"<small>{size:,}</small>") == 3  # its row, the average, the total
    assert source.count("<figcaption><span>Reconstruction</span>") == 1
    Path("other/b.webp").rename("other/c.webp")
    done = script("test", *flags)
    assert done.code == 1 and "no picture in other (--folder_path_second) has an orig" in done.err


def test_the_area_with_the_largest_errors_is_seen_at_1_to_1(page, tmp_path):
    listed = pictures(tmp_path, ["a.png"], 1600, 2000)
    pixels = colour(1600, 2000)
    pixels[300:400, 1900:] ^= 255
    save_png(tmp_path / "second.png", pixels)
    built = page(listed)
    assert "1:1 shows the part with the largest errors" in built.words
    (actual,) = re.findall(r'alt="Reconstruction" data-actual="(.*?)"', built.source)
    seen = np.asarray(opened(actual)).astype(int)
    assert seen.shape == (ACTUAL_SIDE, ACTUAL_SIDE, 3)
    assert np.abs(seen - pixels[:1200, 800:]).mean() < 5


def test_page_tells_what_the_files_say(workplace, script, checkpoints):
    save_png(workplace / "out/original/a.png", noise(40, 60))
    save_png(workplace / "out/original/flat.png", np.zeros_like(noise(40, 60)))
    model = ["--model", checkpoints["binary"]]
    script("encode", *model, "--max_bytes", "2k")
    script("decode", *model)
    assert script("test", "--report").code == 0
    quality = unpack(Path("out/compressed/a.xfr").read_bytes()).quality
    name = f"{fingerprint(load_checkpoint(checkpoints['binary'])):016x}"
    words = Page(workplace / "out/scores/scores.html").words
    assert quality == MAX_QUALITY
    assert f"Checkpoint {name}, quality {quality}, 1 graphic, chosen " in words
    assert "chosen for --max_bytes 2000." in words


def test_a_failure_leaves_the_old_page(page, tmp_path):
    page(pictures(tmp_path, ["a.png"]))
    before = (tmp_path / "report.html").read_bytes()
    listed = pictures(tmp_path, ["a.png", "b.png"])
    listed[1].original = str(tmp_path / "gone.png")
    with pytest.raises(FileNotFoundError):
        page(listed)
    assert (tmp_path / "report.html").read_bytes() == before
    assert not list(tmp_path.glob(".*.part"))


def test_script_writes_it_beside_the_csv(workplace, script):
    for name in ("a", "b"):
        save_png(workplace / f"out/original/{name}.png", colour(40, 60))
        (workplace / f"out/compressed/{name}.xfr").parent.mkdir(parents=True, exist_ok=True)
        (workplace / f"out/compressed/{name}.xfr").write_bytes(bytes(100))
        save_png(workplace / f"out/reconstructed/{name}.bmp", colour(40, 60, seed=1))
    assert script("test", "--device", "cpu").code == 0
    assert not (workplace / "out/scores/scores.html").exists()
    done = script("test", "--device", "cpu", "--report", "--out_file_name", "mine.csv")
    assert done.code == 0, done.err
    assert "mine.html" in done.out
    assert Page(workplace / "out/scores/mine.html").elements["article"] == 2
    refused = script("test", "--device", "cpu", "--report", "--out_file_name", "mine.html")
    assert refused.code == 1 and "overwrite" in refused.err


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    webdriver = pytest.importorskip("selenium.webdriver")
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium")
    driver = os.environ.get("CHROMEDRIVER") or shutil.which("chromedriver")
    if not (chromium and driver):
        pytest.skip("no chromium and chromedriver (environment: CHROMIUM, CHROMEDRIVER)")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in [*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options, webdriver.ChromeService(driver))
    yield browser
    browser.quit()


@pytest.fixture
def show(browser, page, tmp_path):
    """Open a page of these pictures, in a window as wide as a small phone."""

    def run(listed: list):
        page(listed)
        size = {"width": 320, "height": 600, "deviceScaleFactor": 1, "mobile": True}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        browser.get((tmp_path / "report.html").as_uri())
        return browser

    yield run
    assert browser.get_log("browser") == []  # neither errors nor what the policy refused


def clip(browser) -> str:
    script = "return getComputedStyle(document.querySelector('.stage img + img')).clipPath"
    return browser.execute_script(script)


def rows(browser) -> list[str]:
    script = "return Array.from(document.querySelectorAll('tbody th'), (th) => th.textContent)"
    return browser.execute_script(script)


def test_slider_moves_by_keyboard_and_by_pointer(show, tmp_path):
    from selenium.webdriver import ActionChains, Keys

    browser = show(pictures(tmp_path, ["a.png"]))
    slider = browser.find_element("css selector", ".stage input")
    assert clip(browser) == "inset(0px 0px 0px 50%)"
    slider.send_keys(Keys.ARROW_RIGHT)
    assert clip(browser) == "inset(0px 0px 0px 51%)"
    assert slider.get_attribute("aria-valuetext") == "51 % original"
    outline = "return getComputedStyle(document.querySelector('.stage')).outlineStyle"
    assert browser.execute_script(outline) == "solid"
    slider.send_keys(Keys.HOME)
    assert clip(browser) == "inset(0px 0px 0px 0%)"
    ActionChains(browser).drag_and_drop_by_offset(slider, 60, 0).perform()
    position = float(clip(browser).split()[-1].rstrip("%)"))
    width = browser.execute_script("return document.querySelector('.stage').offsetWidth")
    assert abs(position - (50 + 100 * 60 / width)) < 1


def test_headers_sort_by_click_and_by_keyboard(show, tmp_path):
    from selenium.webdriver import Keys

    listed = pictures(tmp_path, ["img10.png", "img9.png", "b.png", "a.png"])
    for result, psnr in zip(listed, (9.5, 30.0, math.inf, None)):
        result.score.measures["psnr"] = psnr
    browser = show(listed)
    headers = browser.find_elements("css selector", "thead th")
    states = lambda: [header.get_attribute("aria-sort") for header in headers]  # noqa: E731
    assert rows(browser) == ["a.png", "b.png", "img9.png", "img10.png"]
    assert states() == ["ascending"] + [None] * 7
    headers[3].find_element("tag name", "button").click()
    assert rows(browser) == ["img10.png", "img9.png", "b.png", "a.png"]
    headers[3].find_element("tag name", "button").send_keys(Keys.ENTER)
    assert rows(browser) == ["b.png", "img9.png", "img10.png", "a.png"]  # missing stays last
    assert states() == [None] * 3 + ["descending"] + [None] * 4
    headers[0].find_element("tag name", "button").send_keys(Keys.SPACE)
    assert rows(browser) == ["a.png", "b.png", "img9.png", "img10.png"]


def test_a_click_shows_1_to_1_and_another_goes_back(show, tmp_path):
    browser = show(pictures(tmp_path, ["a.png"], 900, 1100))
    button = browser.find_element("css selector", "figcaption button")
    width = "return document.querySelector('.stage img').getBoundingClientRect().width"
    natural = "return document.querySelector('.stage img').naturalWidth"
    before = browser.execute_script(width), browser.execute_script(natural)
    assert before[0] < 320 and before[1] == MAX_SIDE
    button.click()
    loaded = "return Promise.all(Array.from(document.images, (image) => image.decode()))"
    browser.execute_script(loaded)
    assert browser.execute_script(width) == browser.execute_script(natural) == 1100
    assert button.get_attribute("aria-pressed") == "true"
    assert browser.execute_script("return document.documentElement.scrollWidth") == 320
    assert browser.execute_script("return document.querySelector('.window').scrollLeft") > 300
    button.click()
    browser.execute_script(loaded)
    assert (browser.execute_script(width), browser.execute_script(natural)) == before


def test_page_fits_a_small_phone_and_runs_no_strange_script(show, tmp_path):
    wide = pictures(tmp_path, [*HOSTILE, "long" * 60 + ".png"], 300, 1200)
    browser = show(wide)
    assert browser.execute_script("return document.documentElement.scrollWidth") == 320
    assert browser.title == "report: 5 pictures"
    assert rows(browser)[1].endswith(".png")
    loaded = "return Promise.all(Array.from(document.images, (image) => image.decode()))"
    browser.execute_script(loaded)


def test_policy_refuses_a_script_and_a_picture_from_elsewhere(show, tmp_path):
    browser = show(pictures(tmp_path, ["a.png"]))
    browser.execute_async_script(
        """const done = arguments[0], image = new Image();
        const script = document.createElement("script");
        script.textContent = "document.title = 'taken'";
        document.body.append(script);
        image.onload = image.onerror = () => done();
        image.src = "first.png";
        document.body.append(image);"""
    )
    assert browser.title == "report: 1 picture"
    refused = [entry["message"] for entry in browser.get_log("browser")]
    assert any("script-src" in message for message in refused)
    assert any("img-src" in message for message in refused)
