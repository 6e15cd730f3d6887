"""The house: imports run one way, without circles; docstrings and comments begin with their noun.

The rules stand in CONTRIBUTING.md.
"""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from helpers import ROOT

ROOMS = ["model", "xfr", "utils", "benchmarks"]  # each may import the ones before it
SCRIPTS = [ROOT / f"{name}.py" for name in ("train", "encode", "decode", "test")]
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for room in ROOMS
    for path in sorted((ROOT / room).rglob("*.py"))
}
TREES = {name: ast.parse(path.read_text("utf-8")) for name, path in MODULES.items()}
TESTS = sorted((ROOT / "tests").rglob("*.py"))
DOCUMENTED = ast.Module, ast.ClassDef, ast.FunctionDef
# A first word that hides what is spoken of.
RIDDLE = re.compile(
    r"(What|Whatever|Which|Those|These|That of|That which|As|The same|Of|Its|It|They"
    r"|How|Else|Or else|In place of|By|With)\b"
)


def imported(tree: ast.AST) -> Iterator[str]:
    """The modules of the project that a module imports, also within functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        yield from (name for name in names if name in MODULES)


def at_once(tree: ast.Module) -> ast.Module:
    """A module without what its functions import when they are called."""

    class Functions(ast.NodeTransformer):
        def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
            return None

    return Functions().visit(ast.parse(ast.unparse(tree)))


@pytest.mark.parametrize("name", MODULES)
def test_a_module_imports_its_own_room_and_those_below_alone(name):
    level = ROOMS.index(name.split(".")[0])
    above = [other for other in imported(TREES[name]) if ROOMS.index(other.split(".")[0]) > level]
    assert not above


def test_no_modules_import_each_other():
    graph = {
        name: {other for other in imported(at_once(tree)) if other != name}
        for name, tree in TREES.items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as circle:
        pytest.fail(" -> ".join(circle.args[1]))


def texts(path: Path) -> Iterator[tuple[int, str]]:
    """The line and the text of each docstring, and of each comment's first line."""
    source = path.read_text("utf-8")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(
            node
        ):
            yield node.body[0].lineno, ast.get_docstring(node)
    above = False
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        comment = token.type == tokenize.COMMENT
        if comment and not (above and token.line.strip().startswith("#")):
            yield token.start[0], token.string.lstrip("# ")
        if token.type != tokenize.NL:
            above = comment


@pytest.mark.parametrize("path", [*SCRIPTS, *MODULES.values(), *TESTS], ids=lambda path: path.stem)
def test_a_docstring_or_comment_begins_with_its_noun_or_verb(path):
    riddles = [
        f"{path.name}:{line}: {text:.60}" for line, text in texts(path) if RIDDLE.match(text)
    ]
    assert not riddles
