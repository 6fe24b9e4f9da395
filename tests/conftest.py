"""Found by pytest before any test: puts this folder on the path, so that tests/faults can use the same phantoms."""

import io
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest

# Their asserts shall tell what they saw, as those of tests do.
_CATALOGUE = ("files", "values", "geometry", "system", "text", "batch")
pytest.register_assert_rewrite("scene", *(f"catalogue_{room}" for room in _CATALOGUE))

# The test processes share the cores: more threads in each would only wait for one another.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nobody changes, its inputs beside it."""
    from finished_runs import save_run

    return save_run(tmp_path_factory.mktemp("finished"))


@pytest.fixture
def own_run(finished_run: Path, tmp_path: Path) -> Path:
    """The same run for one test to change; its inputs lie in ``tmp_path``."""
    shutil.copytree(finished_run.parent, tmp_path, dirs_exist_ok=True)
    return tmp_path / finished_run.name


_SOFTWARE_GL = ["--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--no-sandbox"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A Chromium that draws in software; skips where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    named = ("chromium", "chromium-browser", "google-chrome")
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, named)), None)
    if found is None:
        pytest.skip("no Chromium on the path, and CHROMIUM does not name one")
    with playwright.sync_playwright() as engine:
        chromium = engine.chromium.launch(executable_path=found, args=_SOFTWARE_GL)
        yield chromium
        chromium.close()


@pytest.fixture(scope="session", autouse=True)
def _every_answer_keeps_to_its_schema() -> Iterator[None]:
    """Whatever a test makes a command put on stdout with --json is what ``neuroreg/schemas/json-1.json`` says."""
    from neuroreg.cli import console

    def checked(emit: Callable[..., None]) -> Callable[..., None]:
        def told(*given: object, **named: object) -> None:
            with redirect_stdout(io.StringIO()) as out:
                emit(*given, **named)
            from schema_records import check

            check(json.loads(out.getvalue()), f"json-{console.JSON_SCHEMA}")
            sys.stdout.write(out.getvalue())

        return told

    with pytest.MonkeyPatch.context() as patched:
        for name in ("emit", "emit_error"):
            patched.setattr(console, name, checked(getattr(console, name)))
        yield
