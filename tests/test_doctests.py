import doctest
import pkgutil
from importlib import import_module
from pathlib import Path

import pytest
from helpers import ROOT

PACKAGES = {package: [str(ROOT / package)] for package in ("model", "xfr", "utils", "benchmarks")}
NAMES = [*PACKAGES] + [
    f"{package}.{module.name}"
    for package, path in PACKAGES.items()
    for module in pkgutil.iter_modules(path)
]
WITH_EXAMPLES = [
    name for name in NAMES if ">>>" in Path(import_module(name).__file__).read_text("utf-8")
]


def test_there_are_modules_with_examples():
    expected = {"model.bytestream", "model.entropy", "xfr", "xfr.file", "benchmarks.bdrate"}
    assert expected <= set(WITH_EXAMPLES)


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_the_examples_in_docstrings_are_true(name):
    result = doctest.testmod(import_module(name), optionflags=doctest.ELLIPSIS)
    assert result.attempted and not result.failed
