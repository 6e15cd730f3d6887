import pytest

from benchmarks.bdrate import Curve, bd_rate, common_range, rising

# Rates and PSNRs of anchor and test, and the BD-rate in per cent. The first two are from the
# JCT-VC's document JCTVC-E137; Netflix's VMAF holds its calculator against them, in
# python/test/bd_rate_calculator_test.py. The third is the example in the documentation of the
# package bjontegaard (https://github.com/FAU-LMS/bjontegaard), computed by its version 1.3.0.
EXAMPLES = [
    (
        [(108048.8736, 43.6471), (61279.976, 40.3953),
         (33905.6656, 37.247), (18883.6928, 34.2911)],
        [(108061.2784, 43.6768), (61299.9936, 40.4232),
         (33928.7472, 37.2761), (18910.912, 34.3147)],
        -0.465215420752807,
    ),
    (
        [(40433.8848, 37.5761), (7622.7456, 35.3756), (2394.488, 33.8977), (1017.6184, 32.0603)],
        [(40370.12, 37.5982), (7587.0024, 35.4025), (2390.0944, 33.9194), (1017.0984, 32.0822)],
        -1.8779823450567612,
    ),
    (
        [(9487.76, 40.037), (4593.6, 38.615), (2486.44, 36.845), (1358.24, 34.851)],
        [(9787.8, 40.121), (4469.0, 38.651), (2451.52, 36.97), (1356.24, 34.987)],
        -4.417485350589045,
    ),
]  # fmt: skip
CURVE = Curve((0.1, 0.25, 0.5, 1.1, 2.0), (27.0, 30.0, 32.5, 36.0, 39.0))


def scaled(curve: Curve, factor: float) -> Curve:
    return Curve(tuple(factor * rate for rate in curve.rate), curve.level)


def over_all(anchor: Curve, test: Curve) -> float:
    return bd_rate(anchor, test, *common_range([anchor, test], 0, 100))


@pytest.mark.parametrize(("anchor", "test", "percent"), EXAMPLES)
def test_agrees_with_published_examples(anchor, test, percent):
    assert over_all(rising(anchor), rising(test)) == pytest.approx(percent, abs=1e-9)


@pytest.mark.parametrize(("factor", "percent"), [(1, 0), (2, 100), (0.5, -50)])
def test_rates_times_a_factor(factor, percent):
    assert bd_rate(CURVE, scaled(CURVE, factor), 28, 36) == pytest.approx(percent, abs=1e-9)


def test_there_and_back_is_nothing():
    anchor, test = (rising(points) for points in EXAMPLES[2][:2])
    there, back = over_all(anchor, test), over_all(test, anchor)
    assert (1 + there / 100) * (1 + back / 100) == pytest.approx(1)


def test_the_common_range_is_what_all_curves_reach():
    others = [Curve((0.2, 0.4, 0.9), (29.0, 31.0, 34.0)), Curve((1, 2), (28.0, 33.5))]
    assert common_range([CURVE, *others], 26, 40) == (29, 33.5)
    assert common_range([CURVE, *others], 26, 33) == (29, 33)
    with pytest.raises(ValueError, match="no levels in common"):
        common_range([CURVE, *others], 34, 36)


@pytest.mark.parametrize("limits", [(28, 33), (30, 35), (33, 30)])
def test_levels_that_a_curve_does_not_reach_are_refused(limits):
    test = Curve((0.2, 0.4, 0.9), (29.0, 31.0, 34.0))
    for pair in ((CURVE, test), (test, CURVE)):
        with pytest.raises(ValueError, match="reaches"):
            bd_rate(*pair, *limits)


def test_only_the_range_counts():
    worse_above = Curve(CURVE.rate[:4] + (20.0,), CURVE.level)
    assert bd_rate(CURVE, worse_above, 27, 32.5) == pytest.approx(0, abs=1e-9)
    assert over_all(CURVE, worse_above) > 5


def test_rate_at():
    assert CURVE.rate_at(32.5) == pytest.approx(0.5)
    assert 0.5 < CURVE.rate_at(34) < 1.1
    assert CURVE.rate_at(26.9) is None
    assert CURVE.rate_at(float("inf")) is None


def test_level_at_is_the_way_back_of_rate_at():
    for rate, level in zip(CURVE.rate, CURVE.level):
        assert CURVE.level_at(rate) == pytest.approx(level)
    assert 32.5 < CURVE.level_at(0.7) < 36
    assert CURVE.level_at(CURVE.rate_at(34)) == pytest.approx(34, abs=0.1)
    assert CURVE.level_at(0.09) is None and CURVE.level_at(2.1) is None


def test_rising_leaves_out_points_that_cost_more_for_no_more():
    points = [(3, 31), (1, 30), (1, 29), (2, 31), (2.5, 30.5), (4, 33), (5, float("inf"))]
    assert rising(points) == Curve((1, 2, 4), (30, 31, 33))


@pytest.mark.parametrize("points", [[], [(1, 30)], [(0, 30), (1, 31)], [(1, 31), (2, 30)]])
def test_too_few_points_and_no_rate_are_refused(points):
    with pytest.raises(ValueError, match="two or more points"):
        rising(points)


def test_a_curve_rises():
    with pytest.raises(ValueError, match="rise"):
        Curve((1, 2), (31, 30))
