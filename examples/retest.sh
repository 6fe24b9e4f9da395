#!/usr/bin/env bash
# How well two scans of one person agree (OASIS `retest`, five people): rows in OUT, the page in examples/RETEST.md.
#
#   examples/retest.sh [DATA [OUT [options]]]
#
# DATA holds t1/, seg/ and splits.csv (default: ../shared/data/oasis). `--method NAME='options of neuroreg register'`,
# repeated, chooses other methods than affine, gaussnewton, neuroreg --refine mid and SyN (extra [ants]); --threads N.
# About half an hour on two cores. Stopping is safe: the same command goes on where it was.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
data=${1:-../shared/data/oasis}
out=${2:-runs/retest}
shift $(($# < 2 ? $# : 2))

mkdir -p "$(dirname "$out")"
exec "${PYTHON:-python}" examples/retest.py "$data" "$out" --page examples/RETEST.md "$@"
