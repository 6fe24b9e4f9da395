"""The campaign of damaged files, a few of each kind."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("nibabel")

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "campaigns"))

import mutations as campaign
from commands import Shell

pytestmark = pytest.mark.faults


def test_a_few_of_every_kind() -> None:
    tally = campaign.campaign(2 * len(campaign.KINDS), 5)
    assert tally.broken == []
    assert tally.doctor[0] > 0 < tally.doctor[65]
    assert tally.doctor == tally.convert
    assert tally.verdicts.total() == tally.convert[0]


@pytest.mark.parametrize("name", campaign.KINDS)
def test_what_befalls_a_file_is_repeatable(name: str, tmp_path: Path) -> None:
    kind = campaign.KINDS[name]
    content = kind.make(tmp_path)
    one, two = (kind.mutate(content, np.random.default_rng(3)) for _ in range(2))
    assert one == two
    assert any(kind.mutate(content, np.random.default_rng(n)) != content for n in range(9))


def test_a_crash_and_a_hang_are_outcomes() -> None:
    with Shell() as shell:
        assert shell.run("--version").code == 0
        shell._seconds = 0.0
        assert shell.run("--version").hung
        shell._seconds = 10.0
        shell._process = subprocess.Popen(["true"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        dead = shell.run("--version")
        assert (dead.code, dead.hung) == (None, False)
