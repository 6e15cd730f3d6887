"""The benchmarks' codecs and measures, and the tables of their curves."""

import numpy as np
import pytest
from helpers import ROOT
from PIL import Image

from benchmarks.curves import Point, Series
from benchmarks.measures import MEASURES
from benchmarks.peers import make_peers
from benchmarks.tables import bd_section, folder_report, overview, rate_table, report
from xfr.images import Picture

PSNR, EYE = MEASURES["psnr"], MEASURES["ssimulacra2"]
SAMPLE = ROOT / "out/original/astronaut.png"


def points(factor: float, low: int = 26, high: int = 40) -> list[Point]:
    """A curve from ``low`` to ``high`` dB, and SSIMULACRA 2 from 10 times (dB - 26), whose rates
    are those of other such curves times ``factor``."""
    return [
        Point(dB, factor * 2 ** ((dB - 26) / 6), {"psnr": dB, "ssimulacra2": 10 * (dB - 26)})
        for dB in range(low, high + 1)
    ]


def series(label: str, *factors: float, kind: str = "peer", low: int = 26, high: int = 40):
    """A codec whose pictures have these factors; that of its averages is the first."""
    pictures = {str(index): points(factor, low, high) for index, factor in enumerate(factors)}
    return Series(label, kind, points(factors[0], low, high), pictures)


def cells(table: str) -> dict[str, list[str]]:
    """The cells of each row by the first of them."""
    lines = [line.strip("| ").split(" | ") for line in table.splitlines()]
    return {line[0]: [cell.strip() for cell in line[1:]] for line in lines}


# Tables


def section(codecs: list[Series], anchors: list[Series], measure=PSNR, named=None):
    """The heading, and the cells of the table and of that of the pictures' own."""
    heading, _, *tables = bd_section(codecs, anchors, measure, named)
    return heading, *map(cells, tables)


def test_a_table_has_the_bd_rates_of_the_averages_best_first_and_one_has_the_pictures_means():
    one, other, third = series("one", 1, 1), series("other", 2, 4), series("third", 0.5, 1)
    _, table, own = section([one, other, third], [one, other])
    assert list(table) == ["codec", "---", "third", "one", "other"]
    assert table["codec"] == ["BD-rate to one", "BD-rate to other"]
    assert table["other"] == ["+100.0 %", "anchor"] and table["one"] == ["anchor", "-50.0 %"]
    assert table["third"] == ["-50.0 %", "-75.0 %"]
    assert list(own) == ["mean of the pictures' own", "---", "third", "one", "other"]
    assert own["other"] == ["+200.0 %", "anchor"]  # of +100 and +300 %
    assert own["third"] == ["-25.0 %", "-75.0 %"] and own["one"][0] == "anchor"


def test_all_rows_are_over_the_range_that_all_curves_reach_and_the_heading_says_it():
    """A codec is not flattered by a range of its own: here it is worse where it is measured."""
    one, other, short = series("one", 1), series("other", 1), series("short", 2, low=30, high=32)
    for point in other.points[:4]:  # below 30 dB
        point.bpp *= 1.1
    heading, table = section([one, other, short], [one])
    assert heading == "## PSNR, 30 to 32 dB"
    found = {name: float(table[name][0].split()[0]) for name in ("short", "other")}
    assert found == {"short": pytest.approx(100, abs=1), "other": pytest.approx(0, abs=1)}
    assert section([one, other, short], [one], EYE)[0] == "## SSIMULACRA 2, 40 to 60"
    heading, table = section([one, other], [one])
    assert heading == "## PSNR, 26 to 36 dB" and float(table["other"][0].split()[0]) > 2


def test_an_overview_has_a_row_for_each_measure_and_bold_where_a_checkpoint_was_trained_for_it():
    codecs = {"visual": series("visual (ours)", 0.5, 1), "other": series("other", 2, 4)}
    codecs |= {"anchor": series("anchor", 1, 1), "drawn": Series("drawn", "published", [])}
    found = cells(overview(codecs, codecs["anchor"], {PSNR: None, EYE: (40, 60)}))
    assert found["BD-rate to anchor"] == ["visual (ours)", "other"]
    assert found["PSNR, 26 to 36 dB"] == ["-25.0 %", "+200.0 %"]
    assert found["SSIMULACRA 2, 40 to 60"] == ["**-25.0 %**", "+200.0 %"]


def test_a_named_range_is_kept_and_who_does_not_reach_it_has_no_number():
    one, short = series("one", 1), series("short", 2, low=30, high=32)
    heading, table = section([one, short], [one], PSNR, (28, 31))
    assert heading == "## PSNR, 28 to 31 dB"
    assert table["short"] == ["none: reaches 30.0 to 32.0"]


def test_curves_without_a_common_range_are_told():
    low, high = series("low", 1, low=26, high=30), series("high", 1, low=32, high=36)
    assert bd_section([low, high], [low], PSNR, None)[1].startswith("No levels are reached by all")


def test_the_range_is_that_of_the_measure_and_no_other():
    """A codec that is worse at the upper end only is so only where that end counts."""
    one, other = series("one", 1), series("other", 1)
    for point in other.points[9:]:  # from 35 dB, and 90 of SSIMULACRA 2
        point.bpp *= 3
    up_to_33, up_to_40 = (
        section([one, other], [one], PSNR, (26, high))[1]["other"][0] for high in (33, 40)
    )
    assert up_to_33 == "+0.0 %" and float(up_to_40.split()[0]) > 10
    assert section([one, other], [one], EYE, (30, 70))[1]["other"][0] == "+0.0 %"


def test_pictures_without_a_common_range_are_left_out_of_all_means_and_counted():
    one, other, third = series("one", 1, 1), series("other", 2, 2), series("third", 2, 4)
    other.pictures["1"] = points(2, 36, 40)
    _, _, own = section([one, other, third], [one])
    assert own["other"] == own["third"] == ["+100.0 % (1 of 2)"]


def test_a_codec_without_the_measure_has_no_row():
    one, published = series("one", 1), series("elsewhere", 1, kind="published")
    for point in published.points:
        del point.scores["ssimulacra2"]
    assert "elsewhere" in bd_section([one, published], [one], PSNR, None)[2]
    assert "elsewhere" not in bd_section([one, published], [one], EYE, None)[2]


def test_at_equal_rates_the_best_is_first_and_who_does_not_reach_it_is_missing():
    codecs = [series("one", 1), series("half", 0.5), series("costly", 8)]
    table = cells(rate_table(codecs, [PSNR, EYE], 2))
    assert list(table) == ["at 2 bpp", "---", "half", "one"]
    assert table["at 2 bpp"] == ["PSNR (dB)", "SSIMULACRA 2"]
    assert table["half"] == ["38.00", "120.00"] and table["one"] == ["32.00", "60.00"]


def test_kinds_of_pictures_are_rows_and_anchors_columns():
    folders = {
        "photographs": {"ours": series("new", 1, kind="ours"), "old": series("old", 2)},
        "screens": {"ours": series("new", 3, kind="ours"), "old": series("old", 2)},
    }
    table = cells(folder_report(folders, ["old"], {PSNR: (26, 36)}))
    assert table["PSNR, 26 to 36 dB"] == ["new to old"]
    assert table["photographs"] == ["-50.0 %"] and table["screens"] == ["+50.0 %"]


def test_a_report_has_a_section_for_each_measure():
    codecs = {"new": series("new", 1, kind="ours"), "old": series("old", 2)}
    text = report("two", codecs, ["old"], {PSNR: None, EYE: None}, [2])
    headings = [line for line in text.splitlines() if line.startswith("#")]
    assert headings == ["# Rate and distortion, two",
                        "## By all measures: means of the pictures' own",
                        "## PSNR, 26 to 36 dB", "## SSIMULACRA 2, 30 to 80",
                        "## At equal rates", "## At each quality"]  # fmt: skip
    assert "| 30 | 1.587, 30.00, 40.00 |" in text


# Codecs


@pytest.mark.parametrize(
    "name, extra",
    [
        ("avif", {}),
        ("avif-psnr", {"advanced": {"tune": "psnr"}}),
        ("avif-ssimulacra2", {"advanced": {"tune": "ssimulacra2"}}),
    ],
)
def test_avif_is_measured_in_three_tunings(name, extra, tmp_path):
    peer = next(peer for peer in make_peers() if peer.name == name)
    if not peer.available:
        pytest.skip("this Pillow does not write such AVIF")
    original = np.asarray(Image.open(SAMPLE).convert("RGB").crop((120, 0, 320, 200)))
    peer.write(Picture(original), 40, tmp_path / "ours.avif")
    options = {"quality": 40, "subsampling": "4:4:4", "speed": 6, **extra}
    Image.fromarray(original).save(tmp_path / "theirs.avif", **options)
    assert (tmp_path / "ours.avif").read_bytes() == (tmp_path / "theirs.avif").read_bytes()
