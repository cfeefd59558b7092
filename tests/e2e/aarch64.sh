#!/usr/bin/env bash
# Cross-compiles for 64-bit ARM and runs unit tests and golden models under QEMU's user emulation. Says "skipped ..."
# where the compiler, the emulator or the libraries cannot be had. Models run in the two ways that differ in memory and
# threads, in process and on workers, with and without the vector kernels.
set -euo pipefail

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
cd "$top"
build=$top/build-aarch64
emulate="qemu-aarch64-static -L $build/sysroot"
# Of the unit tests, those whose subject has something to do with the processor.
tests='kernel_harness|common_(kernel_.*|machine|memory|nodes|threads|transport_.*|weights_matrix|weights_shard)_test'
tests+='|proto_.*_test|worker_(expert|expert_store|service|spill|store_loading)_test'
tests+='|coordinator_(attention_latent|bpe|kv_cache|rope|router|scheduler|vocabulary)_test'

skip() {
  echo "skipped aarch64: $1"
  exit 0
}

[ "$(uname -m)" != aarch64 ] || skip "this is aarch64, where all other checks say the same"
deploy/install-packages.sh gcc-aarch64-linux-gnu qemu-user-static || skip "no cross compiler or emulator"
deploy/aarch64-sysroot.sh "$build/sysroot" libcmocka-dev || skip "no libraries for it"

cmake --preset aarch64 -DSKEIN_TESTS=ON
mapfile -t targets < <(ctest --test-dir "$build" --show-only -R "^($tests)\$" | awk '/Test +#/ { print $3 }')
cmake --build --preset aarch64 --target skein skein-worker "${targets[@]}"
ctest --test-dir "$build" -j "$(nproc)" --timeout 600 --output-on-failure -R "^($tests)\$"

# The program starts workers out of the folder it lies in. The kernel cannot run them, so there a script runs each.
mkdir -p "$build/emulated"
ln -f "$build/bin/skein" "$build/emulated/skein-aarch64"
script() { # NAME QEMU_ARGUMENTS PROGRAM
  printf '#!/bin/sh\nexec %s %s "%s" "$@"\n' "$emulate" "$2" "$3" >"$build/emulated/$1"
  chmod +x "$build/emulated/$1"
}
script skein "-cpu neoverse-n1" "$build/emulated/skein-aarch64"
script skein-worker "-cpu neoverse-n1" "$build/bin/skein-worker"
script skein-old "-cpu cortex-a72" "$build/emulated/skein-aarch64"

golden=tests/data/golden
check() {
  /usr/bin/python3 tests/e2e/check_model.py "$build/emulated/skein" "$@"
}
check $golden/* $golden-gguf/* --workers 0 --batch-tokens 512 --isa neon
check $golden/deepseek-v3-tiny-fp8 $golden-gguf/deepseek-v2-tiny-q8_0 --workers 2 --placement slices \
  --batch-tokens 7 --isa neon
check $golden/deepseek-v3-tiny $golden-gguf/deepseek-moe-tiny-q8_0 --workers 0 --batch-tokens 7 --isa reference

# Without dot products the reference is all there is.
if error=$("$build/emulated/skein-old" run --model $golden/deepseek-v3-tiny --prompt-ids <(echo "[1]") \
  --max-tokens 1 --isa neon 2>&1); then
  echo "--isa neon was taken on a processor without dot products"
  exit 1
fi
grep 'this processor has auto, reference$' <<<"$error"
