"""examples/pipelines: every file is read by what it is written for, and tried with a neuroreg that pretends."""

import ast
import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from pipeline_programs import PIPELINES, ROOT, Place, understood

import neuroreg

SCRIPTS = sorted(PIPELINES.glob("*.sh"))
NOT_A_RECIPE = {"README.md", "nextflow.config", "register.boutiques.json", "batch.boutiques.json"}


def program(name: str) -> str:
    """The path of a program, beside this Python or on the path; the test is skipped without it."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """A working folder whose neuroreg notes its words."""
    return Place(tmp_path)


def test_the_readme_says_something_about_every_file() -> None:
    text = (PIPELINES / "README.md").read_text(encoding="utf-8")
    files = {path.name for path in PIPELINES.iterdir() if path.is_file()} - NOT_A_RECIPE
    assert {name for name in files if f"`{name}" not in text} == set()
    named = set(re.findall(r"`([\w.]+\.(?:sh|py|nf|json))", text)) - {"run.json"}
    assert {name for name in named if not (PIPELINES / name).is_file()} == set()


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shell_scripts_parse_and_shellcheck_is_content(script: Path) -> None:
    assert subprocess.run(["bash", "-n", script], check=False).returncode == 0
    done = subprocess.run([program("shellcheck"), script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("script", sorted(PIPELINES.glob("*.py")), ids=lambda path: path.name)
def test_python_recipes_compile_and_say_what_they_do(script: Path) -> None:
    assert ast.get_docstring(ast.parse(script.read_text(encoding="utf-8")))


# -- loop.sh


def save_manifest(path: Path, *rows: tuple[str, str, str], head: str = "\ufeffid\tfixed\tmoving\r\n") -> None:
    path.write_text(head + "\r\n".join("\t".join(row) for row in rows), encoding="utf-8")


def test_the_loop_goes_on_after_a_failure_and_tells_it_at_the_end(place: Place) -> None:
    data = place.folder / "da ta"
    data.mkdir()
    rows = (
        ("a b", "f $(x).nii", "m;1.nii"),
        ("bad", "f.nii", "exit65.nii"),
        ("done", "f.nii", "m.nii"),
        ("../up", "f.nii", "m.nii"),
        ("none", "f.nii", ""),
        ("last", "/abs/f.nii", "m.nii"),
    )
    save_manifest(data / "co hort.tsv", *rows)
    (place.folder / "o ut" / "done").mkdir(parents=True)
    (place.folder / "o ut" / "done" / "run.json").touch()
    done = place.run(PIPELINES / "loop.sh", "da ta/co hort.tsv", "o ut", "--method", "affine")
    assert done.returncode == 8
    assert done.stderr.splitlines()[-4:] == ["failed, with exit codes:", "bad (65)", "../up (2)", "none (2)"]
    assert "done: done before" in done.stderr
    ends = ["--overwrite", "--method", "affine"]
    calls = place.notes()
    assert calls == [
        ["register", f"{data}/f $(x).nii", f"{data}/m;1.nii", "-o", "o ut/a b", *ends],
        ["register", f"{data}/f.nii", f"{data}/exit65.nii", "-o", "o ut/bad", *ends],
        ["register", "/abs/f.nii", f"{data}/m.nii", "-o", "o ut/last", *ends],
    ]
    assert understood(calls[0])["method"] == "affine"
    again = place.run(PIPELINES / "loop.sh", "da ta/co hort.tsv", "o ut")
    assert again.returncode == 8
    assert [call[2] for call in place.notes()] == [f"{data}/exit65.nii"]


def test_a_loop_without_failures_leaves_with_0_and_keeps_what_is_on_its_standard_input(place: Place) -> None:
    save_manifest(place.folder / "c.tsv", ("a", "f", "m"), ("b", "f", "m"), head="id\tfixed\tmoving\n")
    assert place.run(PIPELINES / "loop.sh", "c.tsv", "-out", given="x\ty\tz\n").returncode == 0
    assert len(place.notes()) == 2
    assert (place.folder / "-out" / "b" / "run.json").exists()


@pytest.mark.parametrize("code", [130, 143])
def test_a_loop_that_is_stopped_stops(place: Place, code: int) -> None:
    save_manifest(place.folder / "c.tsv", ("a", "f", f"exit{code}"), ("b", "f", "m"))
    assert place.run(PIPELINES / "loop.sh", "c.tsv", "out").returncode == code
    assert len(place.notes()) == 1


@pytest.mark.parametrize("head", ["id,fixed,moving\n", "fixed\tmoving\n", "", "a\tf\tm\n"])
def test_a_loop_refuses_another_kind_of_table(place: Place, head: str) -> None:
    save_manifest(place.folder / "c.tsv", ("a", "f", "m"), head=head)
    assert place.run(PIPELINES / "loop.sh", "c.tsv", "out").returncode == 2
    assert place.run(PIPELINES / "loop.sh", "c.tsv").returncode == 2
    assert place.notes() == []


# -- Makefile


def make(place: Place, *words: str) -> subprocess.CompletedProcess[str]:
    return place.run(program("make"), "-f", PIPELINES / "Makefile", "FIXED=fixed.nii.gz", *words)


@pytest.fixture
def folder_of_images(place: Place) -> Place:
    """fixed.nii.gz and images/{a,b}.nii.gz, empty."""
    (place.folder / "images").mkdir()
    for name in ("fixed", "images/a", "images/b"):
        (place.folder / f"{name}.nii.gz").touch()
    return place


def test_make_makes_what_is_missing_or_older_and_nothing_else(folder_of_images: Place) -> None:
    place = folder_of_images
    planned = [line for line in make(place, "-n").stdout.splitlines() if line.startswith("neuroreg")]
    assert [understood(shlex.split(line)[1:])["moving"].name for line in planned[:2]] == [
        "a.nii.gz",
        "b.nii.gz",
    ]
    assert shlex.split(planned[2])[1:4] == ["report", "--group", "out"]
    assert make(place, "-j2", "THREADS=3", "OPTIONS=--method affine").returncode == 0
    calls = sorted(place.notes())
    assert [call[0] for call in calls] == ["register", "register", "report"]
    assert understood(calls[0])["threads"] == 3
    assert understood(calls[2])["group"] == Path("out")
    assert make(place, "-q").returncode == 0
    (place.folder / "images" / "c.nii.gz").touch()
    assert make(place).returncode == 0
    assert [call[-1] for call in place.notes()] == ["images/c.nii.gz", "--overwrite"]
    newer = (place.folder / "out/a/run.json").stat().st_mtime + 5
    os.utime(place.folder / "images/a.nii.gz", (newer, newer))
    assert make(place, "cases").returncode == 0
    assert [call[-1] for call in place.notes()] == ["images/a.nii.gz"]


def test_make_goes_on_with_k_and_a_failed_case_has_no_target(folder_of_images: Place) -> None:
    place = folder_of_images
    for name in ("exit65", "late"):
        (place.folder / "images" / f"{name}.nii.gz").touch()
    done = make(place, "-k", "-j2")
    assert done.returncode == 2
    assert {path.parent.name for path in (place.folder / "out").glob("*/run.json")} == {"a", "b"}
    assert not (place.folder / "out" / "group.html").exists()
    assert "Deleting file 'out/late/run.json'" in done.stderr  # it was written, then the command failed


# -- main.nf


def nextflow_script() -> str:
    """The shell part of the process, as it stands in the file."""
    return (PIPELINES / "main.nf").read_text(encoding="utf-8").split('"""')[1].strip()


def test_the_command_of_the_nextflow_process_is_understood() -> None:
    values = {"fixed": "fixed/f\\ 1.nii", "moving": "moving/m.nii", "id": "a", "task.cpus": "2"}
    values["params.options"] = "--method affine"
    text = re.sub(r"\$\{(.+?)\}", lambda found: values.pop(found.group(1)), nextflow_script())
    assert values == {}
    words = shlex.split(text)
    assert words[0] == "neuroreg"
    told = understood(words[1:])
    assert (told["fixed"], told["output"], told["threads"]) == (Path("fixed/f 1.nii"), Path("a"), 2)


# -- job arrays

_SBATCH = """#!/usr/bin/env bash
printf '%s\\0' "$@" >> submitted; printf '\\n' >> submitted
echo "$((16 + $(wc -l < submitted)));cluster"
"""
COHORT = ("co hort.tsv", "-o", "o ut", "--method", "affine", "--set", "dof=6")


def test_slurm_gets_an_array_and_one_job_after_it(place: Place) -> None:
    place.program("sbatch", _SBATCH)
    script = PIPELINES / "slurm_array.sh"
    done = place.run(script, 3, *COHORT)
    assert (done.returncode, done.stdout) == (0, "submitted the array 17 and, after it, 18\n")
    lines = (place.folder / "submitted").read_text().splitlines()
    first, last = ([*line.split("\0")[:-1]] for line in lines)
    assert first == ["--parsable", "--array=1-3", str(script), "3", *COHORT]
    assert last == ["--parsable", "--dependency=afterany:17", str(script), "3", *COHORT]
    assert place.notes() == []


def test_a_task_of_a_slurm_array_takes_its_share_and_the_last_job_all(place: Place) -> None:
    script = PIPELINES / "slurm_array.sh"
    job = {"SLURM_JOB_ID": "17", "SLURM_CPUS_PER_TASK": "2"}
    alone = {**job, "SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "1"}  # submitted again by --array=3
    assert place.run(script, 8, *COHORT, **alone).returncode == 0
    assert place.run(script, 8, *COHORT, **job).returncode == 0
    part, rest = map(understood, place.notes())
    assert part.pop("shard") == "3/8"
    assert part == rest
    assert (rest["cohort"], rest["resume"], rest["threads"]) == (Path("co hort.tsv"), True, 2)
    assert place.run(script, 8, "exit8.tsv", "-o", "out", **job).returncode == 8


@pytest.mark.parametrize("words", [(), ("3",), ("c.tsv", "-o", "out"), ("0", "c.tsv")])
@pytest.mark.parametrize("script", ["slurm_array.sh", "pbs_array.sh"])
def test_a_job_array_without_parts_is_refused(place: Place, script: str, words: tuple[str, ...]) -> None:
    assert place.run(PIPELINES / script, *words).returncode == 2


_QSUB = """#!/usr/bin/env bash
number=$(($(ls job-* 2> /dev/null | wc -l) + 1))
printf '%s\\n' "$@" > "job-$number.words"; cat > "script-$number"
echo "$number[].server"
"""


def test_pbs_gets_the_words_as_they_are(place: Place) -> None:
    place.program("qsub", _QSUB)
    assert place.run(PIPELINES / "pbs_array.sh", 3, *COHORT, TIME="00:10:00").returncode == 0
    first, last = ((place.folder / f"job-{i}.words").read_text().split("\n") for i in (1, 2))
    assert first[first.index("-J") + 1] == "1-3"
    assert "walltime=00:10:00" in first
    assert last[last.index("-W") + 1] == "depend=afterany:1[].server"
    inside = {"PBS_JOBID": "1[2].server", "NCPUS": "2", "PBS_ARRAY_INDEX": "2"}
    for number in (1, 2):
        assert place.run("bash", f"script-{number}", **inside).returncode == 0
    part, rest = map(understood, place.notes())
    assert part.pop("shard") == "2/3"
    assert part == rest
    assert (rest["cohort"], rest["output"], rest["threads"]) == (Path("co hort.tsv"), Path("o ut"), 2)


def test_pbs_has_no_array_of_one(place: Place) -> None:
    place.program("qsub", _QSUB)
    assert place.run(PIPELINES / "pbs_array.sh", 1, *COHORT).returncode == 0
    assert len([*place.folder.glob("job-*")]) == 1
    assert "depend" not in (place.folder / "job-1.words").read_text()


# -- Boutiques


@pytest.mark.parametrize("name", ["register", "batch"])
def test_the_boutiques_descriptors_are_what_the_command_line_says(name: str) -> None:
    file = f"{name}.boutiques.json"
    made = runpy.run_path(str(PIPELINES / "boutiques.py"))["descriptors"]()
    assert (PIPELINES / file).read_text(encoding="utf-8") == made[file], "run examples/pipelines/boutiques.py"
    done = subprocess.run(
        [program("bosh"), "validate", PIPELINES / file], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout.strip()) == (0, "OK")


VALUES = {"File": "/data/a b.nii.gz", "Flag": True, "Number": 3}


def test_what_boutiques_makes_of_every_input_is_understood(tmp_path: Path) -> None:
    simulate = program("bosh")
    for name in ("register", "batch"):
        path = PIPELINES / f"{name}.boutiques.json"
        asked = {}
        for entry in json.loads(path.read_text(encoding="utf-8"))["inputs"]:
            value = VALUES.get(entry["type"], entry.get("value-choices", ["a=1"])[0])
            value = max(value, entry.get("minimum", 0)) if entry["type"] == "Number" else value
            asked[entry["id"]] = [value, value] if entry.get("list") else value
        (tmp_path / "asked.json").write_text(json.dumps(asked), encoding="utf-8")
        words = [simulate, "exec", "simulate", path, "-i", tmp_path / "asked.json"]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        told = understood(shlex.split(done.stdout.splitlines()[-1])[1:])
        assert {key.strip("_") for key in told} == set(asked)
        assert told["set_"] == ["a=1", "a=1"]
        assert told["threads"] == 3


# -- Containerfile


def instructions() -> list[tuple[str, str]]:
    """(INSTRUCTION, the rest) of the Containerfile, continued lines joined."""
    text = (PIPELINES / "Containerfile").read_text(encoding="utf-8")
    lines = re.sub(r"\\\n", " ", re.sub(r"^#.*\n", "", text, flags=re.MULTILINE)).splitlines()
    return [
        (word, " ".join(rest.split())) for word, _, rest in (line.partition(" ") for line in lines if line)
    ]


def test_the_image_is_built_of_files_that_exist_as_the_readme_installs() -> None:
    found = instructions()
    copied = [rest.split()[:-1] for word, rest in found if word == "COPY" and not rest.startswith("--from=")]
    assert {name for names in copied for name in names if not (ROOT / name).exists()} == set()
    installs = [rest for word, rest in found if word == "RUN" and "pip install" in rest]
    assert [rest.replace("--no-cache-dir ", "") for rest in installs][
        -1
    ] == "pip install -c constraints.txt ."
    assert "\npip install -c constraints.txt . && neuroreg demo\n" in (ROOT / "README.md").read_text()
    assert "$(grep '^torch==' constraints.txt)" in installs[0]
    assert re.search(r"^torch==", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    needed = {"pyproject.toml", "README.md", "LICENSE", "constraints.txt", "neuroreg", "weights"}
    assert {name for names in copied for name in names} == needed
    assert [rest.partition(":")[2].partition(" ")[0] for word, rest in found if word == "FROM"] == [
        "${PYTHON}"
    ] * 2


def test_the_image_runs_neuroreg_as_nobody_in_particular() -> None:
    found = instructions()
    final = found[max(i for i, (word, _) in enumerate(found) if word == "FROM") :]
    users = [rest for word, rest in final if word == "USER"]
    assert users
    assert all(int(part) > 0 for part in users[-1].split(":"))
    assert dict(final)["ENTRYPOINT"] == '["neuroreg"]'
    assert not any("root" in rest for word, rest in final if word == "USER")
    labels = next(rest for word, rest in final if word == "LABEL")
    for key in ("title", "description", "licenses", "version"):
        assert f"org.opencontainers.image.{key}=" in labels
    assert f'VERSION="{neuroreg.__version__}"' in dict(final)["ARG"]


def test_hadolint_is_content_with_the_image() -> None:
    done = subprocess.run(
        [program("hadolint"), PIPELINES / "Containerfile"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "")
