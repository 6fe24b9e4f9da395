"""examples/pipelines, tried: registrations by each that can be had, and what reads the others.

What could not be had: Nextflow (its script is parsed by Groovy, whose grammar it extends, and its process read by
reftrace, which knows the directives; nothing checks channels, staging and publishing), SLURM and PBS (a stand-in for
sbatch runs what it is given, at once), a builder of containers.
"""

import argparse
import json
import os
import runpy
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pipeline_phantoms as phantoms
import pytest
from pipeline_programs import PIPELINES, ROOT, Place, understood
from schema_records import check

from neuroreg.cohort.states import DONE

pytestmark = pytest.mark.slow

FAST = ("--method", "affine", "--outputs", "affine", "--threads", "1")


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """A folder with the real neuroreg, images of two heads, a file that is no image, and a manifest of three cases."""
    place = Place(tmp_path, real=True)
    (tmp_path / "images").mkdir()
    fixed, moving = phantoms.save_pair(tmp_path)
    shutil.copy(moving, tmp_path / "images" / "good.nii.gz")
    (tmp_path / "images" / "empty.nii.gz").touch()
    fixed.rename(tmp_path / "template.nii.gz")
    rows = ["id\tfixed\tmoving"]
    rows += [f"{name}\ttemplate.nii.gz\timages/{name}.nii.gz" for name in ("good", "empty")]
    (tmp_path / "cohort.tsv").write_text("\n".join(rows) + "\n")
    return place


def done(place: Place) -> dict[str, dict[str, Any]]:
    """Case -> run.json, each as its schema says."""
    found = {path.parent.name: json.loads(path.read_text()) for path in place.folder.glob("out/*/run.json")}
    for record in found.values():
        check(record, "run-2")
    return found


def test_the_loop_registers(place: Place) -> None:
    words = (PIPELINES / "loop.sh", "cohort.tsv", "out", *FAST)
    assert place.run(*words).returncode == 8
    assert set(done(place)) == {"good"}
    again = place.run(*words)
    assert again.returncode == 8
    assert "good: done before" in again.stderr
    assert "empty (65)" in again.stderr


def test_make_registers(place: Place) -> None:
    words = ("make", "-k", "-j2", "-f", PIPELINES / "Makefile", f"OPTIONS={' '.join(FAST)}")
    assert place.run(*words).returncode == 2
    assert set(done(place)) == {"good"}
    (place.folder / "images" / "empty.nii.gz").unlink()
    before = (place.folder / "out/good/run.json").stat().st_mtime_ns
    assert place.run(*words).returncode == 0
    assert (place.folder / "out/good/run.json").stat().st_mtime_ns == before
    assert (place.folder / "out/group.html").stat().st_size > 10_000


def test_snakemake_registers(place: Place) -> None:
    program = shutil.which("snakemake")
    if program is None:
        pytest.skip(
            "snakemake is not on the path; install it in an environment of its own: its pins are not ours"
        )
    words = [program, "-s", PIPELINES / "Snakefile", "--cores", "2", "--keep-going", "--config"]
    words += [f"options={' '.join(FAST[:-2])}"]
    first = place.run(*words)
    assert first.returncode == 1
    assert set(done(place)) == {"good"}
    text = (place.folder / "cohort.tsv").read_text()
    (place.folder / "cohort.tsv").write_text(text.splitlines()[0] + "\n" + text.splitlines()[1] + "\n")
    second = place.run(*words)
    assert second.returncode == 0, second.stderr
    assert (place.folder / "out/group.html").stat().st_size > 10_000
    assert "Nothing to be done" in place.run(*words).stderr


# -- Nextflow


def java_home() -> str:
    """The folder of the Java that is on the path: Debian's groovy looks for one that may not be there."""
    java = shutil.which("java")
    return "" if java is None else str(Path(java).resolve().parents[1])


def test_groovy_parses_the_nextflow_files(tmp_path: Path) -> None:
    groovy = shutil.which("groovy")
    if groovy is None:
        pytest.skip("groovy is not installed")
    script = tmp_path / "parse.groovy"
    script.write_text(
        "import org.codehaus.groovy.control.*\n"
        "def unit = new CompilationUnit()\n"
        "args.each { unit.addSource(new File(it)) }\n"
        "unit.compile(Phases.CONVERSION)\n"
        "unit.AST.modules.each { m -> m.statementBlock.statements.each { println it.expression.text } }\n"
    )
    environment = {"JAVA_HOME": java_home(), **os.environ}

    def parse(*files: Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [groovy, script, *files], env=environment, capture_output=True, text=True, check=False
        )

    told = parse(PIPELINES / "main.nf", PIPELINES / "nextflow.config")
    assert told.returncode == 0, told.stderr
    for line in (
        "this.process(this.REGISTER({ -> ... }))",
        "this.workflow({ -> ... })",
        "failOnIgnore = true",
    ):
        assert line in told.stdout
    spoilt = tmp_path / "main.nf"
    spoilt.write_text((PIPELINES / "main.nf").read_text().replace("path(fixed,", "path(fixed"))
    assert parse(spoilt).returncode != 0


def test_reftrace_reads_the_process() -> None:
    reftrace = pytest.importorskip("reftrace", reason="reftrace, a linter for Nextflow, is not installed")
    module = reftrace.Module.from_file(str(PIPELINES / "main.nf"))
    assert type(module).__name__ == "Module", module
    assert module.dsl_version == 2
    (process,) = module.processes
    assert process.name == "REGISTER"
    assert [cpus.num for cpus in process.cpus] == [2]
    assert [param.name for param in module.params] == ["cohort", "out", "options"]


# -- job arrays

_SBATCH = """#!/usr/bin/env bash
# Runs what is submitted at once, one task after the other; one of the tasks is lost.
for word; do
  case $word in
    --array=1-*) parts=${word#--array=1-} ;;
    --*) ;;
    *) break ;;
  esac
  shift
done
while [[ $1 == --* ]]; do shift; done
export SLURM_JOB_ID=17 SLURM_CPUS_PER_TASK=1
echo "$@" >> submitted
if [[ -z ${parts:-} ]]; then
  "$@" >> log 2>&1
  echo $? > code
else
  for ((i = 1; i <= parts; i++)); do
    [[ $i == "$LOST" ]] || SLURM_ARRAY_TASK_ID=$i SLURM_ARRAY_TASK_COUNT=$parts "$@" >> log 2>&1
  done
fi
echo 17
"""


def test_a_slurm_array_leaves_one_summary_of_all(place: Place) -> None:
    place.program("sbatch", _SBATCH)
    words = (PIPELINES / "slurm_array.sh", 2, "cohort.tsv", "-o", "out", *FAST[:-2])
    assert place.run(*words, LOST="1").returncode == 0
    log = (place.folder / "log").read_text()
    assert (place.folder / "code").read_text() == "8\n", log
    assert set(done(place)) == {"good"}  # task 1 was lost: the last job made its case
    for name in ("summary-2of2.json", "summary.json"):
        check(json.loads((place.folder / "out" / name).read_text()), "summary-1")
    summary = json.loads((place.folder / "out/summary.json").read_text())
    states = {case["id"]: case["state"] for case in summary["cases"]}
    assert states["good"] in DONE
    assert states["empty"] == "failed-data"
    for journal in place.folder.glob("out/journal*.jsonl"):
        for line in journal.read_text().splitlines():
            check(json.loads(line), "journal-1")
    assert (place.folder / "out/group.html").exists()


# -- Dask on SLURM and PBS


@pytest.fixture
def recipe(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """The names of dask_slurm.py."""
    pytest.importorskip("dask_jobqueue", reason="dask-jobqueue is not installed")
    monkeypatch.syspath_prepend(str(PIPELINES))
    yield runpy.run_path(str(PIPELINES / "dask_slurm.py"))
    sys.modules.pop("dask_slurm", None)


def cluster_of(kind: str, recipe: dict[str, Any]) -> tuple[Any, Any]:
    """The class of a cluster, and what it is asked for."""
    import dask_jobqueue

    if kind == "slurm":
        return dask_jobqueue.SLURMCluster, recipe["slurm"]
    return dask_jobqueue.PBSCluster, runpy.run_path(str(PIPELINES / "dask_pbs.py"))["pbs"]


ASKED = {
    "slurm": ("#SBATCH --cpus-per-task=3", "#SBATCH --mem=8G", "#SBATCH --gres=gpu:1", "#SBATCH -t 01:00:00"),
    "pbs": ("#PBS -l select=1:ncpus=3:mem=8gb:ngpus=1", "#PBS -l walltime=01:00:00", "#PBS -q fast"),
}


@pytest.mark.parametrize("kind", ["slurm", "pbs"])
def test_the_jobs_of_dask_ask_for_what_was_said(kind: str, recipe: dict[str, Any], tmp_path: Path) -> None:
    words = ("--cores", "3", "--memory", "8GB", "--walltime", "01:00:00", "--queue", "fast", "--gpu")
    asked = recipe["parse"]([*words, "--", "cohort.tsv", "-o", "out"])
    security, keys = recipe["make_keys"](tmp_path)
    cluster_class, special = cluster_of(kind, recipe)
    with recipe["start"](cluster_class, special, asked, security) as cluster:
        script, address = cluster.job_script(), cluster.scheduler_address
    assert [line for line in ASKED[kind] if line not in script.splitlines()] == []
    started = script.splitlines()[-1].split() if script.splitlines()[-1] else script.split("\n\n")[-2].split()
    assert address.startswith("tls://")
    assert address in started
    for option, value in (("--nthreads", "1"), ("--resources", "GPU=1"), ("--protocol", "tls://")):
        assert started[started.index(option) + 1] == value
    assert "--no-dashboard" in started
    assert "export DASK_DISTRIBUTED__WORKER__HTTP__ROUTES='[]'" in script
    for option, key in (
        ("--tls-ca-file", "--tls-ca"),
        ("--tls-cert", "--tls-cert"),
        ("--tls-key", "--tls-key"),
    ):
        assert started[started.index(option) + 1] == str(keys[key])
    assert {path.stat().st_mode & 0o777 for path in keys.values()} == {0o600}
    told = understood(recipe["command"](address, keys, asked)[3:])
    assert (told["engine"], told["scheduler"], told["threads"]) == ("dask", address, 3)
    assert told["device"] == "cuda"
    assert {told[name] for name in ("tls_ca", "tls_cert", "tls_key")} == set(keys.values())


_RUNS_AT_ONCE = """#!/usr/bin/env bash
bash "$1" > worker.log 2>&1 &
echo "Submitted batch job $!"
"""


def stand_in_for_slurm(place: Place) -> None:
    """Programs that run a job at once, and end it."""
    place.program("sbatch", _RUNS_AT_ONCE)
    place.program("scancel", '#!/usr/bin/env bash\nfor id; do pkill -P "$id"; done\n')


def test_a_cohort_is_registered_by_dask_on_slurm(place: Place) -> None:
    pytest.importorskip("dask_jobqueue", reason="dask-jobqueue is not installed")
    if find_spec("neuroreg.cohort.dask_engine") is None:
        pytest.skip("this neuroreg has no engine for Dask")
    stand_in_for_slurm(place)
    words = (sys.executable, PIPELINES / "dask_slurm.py", "--workers", "1", "--cores", "1", "--")
    told = place.run(*words, "cohort.tsv", "-o", "out", *FAST[:-2], PYTHONPATH=str(ROOT))
    assert told.returncode == 8, told.stderr
    assert "waiting for the first of the jobs" in told.stderr
    assert set(done(place)) == {"good"}
    summary = json.loads((place.folder / "out/summary.json").read_text())
    assert {case["id"]: case["exit_code"] for case in summary["cases"]} == {"good": None, "empty": 65}
    assert [path.name for path in place.folder.glob(".neuroreg-tls-*")] == []


def test_a_worker_comes_over_tls_and_offers_its_card(
    recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from distributed import Client
    from distributed.security import Security

    stand_in_for_slurm(Place(tmp_path))
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    cluster_class, special = cluster_of("slurm", recipe)
    asked: argparse.Namespace = recipe["parse"](["--workers", "1", "--gpu", "--", "cohort.tsv", "-o", "out"])
    with recipe["running"](cluster_class, special, asked) as (cluster, keys):
        named = {"tls_client_cert": str(keys["--tls-cert"]), "tls_client_key": str(keys["--tls-key"])}
        security = Security(tls_ca_file=str(keys["--tls-ca"]), require_encryption=True, **named)
        with Client(cluster.scheduler_address, security=security) as client:
            assert client.submit(sum, (40, 2), resources={"GPU": 1}).result(timeout=60) == 42
            (worker,) = client.scheduler_info()["workers"].values()
        assert worker["nthreads"] == 1
        with pytest.raises((OSError, TimeoutError)):  # without the key nobody gets in
            Client(cluster.scheduler_address.replace("tls", "tcp"), timeout=2)
        folder = keys["--tls-key"].parent
        assert folder.stat().st_mode & 0o777 == 0o700
    assert not folder.exists()
