"""neuroreg doctor: check the installation, the devices and the weights."""

from dataclasses import asdict
from pathlib import Path

import typer

from neuroreg.cli import console, options


def command(
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Show versions, devices, threads, memory, free disk, and whether the weights are what was published.

    Leaves with 69 or 65 when something this program cannot work without is missing or damaged.
    """
    from neuroreg.pipeline.doctor import examine

    checks = examine(Path())
    failed = [check for check in checks if check.status == "fail"]
    if json:
        found = [{key: value for key, value in asdict(c).items() if key != "exit_code"} for c in checks]
        console.emit({"status": "error" if failed else "ok", "checks": found}, command="doctor")
    else:
        console.show_table(
            "", ("", "check", "found", "remedy"), [(c.status, c.name, c.found, c.remedy) for c in checks]
        )
    if failed:
        raise typer.Exit(failed[0].exit_code)
