"""The history of a run, and the curves beside it."""

import math

from utils.history import add_curve


def test_epochs_without_a_curve_have_no_number_in_it():
    curves: dict[str, list[float]] = {}
    add_curve(curves, {"bpp_50": 0.5}, epoch=3)  # as in a run that an older program began
    add_curve(curves, {"bpp_50": 0.4, "psnr_50": 30.0}, epoch=4)
    add_curve(curves, {"psnr_50": 31.0}, epoch=5)
    known = {name: [not math.isnan(value) for value in column] for name, column in curves.items()}
    no, yes = False, True
    assert known == {"bpp_50": [no, no, yes, yes, no], "psnr_50": [no, no, no, yes, yes]}


def test_a_curve_before_the_first_epoch_is_no_column():
    curves: dict[str, list[float]] = {}
    add_curve(curves, {"bpp_50": 0.5}, epoch=0)
    add_curve(curves, {"bpp_50": 0.4}, epoch=1)
    assert curves == {"bpp_50": [0.4]}
