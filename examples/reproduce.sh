#!/usr/bin/env bash
# Every claim of the papers behind the methods, measured again: rows in OUT, the page in examples/REPRODUCTION.md.
#
#   examples/reproduce.sh [DATA [OUT [options]]]
#
# DATA holds ixi/, oasis/ and labels/ (default: ../shared/data). Options: --pairs N and --ixi-pairs N measure fewer
# pairs, --only NAME some methods, --page-only none; --threads N. Hours on two cores. Stopping is safe: rows that are
# measured with the same weights are kept, and the same command goes on. Methods without weights are left out, with a
# line; examples/train_all.sh DATA --ablations makes them.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
data=${1:-../shared/data}
out=${2:-runs/reproduction}
shift $(($# < 2 ? $# : 2))

exec "${PYTHON:-python}" examples/reproduce.py "$data" "$out" "$@"
