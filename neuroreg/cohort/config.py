"""How a cohort is run, beside what its cases ask for."""

import re
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator


class BatchConfig(BaseModel):
    """Output, engine and limits of one batch. Frozen; unknown names are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    output: Path
    """the folder of the cohort"""
    engine: Literal["serial", "dask"] = "serial"
    jobs: int | None = Field(None, ge=1, le=256)
    """serial: cases at once in the one working process; None: two where there are two cores"""
    workers: int | None = Field(None, ge=1, le=1024)
    """dask: processes of a cluster on this machine"""
    scheduler: str | None = None
    """dask: address of a running cluster, tls://..."""
    tls_ca: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    """of that cluster; None: as the configuration of Dask says"""
    threads: int | None = Field(None, ge=1, le=1024)
    """processor threads of each case; None: the cores shared among the cases at once"""
    shard: tuple[int, int] | None = None
    """(i, n): the i-th of n parts, from 1"""
    resume: bool = False
    """skip the cases whose outputs are provably what would be made again"""
    overwrite: bool = False
    """make every case again"""
    retries: int = Field(1, ge=0, le=10)
    """for cases that were killed or could not read or write; never for bad data"""
    fail_fast: bool = False
    """the first failure cancels the rest"""
    case_timeout_s: float = Field(3600.0, gt=0)
    memory_limit_mb: int | None = Field(None, ge=100)
    """resident memory of one case; None: no limit"""
    strict_qc: bool = False

    @field_validator("shard")
    @classmethod
    def _check_shard(cls, value: tuple[int, int] | None) -> tuple[int, int] | None:
        if value is not None and not 1 <= value[0] <= value[1]:
            raise ValueError(f"part {value[0]} of {value[1]} does not exist: give 1/n to n/n")
        return value

    @field_validator("scheduler")
    @classmethod
    def _check_scheduler(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"tls://[^/\s]+:\d+", value):
            raise ValueError(
                "give tls://HOST:PORT: whoever reaches a port of Dask without encryption and certificates "
                "runs programs as you"
            )
        return value

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.resume and self.overwrite:
            raise ValueError("--resume keeps what is done, --overwrite makes it again: give one of them")
        if self.engine == "serial" and (self.workers or self.scheduler):
            raise ValueError("--workers and --scheduler are for --engine dask")
        if not self.scheduler and (self.tls_ca or self.tls_cert or self.tls_key):
            raise ValueError("--tls-ca, --tls-cert and --tls-key are for --scheduler")
        if self.engine == "dask" and bool(self.workers) == bool(self.scheduler):
            raise ValueError("--engine dask needs --workers N, or --scheduler ADDRESS of a running cluster")
        return self

    @property
    def name(self) -> str:
        """What tells this part of the cohort from the others in file names: "", or "-3of8"."""
        return "" if self.shard is None else f"-{self.shard[0]}of{self.shard[1]}"
