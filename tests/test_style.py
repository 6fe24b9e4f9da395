"""The measures of the house: short functions and files, everything public documented, nothing swallowed."""

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "neuroreg"
FILES = sorted(PACKAGE.rglob("*.py"))
FUNCTION_LINES = 45
FILE_LINES = 350

Function = ast.FunctionDef | ast.AsyncFunctionDef
each_file = pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))


@functools.cache
def tree(path: Path) -> ast.Module:
    """The syntax tree of a file."""
    return ast.parse(path.read_text(encoding="utf-8"))


def functions(path: Path) -> list[Function]:
    """Every function of a file, nested ones too."""
    return [n for n in ast.walk(tree(path)) if isinstance(n, Function)]


def public(path: Path) -> Iterator[tuple[str, ast.Module | ast.ClassDef | Function]]:
    """The module, its public classes and functions, and the public methods of public classes."""
    yield path.name, tree(path)
    for node in tree(path).body:
        if isinstance(node, (*Function.__args__, ast.ClassDef)) and not node.name.startswith("_"):
            yield node.name, node
            if isinstance(node, ast.ClassDef):
                yield from (
                    (f"{node.name}.{m.name}", m)
                    for m in node.body
                    if isinstance(m, Function) and not m.name.startswith("_")
                )


@each_file
def test_functions_are_short(path: Path) -> None:
    long = {f.name: f.end_lineno - f.lineno + 1 for f in functions(path)}
    assert {name: lines for name, lines in long.items() if lines > FUNCTION_LINES} == {}


@each_file
def test_files_are_short(path: Path) -> None:
    assert path.read_text(encoding="utf-8").count("\n") <= FILE_LINES


@each_file
def test_everything_public_is_documented(path: Path) -> None:
    # nn.Module.forward and the like are public methods too: their docstring states the shapes
    assert [name for name, node in public(path) if not ast.get_docstring(node)] == []


@each_file
def test_every_function_says_what_it_returns(path: Path) -> None:
    assert [f.name for f in functions(path) if f.returns is None] == []


@each_file
def test_nothing_is_swallowed(path: Path) -> None:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"line {node.lineno}: bare except"
            silent = all(
                isinstance(n, ast.Pass) or (isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant))
                for n in node.body
            )
            assert not silent, f"line {node.lineno}: an error is dropped without a word"


@each_file
def test_the_repository_speaks_of_the_product_alone(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert [word for word in ("/work/", "/root/", "/home/") if word in text] == []
