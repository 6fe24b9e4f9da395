#!/usr/bin/env bash
# The table of methods on the 30 ordered OASIS `bench` pairs (1 mm, 138 regions), other programs in the same run.
#
#   examples/benchmark_oasis.sh [DATA [OUT [options of neuroreg benchmark]]]
#
# OUT gets rows.csv, summary.md, summary.json and dice_seconds.svg. `greedy` and the ants- lines are the programs by
# themselves, with their own affine. Needs the extras [ants] and [greedy]. Stopping is safe: finished rows in
# OUT/rows.csv are kept, and the same command goes on. All 30 pairs take hours on two cores; `--pairs 3` gives a first impression.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
data=${1:-$here/../../shared/data/oasis}
out=${2:-benchmark-oasis}
shift $(($# < 2 ? $# : 2))

exec "${PYTHON:-python}" -m neuroreg benchmark --oasis "$data" --split bench -o "$out" \
  --ids "$here/oasis-138-ids.txt" --threads 2 --reference greedy \
  --method greedy-affine \
  --method ants-affine \
  --method affine \
  --method demons \
  --method ants-syn \
  --method greedy \
  --method "gaussnewton-mid=--method gaussnewton" \
  --method "gaussnewton-std=--method gaussnewton --set preset=std" \
  --method "gaussnewton-best=--method gaussnewton --set preset=best" \
  --method "neuroreg=--method neuroreg" \
  --method "neuroreg-fast=--method neuroreg --refine fast" \
  --method "neuroreg-mid=--method neuroreg --refine mid" \
  --method "dualprnet=--method dualprnet" \
  --method "dualprnet-linear=--method dualprnet --weights dualprnet-ixi2mm" \
  --method "voxelmorph=--method voxelmorph" \
  --method "ldgnet=--method ldgnet" \
  --method "dualflow=--method dualflow" \
  --method "jointaffine=--method jointaffine" \
  --method "simcnn=--method simcnn" \
  "$@"
