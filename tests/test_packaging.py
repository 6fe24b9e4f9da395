"""What is installed: one version, one entry point, the weights inside, no dependency too many or too few."""

import ast
import importlib.metadata
import os
import re
import resource
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import neuroreg
from neuroreg.cli import COMMANDS
from neuroreg.errors import NeuroregError
from neuroreg.pipeline.doctor import CORE

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
MODULE_OF = {"simpleitk": "SimpleITK", "pillow": "PIL", "pyyaml": "yaml", "antspyx": "ants", "pybids": "bids"}
"""Distributions whose module is called otherwise."""


def distribution(requirement: str) -> str:
    """'torch>=2.11.0' -> 'torch', in lower case."""
    return re.split(r"[\s<>=!~\[;]", requirement, maxsplit=1)[0].lower().replace("_", "-")


def python(code: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run code in a new interpreter that finds neuroreg the way this one does."""
    paths = [str(Path(neuroreg.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), **environment}
    return subprocess.run(
        [sys.executable, "-c", code], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )


def test_one_version_everywhere() -> None:
    assert f"\n## {neuroreg.__version__}" in (ROOT / "CHANGELOG.md").read_text()
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == neuroreg.__version__
    try:
        assert importlib.metadata.version("neuroreg") == neuroreg.__version__
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("run from a checkout that is not installed")


def test_the_console_script_leads_to_the_command_line() -> None:
    assert PROJECT["project"]["scripts"] == {"neuroreg": "neuroreg.cli:main"}
    from neuroreg.cli import main

    assert callable(main)


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["methods"], ["models", "list"]], ids=" ".join
)
def test_help_and_lists_come_without_torch(arguments: list[str], tmp_path: Path) -> None:
    code = (
        "import sys; from neuroreg.cli import run; code = run(sys.argv[1:])\n"
        "assert not {'torch', 'SimpleITK'} & set(sys.modules), 'heavy import'\n"
        "sys.exit(code)"
    )
    done = python(f"import sys; sys.argv = ['', *{arguments!r}]\n{code}", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout


@pytest.mark.parametrize(("arguments", "seconds"), [(["--help"], 0.7), (["models", "list"], 1.0)])
def test_help_and_lists_are_quick(arguments: list[str], seconds: float, tmp_path: Path) -> None:
    best = float("inf")
    for _ in range(3):  # processor seconds, the best of three: the machine may be busy
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert python(f"from neuroreg.cli import run; run({arguments!r})", tmp_path).returncode == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        best = min(best, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert best <= seconds


def test_the_weights_are_found_from_any_folder(tmp_path: Path) -> None:
    code = "import sys; from neuroreg.checkpoints import manifest, weights_home; manifest(); print(weights_home())"
    done = python(code, tmp_path)
    assert done.returncode == 0, done.stderr
    assert (Path(done.stdout.strip()) / "manifest.json").is_file()


def test_the_wheel_carries_the_weights_where_they_are_looked_for() -> None:
    wheel = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert wheel["force-include"] == {"weights": "neuroreg/_weights"}


def test_the_package_says_it_is_typed() -> None:
    assert (ROOT / "neuroreg" / "py.typed").is_file()


def imported() -> set[str]:
    """Top-level names of everything neuroreg/ imports that is neither its own nor the standard library's."""
    names = set()
    for path in (ROOT / "neuroreg").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                names.add(node.module.split(".")[0])
    return names - set(sys.stdlib_module_names) - {"neuroreg"}


def modules(*requirements: str) -> set[str]:
    """The module each requirement brings."""
    names = {distribution(requirement) for requirement in requirements}
    return {MODULE_OF.get(name, name).replace("-", "_") for name in names}


def test_every_dependency_is_used_and_every_import_declared() -> None:
    core = modules(*PROJECT["project"]["dependencies"])
    optional = PROJECT["project"]["optional-dependencies"]
    used = imported()
    assert core - used == set()
    assert used <= core | modules(
        *(r for extra in ("ants", "batch", "bids", "greedy", "nipype", "train") for r in optional[extra])
    )


def test_doctor_asks_for_nothing_that_is_not_a_dependency() -> None:
    assert modules(*CORE) <= modules(*PROJECT["project"]["dependencies"])


def test_the_core_stays_small() -> None:
    dependencies = PROJECT["project"]["dependencies"]
    assert len(modules(*dependencies)) == len(dependencies) <= 16


def test_every_declared_package_has_a_tested_version() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {distribution(line) for line in lines if line and not line.startswith("#")}
    groups = [PROJECT["project"]["dependencies"], *PROJECT["project"]["optional-dependencies"].values()]
    wanted = {distribution(r) for group in groups for r in group} - {"neuroreg"}
    assert wanted - pinned == set()
    assert all("==" in line for line in lines if line and not line.startswith("#"))


def test_the_readme_says_how_to_install_and_test() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "\npip install -c constraints.txt . && neuroreg demo\n" in text
    assert "<!-- test command -->\n```bash\npip install -c constraints.txt '.[test]' && pytest\n```\n" in text


def test_the_readme_explains_every_exit_code() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    table = text[text.index("## Exit codes") : text.index("## Limits")]
    codes = {error.exit_code for error in NeuroregError.__subclasses__()} | {0, 130, 143, 141}
    assert {code for code in codes if not re.search(rf"\b{code}\b", table)} == set()


def test_the_readme_names_every_command() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [name for name in COMMANDS if f"`{name}`" not in text] == []
