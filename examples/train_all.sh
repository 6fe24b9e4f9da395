#!/usr/bin/env bash
# Every weight file from its recipe: trains what is missing or weaker than the recipe's budget, then publishes it.
#
#   examples/train_all.sh [DATA [options]]
#
# DATA holds ixi/ and labels/ (default: ../shared/data). Options: --dry-run lists what would be done; --ablations
# trains examples/ablations/*.yaml too, into runs/ alone; --device, --threads, --only NAME, --restart.
# Stopping is safe: the same command goes on where it was.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
data=${1:-../shared/data}
shift $(($# < 1 ? $# : 1))

exec "${PYTHON:-python}" examples/train_all.py "$data" "$@"
