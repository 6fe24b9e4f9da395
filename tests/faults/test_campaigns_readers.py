"""The readers of tables, JSON, TOML, YAML and weights on sound and on damaged input, as the campaign fuzzes them."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "campaigns"))

import fuzz_readers as campaign
from test_fuzz import damaged

from neuroreg.errors import DataError, NeuroregError

pytestmark = pytest.mark.faults

DEEP = b"[" * 100_000
BOMB = b"\n".join(
    [
        b"a: &a [x, x]",
        *(b"%c: &%c [*%c, *%c, *%c, *%c, *%c, *%c, *%c]" % (i, i, *[i - 1] * 7) for i in range(98, 115)),
    ]
)
HOSTILE = [
    b"", b"\0", b"null", b"[]", b'"x"', b"NaN", DEEP, b'{"a":' * 100_000, b"1" * 5000, b"\xff\xfe", b"- !!bool x",
    b"- !!timestamp x", b"- 2020-99-99", b"a: &a [*a]", BOMB,
    b'{"schema_version": 2, "config": {}, "inputs": {"fixed": 1}}',
    b'{"schema_version": 2, "config": {"also": 1}, "inputs": {"also:0": {"name": "%s", "sha256": "0"}}}' % (b"x" * 300),
    b"label,group\n" + b"9" * 5000 + b",a\n", b"method: affine\nconfig: [1]\n", b"a = " + DEEP[:5000],
]  # fmt: skip


@pytest.fixture(autouse=True)
def _weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """The campaign names the weights by the environment."""
    monkeypatch.setenv("NEUROREG_HOME", str(Path(__file__).resolve().parents[2] / "weights"))


@pytest.mark.parametrize("name", campaign.READERS)
def test_a_reader_returns_or_refuses(name: str, tmp_path: Path) -> None:
    reader = campaign.READERS[name]
    for content in (*reader.seeds, *HOSTILE):
        campaign.once(reader, tmp_path, content)
    for number in range(20):
        generator = np.random.default_rng(number)
        content = reader.seeds[number % len(reader.seeds)]
        campaign.once(reader, tmp_path, damaged(content, len(content), generator))


@pytest.mark.parametrize(
    "name", ["table", "groups", "landmarks", "run.json", "journal", "configuration", "recipe beside weights"]
)
def test_the_sound_ones_are_read(name: str, tmp_path: Path) -> None:
    reader = campaign.READERS[name]
    (tmp_path / reader.file).write_bytes(reader.seeds[0])
    try:
        reader.read(tmp_path / reader.file)
    except NeuroregError as error:
        pytest.fail(str(error))


def test_what_a_reader_lets_through_is_found(tmp_path: Path) -> None:
    def broken(path: Path) -> object:
        raise KeyError(path.name)

    with pytest.raises(KeyError):
        campaign.once(campaign.Reader("a", broken, []), tmp_path, b"")


def test_a_bomb_of_aliases_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(BOMB)
    with pytest.raises(DataError, match="YAML"):
        campaign.READERS["recipe"].read(tmp_path / "a.yaml")


def test_what_libfuzzer_says_is_counted() -> None:
    said = "#2 INITED cov: 3 ft: 9 corp: 1\n#4096 pulse cov: 5 ft: 12 corp: 3\n"
    said += "stat::number_of_executed_units: 5000\nstat::peak_rss_mb: 77\n"
    assert campaign.counted(said, 0) == {"inputs": 5000, "features": 12, "peak MB": 77, "broken": 0}
    assert campaign.counted("#77 x ft: 2 ", 77) == {"inputs": 77, "features": 2, "peak MB": 0, "broken": 1}


def test_atheris_runs_a_reader(tmp_path: Path) -> None:
    pytest.importorskip("atheris", reason="atheris has wheels for Linux and macOS only")
    (count,) = campaign.campaign(["groups"], 1, 1, tmp_path).values()
    assert count["inputs"] > 10
    assert not count["broken"]
