"""The interfaces for Nipype: their command lines are understood, their outputs those of run.json."""

import json
import os
import shlex
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pipeline_phantoms as phantoms
import pytest
from pipeline_programs import Place, understood

from neuroreg.cli.parameters import parameters
from neuroreg.errors import DataError, NoInputError
from neuroreg.pipeline.inputs import FILES, MOVED_LABELS, ROIS

os.environ.setdefault("NO_ET", "1")  # nipype would ask its server for the newest version
pytestmark = [
    pytest.mark.skipif(find_spec("nipype") is None, reason="nipype is not installed"),
    pytest.mark.oracle,  # for the second that nipype takes to be imported
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::PendingDeprecationWarning"),
]


MOVING = "m 1;$(x)'.nii"


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Files of every kind, empty; the test works in their folder."""
    monkeypatch.chdir(tmp_path)
    names = ("f.nii", MOVING, "t 1.h5")
    for name in names:
        (tmp_path / name).touch()
    return {name: str(tmp_path / name) for name in names}


@pytest.mark.parametrize("kind", ["Register", "Affine"])
def test_every_option_of_the_command_is_an_input_and_understood(kind: str, images: dict[str, str]) -> None:
    from neuroreg import nipype

    interface = getattr(nipype, kind)()
    left_out = nipype._NOT_INPUTS
    names = nipype.NAMES
    asked = {names.get(p.name, p.name): p for p in parameters(kind.lower()) if p.name not in left_out}
    own = set(interface.inputs.copyable_trait_names()) - {"args", "environ"}
    assert own == set(asked)
    for name, one in asked.items():
        value: Any = {"flag": True, "integer": 7, "path": images[MOVING], "text": "a=$(b) c"}.get(one.kind)
        value = one.choices[0] if one.kind == "choice" else value
        setattr(interface.inputs, name, [value, value] if one.many else value)
    interface.inputs.output = "out"
    words = shlex.split(interface.cmdline)
    assert words[:2] == ["neuroreg", kind.lower()]
    told = understood(words[1:])
    assert {names.get(name, name) for name in told} == set(asked)
    assert told["set_"] == ["a=$(b) c"] * 2
    assert told["threads"] == 7
    assert told["moving"] == Path(images[MOVING])


def test_both_images_are_needed(images: dict[str, str]) -> None:
    from neuroreg.nipype import Register

    with pytest.raises(ValueError, match="moving"):
        Register(fixed=images["f.nii"]).cmdline  # noqa: B018
    line = Register(fixed=images["f.nii"], moving=images[MOVING]).cmdline
    assert understood(shlex.split(line)[1:])["output"] == Path("registered")


def test_apply_is_understood(images: dict[str, str]) -> None:
    from neuroreg.nipype import Apply

    made = Apply(transforms=[images["t 1.h5"]] * 2, image=images[MOVING], to=images["f.nii"], labels=True)
    told = understood(shlex.split(made.cmdline)[1:])
    assert told["paths"] == [Path(images[name]) for name in ("t 1.h5", "t 1.h5", MOVING)]
    assert (told["labels"], told["output"]) == (True, Path("moved.nii.gz"))


def test_the_outputs_have_the_names_that_the_program_gives_them() -> None:
    from neuroreg import nipype

    assert set(nipype._FILES.values()) == {*FILES.values(), MOVED_LABELS, ROIS}
    assert set(nipype._FILES) <= set(nipype.RunOutputs().copyable_trait_names())


def test_a_run_that_is_not_there_or_of_another_version_is_told(
    images: dict[str, str], tmp_path: Path
) -> None:
    from neuroreg.nipype import Register

    node = Register(fixed=images["f.nii"], moving=images[MOVING])
    with pytest.raises(NoInputError, match="did not finish"):
        node._list_outputs()
    (tmp_path / "registered").mkdir()
    (tmp_path / "registered" / "run.json").write_text(json.dumps({"schema_version": 3}))
    with pytest.raises(DataError, match="another version"):
        node._list_outputs()


@pytest.mark.slow
def test_a_workflow_registers_and_applies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nipype import Node, Workflow

    from neuroreg.nipype import Affine, Apply

    Place(tmp_path, real=True)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    fixed, moving = map(str, phantoms.save_pair(tmp_path))
    aligned = Node(Affine(fixed=fixed, moving=moving, threads=1), name="affine")
    apply = Node(Apply(image=moving, to=fixed), name="apply")
    flow = Workflow(name="flow", base_dir=str(tmp_path / "work"))
    flow.config["execution"] = {"crashdump_dir": str(tmp_path), "remove_unnecessary_outputs": False}
    flow.connect(aligned, "affine", apply, "transforms")
    done = {node.name: node.result.outputs for node in flow.run().nodes}
    record = json.loads(Path(done["affine"].record).read_text())
    assert done["affine"].verdict == record["qc"]["verdict"]
    assert done["affine"].figures["lncc_after"] == record["qc"]["lncc_after"]
    assert not Path(str(done["affine"].transform)).is_file()  # affine writes no composite
    assert Path(done["affine"].moved).read_bytes() == Path(done["apply"].moved).read_bytes()
