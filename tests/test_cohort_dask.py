"""The Dask engine: what a serial batch promises, with several processes, lost workers and clusters of other people.

Starting clusters takes seconds, so all but the refusals and the pure functions belong to the fault catalogue.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pipeline_phantoms as phantoms
import pytest
from processes import alive, wait_for

from neuroreg import __version__
from neuroreg.cli import run
from neuroreg.cohort import dask_worker, process
from neuroreg.cohort.case import Case, Cohort
from neuroreg.cohort.config import BatchConfig
from neuroreg.cohort.engine import open_engine
from neuroreg.cohort.journal import read_journal
from neuroreg.cohort.messages import Died, Job, Started, WorkerOptions
from neuroreg.cohort.runner import run_batch
from neuroreg.errors import NoInputError, UnavailableError, UsageError
from neuroreg.io.tables import read_csv
from neuroreg.methods import METHODS
from neuroreg.methods.base import MethodConfig
from neuroreg.pipeline.config import RegisterConfig
from neuroreg.registry import Entry

if TYPE_CHECKING:
    from distributed import LocalCluster

    from neuroreg.cohort.dask_engine import DaskEngine

TESTS = Path(__file__).parent
TOY = [sys.executable, str(TESTS / "toy_worker.py")]
FAKE = [sys.executable, "-S", "-E", str(TESTS / "fake_worker.py")]
PRELOAD = {"DASK_DISTRIBUTED__WORKER__PRELOAD": json.dumps([str(TESTS / "toy_dask.py")])}
COMMON = ["--affine", "none", "--outputs", "image,transform", "--threads", "1", "--device", "cpu"]
GOOD = {"a": "toy", "b": "toy amplitude=2", "c": "toy amplitude=3"}


# Refusals and pure functions


@pytest.mark.parametrize("address", ["tcp://node:8786", "node:8786", "tls://node", "tls://node:8786/x"])
def test_a_port_that_is_not_encrypted_is_refused(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["batch", "cohort.csv", "-o", "out", "--engine", "dask", "--scheduler", address]
    assert run(words) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert "tls://HOST:PORT" in told
    assert "runs programs as you" in told


def test_certificates_belong_to_a_cluster_that_runs_already(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["batch", "cohort.csv", "-o", "out", "--engine", "dask", "--workers", "2", "--tls-ca", "ca.pem"]
    assert run(words) == 2
    assert "--scheduler" in capsys.readouterr().err


@pytest.mark.parametrize("missing", ["distributed", "dask"])
def test_without_dask_the_extra_is_named(
    missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    for name in ("neuroreg.cohort.dask_engine", "neuroreg.cohort.dask_cluster"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    config = BatchConfig(output=tmp_path, engine="dask", workers=1)
    with pytest.raises(UnavailableError, match=r"pip install 'neuroreg\[batch\]'"):
        open_engine(config, WorkerOptions(), tmp_path)


def test_cards_are_shared_out_in_turn() -> None:
    assert [dask_worker.card_of(worker, ("0", "3", "MIG-7")) for worker in range(5)] == [
        "0", "3", "MIG-7", "0", "3",
    ]  # fmt: skip
    assert dask_worker.card_of(2, ()) is None
    assert dask_worker.card_of("node17-0", ("0", "1")) is None


def terms(witness: Path, **changes: object) -> dict[str, object]:
    """What a coordinator tells its workers."""
    known = dask_worker.Terms(batch="b1", witness=witness, options=WorkerOptions(), timeout_s=9.0)
    return known.model_copy(update=changes).model_dump(mode="json")


def test_a_worker_with_another_version_or_without_the_folder_is_unfit(tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    assert "does not see" in dask_worker.unfit(terms(witness))
    witness.write_text("another batch")
    assert "does not see" in dask_worker.unfit(terms(witness)), "the same path of another machine"
    witness.write_text("b1")
    assert dask_worker.unfit(terms(witness, version="0.0.1")) == (
        f"it has neuroreg {__version__}, the batch 0.0.1"
    )
    assert dask_worker.unfit(terms(witness)) == ""


# One batch with every kind of fault in it


@dataclass
class Told:
    """A batch that has run, and what was seen meanwhile."""

    out: Path
    code: int
    err: str
    listening: set[str] = field(default_factory=set)
    processes: dict[int, str] = field(default_factory=dict)
    """process -> what it runs, of all but the coordinator"""

    @property
    def states(self) -> dict[str, str]:
        return {row["id"]: row["state"] for row in read_csv(self.out / "summary.csv")}


def write_manifest(path: Path, methods: dict[str, str]) -> None:
    """A case for each id; what stands behind a blank in the method is its ``set`` cell."""
    lines = ["id,fixed,moving,method,set"]
    for name, method in methods.items():
        method, _, options = method.partition(" ")
        lines.append(f"{name},fixed.nii.gz,moving.nii.gz,{method},{options}")
    path.write_text("\n".join(lines) + "\n")


def start(folder: Path, name: str, *options: str, program: Sequence[str] = TOY) -> subprocess.Popen[str]:
    """``neuroreg batch NAME.csv -o NAME`` in a process, and a process group, of its own."""
    words = [sys.executable, str(TESTS / "toy_cli.py"), "batch", f"{name}.csv", "-o", name, *COMMON, *options]
    environment = {**os.environ, **PRELOAD, "TOY_PROGRAM": json.dumps(program)}
    return subprocess.Popen(
        words,
        cwd=folder,
        env=environment,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )


def look(pid: int, told: Told) -> None:
    """Note every process below this one, and where they listen."""
    import psutil

    found: list[psutil.Process] = []
    try:
        me = psutil.Process(pid)
        found = [me, *me.children(recursive=True)]
        for one in found:
            if one.pid != pid:
                told.processes[one.pid] = " ".join(one.cmdline())
            listening = [at for at in one.net_connections("inet") if at.status == "LISTEN"]
            told.listening |= {at.laddr.ip for at in listening}
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return


def outputs(out: Path, ids: object) -> dict[str, bytes]:
    """Every output of these cases; of the records what does not depend on the time."""
    found = {}
    for path in sorted(out.glob("*/*")):
        if path.parent.name not in ids:  # type: ignore[operator]
            continue
        data = path.read_bytes()
        if path.name == "run.json":
            record = json.loads(data)
            for moving in ("started", "finished", "seconds", "argv"):
                del record[moving]
            data = json.dumps(record).encode()
        found[str(path.relative_to(out))] = data
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dask")
    phantoms.save_pair(folder)
    return folder


@pytest.fixture(scope="module")
def mixed(folder: Path) -> Told:
    """Three good cases and one of each kind of bad ones, on two workers."""
    bad = {
        "hangs": "hangtoy",
        "killed": "killtoy",
        "raises": "brokentoy",
        "killed-once": f"killtoy marker={folder / 'mark'}",
        "eats": "memorytoy megabytes=3000",
    }
    write_manifest(folder / "mixed.csv", {**bad, **GOOD})
    limits = ["--case-timeout", "20", "--memory-limit", "1500"]
    with start(folder, "mixed", "--engine", "dask", "--workers", "2", *limits) as batch:
        told = Told(folder / "mixed", 0, "")
        while batch.poll() is None:
            look(batch.pid, told)
            time.sleep(0.2)
        assert batch.stderr is not None
        told.code, told.err = batch.returncode, batch.stderr.read()
    return told


@pytest.mark.faults
def test_every_fault_stays_with_its_case(mixed: Told) -> None:
    assert mixed.code == 8, mixed.err
    assert mixed.states == {
        "hangs": "timeout", "killed": "killed", "raises": "failed-bug", "killed-once": "ok-qc-warn",
        "eats": "killed", **dict.fromkeys(GOOD, "ok-qc-warn"),
    }  # fmt: skip
    failed = {row["id"]: row for row in read_csv(mixed.out / "failed.csv")}
    assert set(failed) == {"hangs", "killed", "raises", "eats"}
    assert "memory" in failed["eats"]["message"]


@pytest.mark.faults
def test_the_journal_of_a_cluster_adds_up(mixed: Told) -> None:
    events, broken = read_journal(mixed.out / "journal.jsonl")
    assert broken == 0
    begin, end = events[0], events[-1]
    assert (begin.event, begin.engine, begin.slots, begin.planned) == ("begin", "dask", 2, 8)
    assert (end.event, sum(end.counts.values()), end.code) == ("end", 8, 8)
    for name in mixed.states:
        told = [event for event in events if getattr(event, "id", "") == name]
        attempts = 2 if name in ("killed", "killed-once", "eats") else 1
        assert [event.event for event in told if event.event == "started"] == ["started"] * attempts
        assert told[-1].event == ("failed" if name in ("hangs", "killed", "raises", "eats") else "ok")


@pytest.mark.faults
def test_a_cluster_leaves_no_files_and_no_processes(mixed: Told) -> None:
    assert [path.name for path in (mixed.out / ".work").iterdir()] == ["lock"]
    assert {path.parent.name for path in mixed.out.glob("*/*")} == {".work", *GOOD, "killed-once"}
    assert {path.name for path in mixed.out.parent.iterdir()} <= {
        "fixed.nii.gz", "moving.nii.gz", "mark", "mixed", "mixed.csv", "clean", "clean.csv",
    }  # fmt: skip
    assert len(mixed.processes) >= 4, "two workers, and a process of their own for each"
    assert [pid for pid in mixed.processes if alive(pid)] == []


@pytest.mark.faults
def test_a_cluster_on_this_machine_is_reachable_from_nowhere_else(mixed: Told) -> None:
    assert mixed.listening == {"127.0.0.1"}


@pytest.mark.faults
def test_the_terminal_shows_the_batch_and_nothing_of_dask(mixed: Told) -> None:
    assert "Traceback" not in mixed.err
    assert "distributed" not in mixed.err
    assert "Warning" not in mixed.err


@pytest.mark.faults
def test_the_good_cases_are_byte_for_byte_those_of_a_serial_batch(mixed: Told, folder: Path) -> None:
    write_manifest(folder / "clean.csv", GOOD)
    with start(folder, "clean", "--jobs", "1") as batch:
        assert batch.stderr is not None
        err = batch.stderr.read()
    assert batch.returncode == 0, err
    clean = outputs(folder / "clean", GOOD)
    assert len(clean) == 9
    assert outputs(mixed.out, GOOD) == clean


@pytest.mark.faults
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT], ids=lambda one: one.name)
def test_when_the_coordinator_goes_everything_goes(how: signal.Signals, tmp_path: Path) -> None:
    phantoms.save_pair(tmp_path)
    write_manifest(tmp_path / "long.csv", {"long": "toy seconds=600"})
    told = Told(tmp_path / "long", 0, "")
    journal = told.out / "journal.jsonl"
    with start(tmp_path, "long", "--engine", "dask", "--workers", "1", program=FAKE) as batch:
        wait_for(lambda: journal.exists() and b'"started"' in journal.read_bytes(), 40.0)
        look(batch.pid, told)
        began = time.monotonic()
        if how is signal.SIGINT:  # a terminal sends it to everybody
            os.killpg(batch.pid, how)
        else:
            batch.send_signal(how)
        # a kill takes nobody's time; after a Ctrl-C the cluster closes, which on a busy machine takes some
        wait_for(
            lambda: not [pid for pid in told.processes if alive(pid)], 3.0 if how is signal.SIGKILL else 8.0
        )
        assert batch.stderr is not None
        err = batch.stderr.read()
    assert time.monotonic() - began < 10.0
    assert any("fake_worker" in program for program in told.processes.values())
    assert batch.returncode == {signal.SIGKILL: -9, signal.SIGINT: 130}[how]
    assert "Traceback" not in err
    assert "distributed" not in err


# Workers that only pretend


class Pretended:
    """A method whose options the pretending worker reads."""

    class Config(MethodConfig):
        act: str = "ok"
        once: str | None = None
        seconds: float = 0.02

    divisor = 8
    spacing_mm = 2.0

    def __init__(self, config: Config) -> None:
        self.config = config


@pytest.fixture(scope="module")
def pretend() -> Iterator[None]:
    """Every process that is started from now on registers nothing."""
    import dask
    import distributed  # noqa: F401  # its defaults must be there before they are changed

    preload = {"distributed.worker.preload": [str(TESTS / "toy_dask.py")]}
    with pytest.MonkeyPatch.context() as patch, dask.config.set(preload):
        patch.setenv("TOY_PROGRAM", json.dumps(FAKE))
        patch.setattr(process, "PROGRAM", tuple(FAKE))
        patch.setitem(METHODS, "pretended", Entry(f"{__name__}:Pretended", "for tests"))
        yield


def cohort(folder: Path, **acts: dict[str, object]) -> Cohort:
    """Cases by id; ``acts`` are the options of the worker."""
    images = folder / "fixed.nii.gz", folder / "moving.nii.gz"
    for path in images:
        path.write_bytes(path.name.encode())
    fixed, moving = images
    cases = [
        Case(
            name,
            RegisterConfig(
                fixed=fixed, moving=moving, method="pretended", options=options, outputs="image", device="cpu"
            ),
            {"fixed": fixed.name, "moving": moving.name, "root": str(folder)},
        )
        for name, options in acts.items()
    ]
    return Cohort(cases)


def dask_workers() -> list[int]:
    """The Dask workers below this process."""
    import psutil

    return [p.pid for p in psutil.Process().children() if "spawn_main" in " ".join(p.cmdline())]


@pytest.mark.faults
@pytest.mark.usefixtures("pretend")
def test_a_case_whose_dask_worker_is_killed_is_done_by_another(tmp_path: Path) -> None:
    found = cohort(tmp_path, a={"seconds": 2.0}, b={}, c={})
    killed: list[int] = []

    def kill(snapshot: object) -> None:
        journal = tmp_path / "out" / "journal.jsonl"
        started = [e for e in read_journal(journal)[0] if e.event == "started" and e.id == "a"]
        if started and not killed:
            import psutil

            killed.append(psutil.Process(started[0].pid).ppid())
            assert killed[0] in dask_workers()
            os.kill(killed[0], signal.SIGKILL)

    outcome = run_batch(found, BatchConfig(output=tmp_path / "out", engine="dask", workers=2), watch=kill)
    assert len(killed) == 1
    assert {one.id: (one.state, one.attempts) for one in outcome.standings} == dict.fromkeys("abc", ("ok", 1))
    assert outcome.exit_code == 0
    events = [e for e in read_journal(tmp_path / "out" / "journal.jsonl")[0] if getattr(e, "id", "") == "a"]
    assert [e.event for e in events] == ["planned", "started", "failed", "started", "ok"]
    assert (events[2].message, events[2].again) == ("its worker was lost", True)
    assert events[1].pid != events[3].pid


@pytest.mark.faults
@pytest.mark.usefixtures("pretend")
def test_a_case_that_costs_every_worker_its_life_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = cohort(tmp_path, a={"act": "hang"}, b={})
    (tmp_path / "threading.py").write_text("raise SystemExit('a file among the data was run')")
    monkeypatch.chdir(tmp_path)
    seen: set[int] = set()

    def kill(snapshot: object) -> None:
        for event in read_journal(tmp_path / "out" / "journal.jsonl")[0]:
            if event.event == "started" and event.id == "a" and event.pid not in seen:
                import psutil

                seen.add(event.pid)
                os.kill(psutil.Process(event.pid).ppid(), signal.SIGKILL)

    config = BatchConfig(output=tmp_path / "out", engine="dask", workers=1, retries=0)
    outcome = run_batch(found, config, watch=kill)
    assert {one.id: one.state for one in outcome.standings} == {"a": "killed", "b": "ok"}
    assert "2 workers of the cluster were lost" in outcome.standings[0].message
    assert len(seen) == 2, "the first loss is forgiven"


# Clusters of other people


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with certificates for a cluster."""
    from distributed import Security

    folder, security = tmp_path_factory.mktemp("tls"), Security.temporary()
    for name in ("tls_ca_file", "tls_client_cert", "tls_client_key"):
        (folder / name).write_text(getattr(security, name))
    return folder


@pytest.fixture(scope="module")
def cluster(pretend: None, certificates: Path) -> Iterator["LocalCluster"]:
    """A cluster with two workers of two threads that this program has not started."""
    from distributed import LocalCluster, Security

    ca, certificate, key = (
        str(certificates / name) for name in ("tls_ca_file", "tls_client_cert", "tls_client_key")
    )
    security = Security(
        require_encryption=True, tls_ca_file=ca, tls_client_cert=certificate, tls_client_key=key,
        tls_scheduler_cert=certificate, tls_scheduler_key=key, tls_worker_cert=certificate, tls_worker_key=key,
    )  # fmt: skip
    with LocalCluster(
        n_workers=2, threads_per_worker=2, protocol="tls", security=security, dashboard_address=None,
        scheduler_kwargs={"dashboard_address": "127.0.0.1:0"}, memory_limit=0, silence_logs=50,
        local_directory=str(certificates),
    ) as cluster:  # fmt: skip
        yield cluster


def foreign(output: Path, folder: Path, address: str) -> BatchConfig:
    """A batch on the cluster whose certificates lie in ``folder``."""
    return BatchConfig(
        output=output,
        engine="dask",
        scheduler=address,
        tls_ca=folder / "tls_ca_file",
        tls_cert=folder / "tls_client_cert",
        tls_key=folder / "tls_client_key",
    )


def engine_of(config: BatchConfig) -> "DaskEngine":
    """An engine without a runner."""
    from neuroreg.cohort.dask_engine import DaskEngine

    config.output.mkdir()
    return DaskEngine(config, WorkerOptions(), config.output)


def job(folder: Path, name: str, *, device: str = "cpu", **options: object) -> Job:
    """One case for an engine without a runner; what it registers never matters."""
    return Job(id=name, config={"device": device, "options": options}, work=folder)


def first_started(engine: "DaskEngine") -> int:
    """The process of the first case that is begun."""
    deadline = time.monotonic() + 20.0
    while time.monotonic() < deadline:
        for happening in engine.happenings(0.2):
            if isinstance(happening, Started):
                return happening.pid
    raise AssertionError("nothing was begun")


@pytest.mark.faults
def test_a_cluster_of_other_people(cluster: "LocalCluster", certificates: Path, tmp_path: Path) -> None:
    address = cluster.scheduler_address
    found = cohort(tmp_path, a={}, b={"act": "data"}, c={"act": "kill"})
    outcome = run_batch(found, foreign(tmp_path / "out", certificates, address))
    assert {one.id: one.state for one in outcome.standings} == {"a": "ok", "b": "failed-data", "c": "killed"}
    assert read_journal(tmp_path / "out" / "journal.jsonl")[0][0].slots == 4
    assert [path.name for path in (tmp_path / "out" / ".work").iterdir()] == ["lock"]
    assert len(cluster.scheduler_info["workers"]) == 2


@pytest.mark.faults
def test_a_batch_ends_its_own_cases_alone(
    cluster: "LocalCluster", certificates: Path, tmp_path: Path
) -> None:
    configs = [
        foreign(tmp_path / name, certificates, cluster.scheduler_address) for name in ("ours", "theirs")
    ]
    ours, theirs = (engine_of(config) for config in configs)
    assert ours.slots_here == 0, "their memory is not ours to count"
    with pytest.raises(UnavailableError, match="no worker of the cluster offers a GPU"):
        ours.submit(job(tmp_path, "x", device="cuda:1"))
    ours.submit(job(tmp_path, "x", act="hang"))
    theirs.submit(job(tmp_path, "y", act="hang"))
    x, y = first_started(ours), first_started(theirs)
    ours.stop()
    assert not alive(x)
    assert alive(y)
    theirs._client.close()  # as when that coordinator is killed
    wait_for(lambda: not alive(y), 10.0)
    theirs.stop()
    assert [*tmp_path.glob("*/witness*")] == []


def pretend_version(version: str) -> None:
    """Runs in a Dask worker."""
    from neuroreg.cohort import dask_worker

    dask_worker.__version__ = version
    dask_worker._FIT.clear()


@pytest.mark.faults
def test_workers_with_another_version(
    cluster: "LocalCluster", certificates: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from distributed import Client

    from neuroreg.cohort import dask_engine

    address = cluster.scheduler_address
    with Client(cluster, set_as_default=False) as client:
        one = next(iter(client.scheduler_info()["workers"]))
        client.run(pretend_version, "0.0.1", workers=[one])
        with pytest.raises(UnavailableError, match=rf"{one} cannot serve: it has neuroreg 0\.0\.1"):
            engine_of(foreign(tmp_path / "refused", certificates, address))
        client.run(pretend_version, __version__)
        monkeypatch.setattr(dask_engine, "_REST_S", 0.2)
        engine = engine_of(foreign(tmp_path / "out", certificates, address))
        client.run(pretend_version, "0.0.1")  # as if they had joined later
        engine.submit(job(tmp_path, "x"))
        told: list[object] = []
        wait_for(lambda: told.extend(engine.happenings(0.1)) or told, 20.0)  # type: ignore[func-returns-value]
        engine.stop()
        client.run(pretend_version, __version__)
    (died,) = told
    assert isinstance(died, Died)
    assert (died.kind, died.state) == ("unfit-worker", "killed")
    assert "0.0.1" in died.message
    assert engine._moves == {"x": 3}, "it was tried elsewhere first"


@pytest.mark.faults
def test_a_cluster_that_cannot_be_used(
    certificates: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from neuroreg.cohort import dask_cluster

    monkeypatch.setattr(dask_cluster, "_CONNECT_S", 0.5)
    address = "tls://127.0.0.1:9"
    with pytest.raises(UsageError, match="--tls-ca"):
        dask_cluster.connect(BatchConfig(output=tmp_path, engine="dask", scheduler=address))
    with pytest.raises(NoInputError, match="tls_ca_file"):
        dask_cluster.connect(foreign(tmp_path, tmp_path, address))
    with pytest.raises(UnavailableError, match="cannot be reached"):
        dask_cluster.connect(foreign(tmp_path, certificates, address))
    for name in ("tls_ca_file", "tls_client_cert", "tls_client_key"):
        (tmp_path / name).write_text("no certificate")
    with pytest.raises(UsageError, match="cannot be used"):
        dask_cluster.connect(foreign(tmp_path, tmp_path, address))


@pytest.mark.faults
def test_a_cluster_whose_workers_or_scheduler_go_away(
    cluster: "LocalCluster", certificates: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # the last one: nothing is left of the cluster
    from neuroreg.cohort import dask_cluster, dask_engine

    config = foreign(tmp_path / "out", certificates, cluster.scheduler_address)
    engine = engine_of(config)
    monkeypatch.setattr(dask_engine, "_ROLL_CALL_S", 0.1)
    monkeypatch.setattr(dask_engine, "_DESERTED_S", 0.5)
    monkeypatch.setattr(dask_cluster, "_FIRST_WORKER_S", 0.5)
    cluster.scale(0)
    with pytest.raises(UnavailableError, match=r"no worker for .* --resume"):
        wait_for(lambda: [*engine.happenings(0.1)] and None, 20.0)
    with pytest.raises(UnavailableError, match="has no worker"):
        dask_cluster.connect(config)
    cluster.close()
    monkeypatch.setattr(dask_engine, "_DESERTED_S", 60.0)
    with pytest.raises(UnavailableError, match="connection to the cluster was lost"):
        wait_for(lambda: [*engine.happenings(0.1)] and None, 20.0)
    began = time.monotonic()
    engine.stop()
    assert time.monotonic() - began < 12.0
