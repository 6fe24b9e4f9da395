#!/usr/bin/env bash
#SBATCH --job-name=neuroreg
#SBATCH --cpus-per-task=2
#SBATCH --mem=6G
#SBATCH --time=04:00:00
#SBATCH --signal=B:TERM@60
# Registers a cohort as a SLURM job array, without any library on the cluster but neuroreg.
#
#   examples/pipelines/slurm_array.sh PARTS COHORT -o OUT [options of neuroreg batch]
#
# On the login node it submits two jobs: an array of PARTS tasks, each with its share of the cases, and one that starts when
# all of them have ended, however they ended. That one runs the same command with --resume and no --shard: it verifies what
# is there by sha256, makes again what was lost, and writes the summary and the page about the cohort. Its exit code
# is that of the cohort. SIGTERM comes a minute before the time is over, so that no case is half-written.
set -euo pipefail

if [[ -z ${SLURM_JOB_ID:-} ]]; then
  if (($# < 2)) || [[ ! $1 =~ ^[1-9][0-9]*$ ]]; then
    echo "usage: $0 PARTS COHORT -o OUT [options of neuroreg batch]" >&2
    exit 2
  fi
  array=$(sbatch --parsable --array="1-$1" "$0" "$@")
  array=${array%%;*} # on some clusters the cluster's name follows
  last=$(sbatch --parsable --dependency="afterany:$array" "$0" "$@")
  echo "submitted the array $array and, after it, ${last%%;*}"
  exit
fi

parts=$1
shift
if [[ -n ${SLURM_ARRAY_TASK_ID:-} ]]; then
  # A part that is submitted again, --array=3, is the same part: PARTS counts, not SLURM_ARRAY_TASK_COUNT.
  exec neuroreg batch "$@" --shard "$SLURM_ARRAY_TASK_ID/$parts" --resume \
    --jobs 1 --threads "${SLURM_CPUS_PER_TASK:-1}"
fi
exec neuroreg batch "$@" --resume --jobs 1 --threads "${SLURM_CPUS_PER_TASK:-1}"
