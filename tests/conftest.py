"""Found by pytest before any test: puts this folder on the path, so that tests/faults can use the same phantoms."""

import os
import shutil
from pathlib import Path

import pytest

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
