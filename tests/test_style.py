"""The measures of the house: short functions and files, everything public documented, nothing swallowed."""

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

from neuroreg import errors

PACKAGE = Path(__file__).resolve().parents[1] / "neuroreg"
FILES = sorted(PACKAGE.rglob("*.py"))
FUNCTION_LINES = 45
FILE_LINES = 350

Function = ast.FunctionDef | ast.AsyncFunctionDef


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


def where(path: Path, node: ast.AST) -> str:
    """io/images.py:12"""
    return f"{path.relative_to(PACKAGE)}:{getattr(node, 'lineno', 1)}"


def test_functions_are_short() -> None:
    lines = {(where(path, f), f.name): f.end_lineno - f.lineno + 1 for path in FILES for f in functions(path)}
    assert {key: count for key, count in lines.items() if count > FUNCTION_LINES} == {}


def test_files_are_short() -> None:
    lines = {str(path.relative_to(PACKAGE)): path.read_text(encoding="utf-8").count("\n") for path in FILES}
    assert {name: count for name, count in lines.items() if count > FILE_LINES} == {}


def test_everything_public_is_documented() -> None:
    # nn.Module.forward and the like are public methods too: their docstring states the shapes
    bare = [
        f"{where(p, node)} {name}" for p in FILES for name, node in public(p) if not ast.get_docstring(node)
    ]
    assert bare == []


def test_every_function_says_what_it_returns() -> None:
    assert [f"{where(p, f)} {f.name}" for p in FILES for f in functions(p) if f.returns is None] == []


def test_nothing_is_swallowed() -> None:
    handlers = [(p, n) for p in FILES for n in ast.walk(tree(p)) if isinstance(n, ast.ExceptHandler)]
    assert [where(p, n) for p, n in handlers if n.type is None or all(idle(s) for s in n.body)] == []


def idle(statement: ast.stmt) -> bool:
    """Whether a statement does nothing: pass, or a bare constant such as ... or a string."""
    return isinstance(statement, ast.Pass) or (
        isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    )


INNER = ("volume.py", "transforms.py", "metrics", "methods", "preprocess")
"""Rooms whose errors a programmer sees: a user is stopped before, by a floor above them."""


def test_every_error_a_user_sees_says_what_to_do() -> None:
    names = {
        name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, Exception)
    }
    mute = [
        where(path, call)
        for path in FILES
        if path.relative_to(PACKAGE).parts[0] not in INNER
        for call in ast.walk(tree(path))
        if isinstance(call, ast.Call)
        and getattr(call.func, "id", "") in names - {"NeuroregError"}
        and "remedy" not in {keyword.arg for keyword in call.keywords}
    ]
    assert mute == []


def test_the_repository_speaks_of_the_product_alone() -> None:
    words = ("/work/", "/root/", "/home/")
    assert [
        f"{path.name}: {w}" for path in FILES for w in words if w in path.read_text(encoding="utf-8")
    ] == []
