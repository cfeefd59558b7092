#!/usr/bin/env bash
# The README's first command, twice, from another folder: the right answer, figures for three workers of unequal size,
# and nothing that keeps running. In a fresh clone it comes before anything else is built.
set -euo pipefail

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cd "$scratch"
export XDG_CACHE_HOME=$scratch/cache # of a machine on which skein never ran

for round in 1 2; do
  started=$(date +%s%N)
  "$top/deploy/quickstart.sh" "What is 37 plus 58?" >answer 2>figures
  echo "round $round: $((($(date +%s%N) - started) / 1000000)) ms"
  cat answer figures
  [ "$(cat answer)" = "37 + 58 = 95." ]
  grep -q 'tokens/s.*fan-out' figures
  [ "$(grep -c '127.0.0.1:.* shards .* rows .* busy' figures)" -eq 3 ]
  [ "$(grep -o '[0-9]* shards' figures | sort -u | wc -l)" -eq 3 ]
  if pgrep -f "$top/build/bin/skein"; then
    echo "something keeps running"
    exit 1
  fi
done
