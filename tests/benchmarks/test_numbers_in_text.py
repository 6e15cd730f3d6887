"""Numbers that the tables of rd.py say in words, and the settings that others are measured with."""

import pytest
from helpers import colour

from benchmarks.curves import Point, Series
from benchmarks.measures import MEASURES
from benchmarks.peers import make_peers
from benchmarks.speed import PEER_QUALITIES
from benchmarks.tables import default_line, quality_table, rate_table, shared_range
from xfr.images import Picture

PSNR, MS_SSIM = MEASURES["psnr"], MEASURES["ms_ssim"]


def series(label: str, *points: tuple[int, float, float]) -> Series:
    """A series of points, each a setting, bpp and PSNR."""
    return Series(label, "ours", [Point(q, bpp, {"psnr": dB}) for q, bpp, dB in points])


JPEG = series("JPEG", (10, 0.4, 28.0), (50, 0.8, 32.0))


def test_the_default_quality_is_compared_with_jpeg_at_its_own_psnr():
    ours = series("new", (30, 0.1, 28.0), (50, 0.2, 32.0))
    assert default_line(ours, JPEG) == (
        "new at its default quality 50: 0.200 bpp, 32.00 dB; 25.0% of the bytes of JPEG at that "
        "PSNR (0.800 bpp)"
    )
    beyond = series("new", (50, 0.9, 33.0))
    assert default_line(beyond, JPEG).endswith(
        "0.900 bpp, 33.00 dB, a PSNR outside of JPEG's curve"
    )
    assert default_line(series("new", (30, 0.1, 28.0)), JPEG) == ""


def test_the_range_that_all_reach_is_in_tenths_within_it():
    one = series("one", (1, 0.1, 27.01), (2, 0.2, 34.99))
    other = series("other", (1, 0.1, 26.5), (2, 0.2, 35.5))
    assert shared_range([one, other], PSNR) == (27.1, 34.9)
    assert shared_range([other], PSNR) == (26.5, 35.5)
    assert shared_range([series("wide", (1, 0.1, 20.0), (2, 0.2, 50.0))], PSNR) == (26, 36)


def test_a_level_at_a_rate_lies_on_the_curve_of_log_rate():
    text = rate_table([JPEG], [PSNR], 0.4 * 2**0.5)
    assert text.splitlines()[-1].split("|")[2].strip() == "30.00"


def test_each_quality_shows_its_rate_and_its_scores_and_none_where_there_is_none():
    ours = series("new", (30, 0.1234, 28.126), (35, 0.2, 32.0))
    ours.points[1].scores["ms_ssim"] = 0.98765
    rows = [[cell.strip() for cell in line.split("|")[1:-1]]
            for line in quality_table([ours], [PSNR, MS_SSIM]).splitlines()[2:]]  # fmt: skip
    assert rows == [["30", "0.123, 28.13, none"], ["35", "0.200, 32.00, 0.9877"]]


OPTIONS = {  # as docs and README say of the figures
    "jpeg": {"quality": 50, "optimize": True, "progressive": True},
    "webp": {"quality": 50, "method": 6},
    "avif": {"quality": 50, "subsampling": "4:4:4", "speed": 6},
    "avif-psnr": {
        "quality": 50, "subsampling": "4:4:4", "speed": 6, "advanced": {"tune": "psnr"},
    },
    "avif-ssimulacra2": {
        "quality": 50, "subsampling": "4:4:4", "speed": 6, "advanced": {"tune": "ssimulacra2"},
    },
    "jpeg2000": {"irreversible": True, "quality_mode": "rates", "quality_layers": [50]},
    "jpegxl": {"quality": 50, "effort": 7},
}  # fmt: skip


def test_other_codecs_are_measured_with_the_effort_that_the_figures_are_of():
    assert {peer.name: peer.options(50) for peer in make_peers()} == OPTIONS
    threads = {peer.name: peer.options(50) for peer in make_peers(threads=3)}
    assert threads["avif"]["max_threads"] == 3 and threads["jpegxl"]["num_threads"] == 3


def test_codecs_are_timed_where_a_photograph_has_about_30_decibels():
    assert PEER_QUALITIES == {"jpeg": 50, "webp": 40, "avif": 40, "jpegxl": 50}


@pytest.mark.parametrize("name", ["jpeg", "webp"])
def test_a_size_is_met_by_the_highest_quality_that_fits(name, tmp_path):
    peer = next(peer for peer in make_peers() if peer.name == name)
    picture, sizes, path = Picture(colour(64, 96)), {}, tmp_path / "a"
    for quality in range(60, 91):
        peer.write(picture, quality, path)
        sizes[quality] = path.stat().st_size
    peer.write_within(picture, sizes[75], path)
    assert path.stat().st_size <= sizes[75]
    highest = max(quality for quality, size in sizes.items() if size <= sizes[75])
    assert path.stat().st_size == sizes[highest]
