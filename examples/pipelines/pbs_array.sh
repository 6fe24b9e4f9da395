#!/usr/bin/env bash
# Registers a cohort as a PBS job array (OpenPBS, PBS Pro), without any library on the cluster but neuroreg.
#
#   examples/pipelines/pbs_array.sh PARTS COHORT -o OUT [options of neuroreg batch]
#
# The same two jobs as slurm_array.sh: PARTS tasks with a share of the cases each, and after all of them one that verifies,
# makes again what was lost, and writes the summary. What each job needs is asked for in RESOURCES and TIME.
set -euo pipefail

if (($# < 2)) || [[ ! $1 =~ ^[1-9][0-9]*$ ]]; then
  echo "usage: $0 PARTS COHORT -o OUT [options of neuroreg batch]" >&2
  exit 2
fi
parts=$1
shift
resources=${RESOURCES:-select=1:ncpus=2:mem=6gb}
time=${TIME:-04:00:00}

job() { # the words of the command line survive as they are; PBS fills in its own variables when the job runs
  printf '#!/usr/bin/env bash\nset -euo pipefail\ncd %q\nexec neuroreg batch' "$PWD"
  printf ' %q' "$@"
  # shellcheck disable=SC2016
  printf ' --resume --jobs 1 --threads "${NCPUS:-1}" %s\n' "$shard"
}

# PBS has no array of one: a cohort in one part is the last job alone.
after=()
if ((parts > 1)); then
  shard="--shard \"\$PBS_ARRAY_INDEX/$parts\""
  array=$(job "$@" | qsub -N neuroreg -J "1-$parts" -l "$resources" -l "walltime=$time")
  after=(-W "depend=afterany:$array")
  echo "submitted the array $array"
fi
shard=
last=$(job "$@" | qsub -N neuroreg-last -l "$resources" -l "walltime=$time" "${after[@]}")
echo "submitted the last job $last"
