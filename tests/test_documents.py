"""The documents: where their links lead, and the files that they name."""

import re
from functools import cache

import pytest
from helpers import ROOT

PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
TYPED = ROOT / "docs/new_codec.md"  # names files that its reader makes; test_new_codec.py runs it
FENCE = re.compile(r"^ *```.*?^ *```", re.MULTILINE | re.DOTALL)


@cache
def anchors(page):
    """The anchors of a page's headings, as GitHub makes them."""
    text = FENCE.sub("", page.read_text("utf-8"))
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def name(page):
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_to_files_and_headings(page):
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text("utf-8")):
        path, _, anchor = target.partition("#")
        if path.startswith("http"):
            continue
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


@pytest.mark.parametrize("page", [page for page in PAGES if page != TYPED], ids=name)
def test_python_files_that_are_named_exist(page):
    path = r"`((?:model|xfr|utils|benchmarks|tests)/[\w/]+\.py)`"
    named = re.findall(path, page.read_text("utf-8"))
    assert [file for file in named if not (ROOT / file).exists()] == []


def test_every_experiment_begins_with_the_generation_that_it_measured():
    text = (ROOT / "docs/experiments.md").read_text("utf-8")
    _, _, *topics = text.split("\n## ")
    for topic in topics:
        if not topic.startswith(("Measures and other codecs", "Robustness")):
            introduction, *sections = topic.split("\n### ")
            for section in sections:
                heading, _, beginning = section.splitlines()[:3]
                assert "generation" in (introduction + beginning).lower(), heading
