#!/usr/bin/env bash
# Registers every row of a manifest, one after the other, with a plain loop.
#
#   examples/pipelines/loop.sh COHORT.tsv OUT [options of neuroreg register]
#
# COHORT.tsv: columns id, fixed, moving, with a tab between them and these names in the first line; ids and paths may
# hold spaces, relative paths start in the folder of the manifest. OUT/<id>/run.json says that a case is done: it is
# skipped. A case that fails does not stop the others; the loop then leaves with 8. What it does not do: notice that
# inputs changed, survive a crash of the machine with a proof, work on several at once. That is neuroreg batch.
set -euo pipefail

if (($# < 2)); then
  echo "usage: $0 COHORT.tsv OUT [options of neuroreg register]" >&2
  exit 2
fi
manifest=$1 out=$2
shift 2
[[ $out != -* ]] || out=./$out
root=$(cd -- "$(dirname -- "$manifest")" && pwd)
absolute() { if [[ $1 == /* ]]; then printf '%s' "$1"; else printf '%s' "$root/$1"; fi; }

exec 3<"$manifest" # not standard input: a command in the loop could read from it
IFS= read -r header <&3 || true
header=${header#$'\xef\xbb\xbf'}
if [[ ${header%$'\r'} != $'id\tfixed\tmoving' ]]; then
  echo "$manifest: the first line must be id, fixed, moving with tabs between them" >&2
  exit 2
fi

failed=()
while IFS=$'\t' read -r id fixed moving <&3 || [[ -n ${id:-} ]]; do
  moving=${moving%$'\r'}
  [[ -n ${id%$'\r'} ]] || continue
  if [[ $id == */* || $id == .* || -z $fixed || -z $moving ]]; then
    echo "$id: not an id, or a cell is empty" >&2
    failed+=("$id (2)")
    continue
  fi
  if [[ -e $out/$id/run.json ]]; then
    echo "$id: done before" >&2
    continue
  fi
  echo "$id" >&2
  mkdir -p -- "$out"
  code=0 # --overwrite: without run.json what is there was left by a run that did not finish
  neuroreg register "$(absolute "$fixed")" "$(absolute "$moving")" -o "$out/$id" \
    --overwrite "$@" </dev/null || code=$?
  ((code != 130 && code != 143)) || exit "$code" # somebody stopped it: the rest is not wanted either
  ((code == 0)) || failed+=("$id ($code)")
done

if ((${#failed[@]})); then
  printf '%s\n' "failed, with exit codes:" "${failed[@]}" >&2
  exit 8
fi
