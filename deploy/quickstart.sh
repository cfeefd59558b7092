#!/usr/bin/env bash
# From a fresh clone to an answer: installs packages, builds, starts three workers of unequal memory on this
# machine, asks the bundled demo model and stops the workers again.
#
#   deploy/quickstart.sh "What is 37 plus 58?"
set -euo pipefail

prompt=${1:?usage: deploy/quickstart.sh "PROMPT"}
top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
model=$top/deploy/demo-model
scratch=$(mktemp -d)
workers=()

finish() {
  [ ${#workers[@]} -eq 0 ] || { kill "${workers[@]}" 2>/dev/null; wait "${workers[@]}" 2>/dev/null; } || true
  rm -rf "$scratch"
}
trap finish EXIT

"$top/deploy/install-packages.sh"
echo "building skein" >&2
if ! { cmake -S "$top" -B "$top/build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DSKEIN_TESTS=OFF &&
       cmake --build "$top/build"; } >"$scratch/build.log" 2>&1; then
  tail -n 30 "$scratch/build.log" >&2
  exit 1
fi

# The demo model's routed experts take 6 MiB; no worker could hold them alone.
for memory in 3M 2M 1500K; do
  "$top/build/bin/skein-worker" --listen 127.0.0.1:0 --memory "$memory" --threads 1 --model "$model" --quiet \
    >"$scratch/worker-$memory" &
  workers+=($!)
done
addresses=()
for memory in 3M 2M 1500K; do
  for _ in $(seq 100); do
    grep -q listening "$scratch/worker-$memory" && break
    sleep 0.05
  done
  addresses+=("$(sed -n 's/^listening //p' "$scratch/worker-$memory")")
done

"$top/build/bin/skein" run --model "$model" --workers "$(IFS=,; echo "${addresses[*]}")" --memory 0 --placement experts \
  --prompt "$prompt"
