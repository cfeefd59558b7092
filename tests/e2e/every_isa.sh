#!/usr/bin/env bash
# Runs the golden models with each instruction set forced: every_isa.sh SKEIN. What this processor lacks is said to
# be skipped.
set -euo pipefail

skein=$1
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
golden=$here/../data/golden
names=$("$skein" run --help | sed -n 's/.*--isa auto|//p' | tr '|' ' ')
[ -n "$names" ]
for name in $names; do
  refusal=$("$skein" run --model "$golden/deepseek-v3-tiny" --isa "$name" --prompt-ids <(echo '[1]') --max-tokens 1 2>&1 |
    grep 'this processor has' || true)
  if [ -n "$refusal" ]; then
    echo "skipped $refusal"
    continue
  fi
  echo "--isa $name"
  "$here/check_model.py" "$skein" "$golden"/* "$golden"-gguf/* --workers 0,2 --batch-tokens 1,512 \
    --placement slices --isa "$name"
done
