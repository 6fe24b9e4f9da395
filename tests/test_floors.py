"""Who may import whom. One table here, walked over the syntax tree of every file."""

import ast
import functools
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "neuroreg"
FILES = sorted(PACKAGE.rglob("*.py"))

FLOOR = {
    **dict.fromkeys(("errors", "registry"), 0),
    **dict.fromkeys(
        ("device", "parse", "validation", "parallel", "memory", "box", "tensors", "volume", "field"), 1
    ),
    **dict.fromkeys(("inverse", "transforms"), 1),
    **dict.fromkeys(("io", "preprocess", "losses", "metrics", "nn", "checkpoints"), 2),
    "methods": 3,
    **dict.fromkeys(("refine", "pipeline", "training", "report", "cohort", "benchmark"), 4),
    **dict.fromkeys(("cli", "nipype", "__main__"), 5),
}
"""Room (first name below ``neuroreg``) -> floor. A new room is a new word here."""

SAME_FLOOR = {
    ("registry", "errors"),
    ("validation", "parse"),
    ("field", "volume"),
    ("transforms", "volume"),
    ("transforms", "field"),
    ("transforms", "inverse"),
    ("inverse", "field"),
    ("pipeline", "refine"),
    ("report", "pipeline"),
    ("cohort", "pipeline"),
    ("benchmark", "pipeline"),
    ("benchmark", "refine"),
    ("__main__", "cli"),
    ("nipype", "cli"),
}
"""(from, to): the imports allowed within one floor. Everything inside one room is allowed, except in ``methods``."""

FORBIDDEN = {("methods", "io"), ("methods", "preprocess")}
"""Lower rooms that are closed all the same: a method never sees a file, a spacing or a header."""

METHODS_SHARE = {"base", "gaussnewton", "affine"}
"""What a method may import from its own room: the contract, and the engines that finish a network's work."""

SIMPLEITK = {
    "io",
    "preprocess",
    "methods.demons",
    "methods.syn",
    "methods.greedy",
    "pipeline.resources",
    "benchmark_external",
}
"""Rooms and modules that may import SimpleITK; training machines do not have it."""

EXCHANGE = {"methods.syn", "methods.greedy", "benchmark_external"}
"""Modules that hand temporary files to the program they wrap, and read back what it wrote."""


@functools.cache
def tree(path: Path) -> ast.Module:
    """The syntax tree of a file."""
    return ast.parse(path.read_text(encoding="utf-8"))


def module_of(path: Path) -> str:
    """neuroreg/io/images.py -> io.images; a package is its folder."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room(module: str) -> str:
    """io.images -> io; benchmark_external -> benchmark (files that one room has outgrown share its name)."""
    first = module.split(".")[0]
    return "benchmark" if first.startswith("benchmark_") else first


def imports(path: Path) -> list[tuple[int, str]]:
    """(line, absolute dotted name) of everything a file imports, also inside functions."""
    found = []
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}:{node.lineno}: relative import"
            found += [(node.lineno, f"{node.module}.{alias.name}") for alias in node.names]
    return found


def internal(path: Path) -> list[tuple[int, str]]:
    """(line, module below ``neuroreg``) of the package's own imports. ``__version__`` is no module."""
    names = [
        (line, name.removeprefix("neuroreg.")) for line, name in imports(path) if name.startswith("neuroreg.")
    ]
    return [(line, name) for line, name in names if not name.startswith("__version__")]


def allowed(source: str, target: str) -> bool:
    """Whether module ``source`` may import ``target`` (both below ``neuroreg``)."""
    here, there = room(source), room(target)
    if not here:
        return False
    if (here, there) in FORBIDDEN:
        return False
    if here == there == "methods":
        own, other = source.split(".")[-1], target.split(".")[1]
        return other in METHODS_SHARE or other.startswith(
            own.split("_")[0]
        )  # gaussnewton and gaussnewton_level
    return here == there or FLOOR[there] < FLOOR[here] or (here, there) in SAME_FLOOR


def test_every_file_lives_on_a_floor() -> None:
    # neuroreg/__init__.py hands out public names on first use and imports nothing itself
    rooms = {room(module_of(path)) for path in FILES} - {""}
    assert rooms - set(FLOOR) == set(), "which floor is this on? Name it in FLOOR"


def test_a_file_imports_only_what_its_floor_may() -> None:
    bad = [
        f"{module_of(path)}:{line} may not import {name}"
        for path in FILES
        for line, name in internal(path)
        if not allowed(module_of(path), name)
    ]
    assert bad == []


def test_the_floor_rule_notices_what_it_forbids() -> None:
    assert not allowed("io.images", "metrics.image")
    assert not allowed("methods.dualprnet", "io.images")
    assert not allowed("methods.dualprnet", "methods.neuroreg")
    assert not allowed("field", "transforms")
    assert not allowed("training.trainer", "pipeline.register")
    assert allowed("methods.dualprnet", "methods.base")
    assert allowed("pipeline.register", "refine")
    assert allowed("cli.register", "pipeline.register")


@pytest.mark.parametrize("name", ["errors", "registry"])
def test_the_ground_floor_needs_the_standard_library_alone(name: str) -> None:
    outside = {n.split(".")[0] for _, n in imports(PACKAGE / f"{name}.py")} - set(sys.stdlib_module_names)
    assert outside <= {"neuroreg"}


def test_simpleitk_stays_behind_its_doors() -> None:
    users = {module_of(p) for p in FILES if any(name.split(".")[0] == "SimpleITK" for _, name in imports(p))}
    assert {m for m in users if room(m) not in SIMPLEITK and m not in SIMPLEITK} == set()


def test_only_io_reads_files_of_images() -> None:
    readers = {"ReadImage", "ReadTransform", "ImageFileReader", "ImageSeriesReader"}
    bad = {
        module_of(path)
        for path in FILES
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Attribute) and node.attr in readers and room(module_of(path)) != "io"
    }
    assert bad - EXCHANGE == set()


def prints(node: ast.AST) -> bool:
    """Whether a node is a call of print, or sys.stdout or sys.stderr."""
    if isinstance(node, ast.Call):
        return getattr(node.func, "id", "") == "print"
    return (
        isinstance(node, ast.Attribute)
        and node.attr in {"stdout", "stderr"}
        and getattr(node.value, "id", "") == "sys"
    )


def test_only_cli_prints() -> None:
    quiet = [path for path in FILES if room(module_of(path)) != "cli"]
    printing = [f"{module_of(p)}:{n.lineno}" for p in quiet for n in ast.walk(tree(p)) if prints(n)]
    rich = [
        f"{module_of(p)}:{line}" for p in quiet for line, name in imports(p) if name.split(".")[0] == "rich"
    ]
    assert printing + rich == [], "libraries return values and take a progress callback"


def test_importing_the_command_line_imports_nothing_heavy() -> None:
    code = "import sys, neuroreg.cli; print(sorted({'torch', 'SimpleITK', 'scipy', 'matplotlib'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
