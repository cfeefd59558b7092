#!/usr/bin/env bash
# Installs what the tests need, builds with every compiler and sanitizer, and runs everything: formatting, unit
# tests under ASan and UBSan, the thread tests under TSan, end-to-end tests with real daemons. Works from any
# folder, any number of times.
set -euo pipefail

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$top"
deploy/install-packages.sh libcmocka-dev clang clang-format libclang-rt-14-dev lld python3-numpy shellcheck procps libsimde-dev \
  >/dev/null

export CFLAGS=-Werror # for each build, that of quickstart and that for ARM too
export OPENBLAS_NUM_THREADS=1 # more threads, which nothing uses, would spin a while at the start of each process

results=$(mktemp)
# Figures of this machine are measured once for all daemons.
XDG_CACHE_HOME=$(mktemp -d)
trap 'rm -rf "$XDG_CACHE_HOME" "$results"' EXIT
export XDG_CACHE_HOME
unset CACHE_DIRECTORY

# Runs one named check, in the background with a `&` behind it. Its output is shown when it fails, and its lines
# "skipped ..." in any case.
check() {
  local name=$1 log started=$SECONDS verdict=FAILED TIMEFORMAT='%U %S' used
  shift
  log=$(mktemp)
  if (time "$@" >"$log" 2>&1) 2>"$log.time"; then # in a shell of its own: of no other check's processes
    verdict='ok     '
  fi
  used=$(awk '{ printf "%.0f", $1 + $2 }' "$log.time")
  {
    echo "$verdict $name ($((SECONDS - started)) s, $used s of processors)"
    grep '^skipped' "$log" || true
  } >"$log.result"
  tee -a "$results" <"$log.result"
  [ "$verdict" != FAILED ] || tail -n 60 "$log"
  rm -f "$log" "$log.time" "$log.result"
}

configure() {
  cmake --preset "$1" -DSKEIN_TESTS=ON -DCMAKE_C_FLAGS="$CFLAGS" "${@:2}"
}

build() {
  configure "$1" && cmake --build --preset "$1"
}

# Without the unit tests, which run with sanitizers.
build_release() {
  configure release -DSKEIN_EMULATED=ON && cmake --build --preset release --target skein skein-worker kernel_harness skein-emulated
}

check "shell scripts" shellcheck deploy/*.sh tests/*.sh tests/e2e/*.sh .ci/run
check "formatting" bash -c 'git ls-files -co --exclude-standard "*.c" "*.h" | xargs clang-format --dry-run -Werror'
check "quickstart" tests/e2e/quickstart.sh
check "build, gcc, release" build_release
check "build, gcc, ASan and UBSan" build asan
check "build, clang, TSan" build tsan

# Freed memory that waits to be used again is memory that the system has to clear.
export ASAN_OPTIONS=detect_leaks=1:quarantine_size_mb=16 UBSAN_OPTIONS=print_stacktrace=1
# More at a time than there are processors, because many of them wait.
unit_tests() {
  ctest --test-dir "$1" --verbose --parallel 4 --timeout 300 "${@:2}" | sed 's/^[0-9]*: //' ||
    { ctest --test-dir "$1" --rerun-failed --output-on-failure; return 1; }
}
check "unit tests, ASan and UBSan" unit_tests build-asan -E kernel_harness
check "unit tests of the data plane and of disks where io_uring is refused" tests/e2e/without_uring.py \
  ctest --test-dir build-asan --output-on-failure --parallel 4 --timeout 300 \
  -R "common_transport|worker_service|worker_session|worker_shard|worker_spill|worker_expert_store|worker_store|coordinator_engine|coordinator_measurement"
check "kernels, every variant" timeout 600 build/tests/kernel_harness
check "kernels, ASan" timeout 600 build-asan/tests/kernel_harness
TSAN_OPTIONS="suppressions=$PWD/tests/tsan.supp" \
    check "unit tests of threads, TSan" unit_tests build-tsan -R "common_threads|common_transport|worker_expert_test|\
worker_store|worker_service|worker_session|worker_giver|worker_fetcher|coordinator_cluster|coordinator_attention_latent|coordinator_engine|\
coordinator_export_test|coordinator_own_shards"
# Beside others: the one computes all the time, the other mostly waits.
check "aarch64, emulated" tests/e2e/aarch64.sh &
check "errors" /usr/bin/python3 tests/e2e/error_cases.py build-asan/bin &
check "reference reproduces the golden models" /usr/bin/python3 tests/reference/self_check.py
check "golden models, in process and on 1, 2, 3, 5 workers" /usr/bin/python3 tests/e2e/check_model.py build/bin/skein \
  tests/data/golden/* --workers 0,1,2,3,5 --placement experts,slices --batch-tokens 1,7,512
check "golden models, with shards here, micro-batches, shared experts on workers" /usr/bin/python3 tests/e2e/check_model.py \
  build/bin/skein tests/data/golden/* --workers 2,5 --placement slices+here,experts+overlap,experts+overlap+offload --batch-tokens 1,7
check "golden GGUF models, in process and on 2, 3 workers" /usr/bin/python3 tests/e2e/check_model.py build/bin/skein \
  tests/data/golden-gguf/* --workers 0,2,3 --placement experts,slices --batch-tokens 1,7,512
check "the demo model as GGUF" /usr/bin/python3 tests/e2e/gguf_models.py build/bin/skein
check "quantised files, read back independently" /usr/bin/python3 tests/e2e/quantize.py build/bin/skein
check "golden models, every instruction set" tests/e2e/every_isa.sh build/bin/skein
for isa in avx512 amx; do
  check "golden models, $isa, emulated where it is missing" /usr/bin/python3 tests/e2e/check_model.py \
    build/tests/skein-emulated tests/data/golden/deepseek-v3-tiny-fp8 tests/data/golden/deepseek-v2-tiny \
    tests/data/golden-gguf/deepseek-v3-tiny-q8_0 --workers 0 --placement slices --batch-tokens 7,512 --isa "$isa"
done
# These mostly wait, one after the other, beside all that follow.
machines_that_fail() {
  check "workers that are lost" /usr/bin/python3 tests/e2e/failover.py build-asan/bin/skein
  check "workers that are lost, without copies of the model" /usr/bin/python3 tests/e2e/failover.py build-asan/bin/skein --ship
  check "workers that become slow" /usr/bin/python3 tests/e2e/slow_worker.py build-asan/bin/skein
}
machines_that_fail &
check "golden models, ASan" /usr/bin/python3 tests/e2e/check_model.py build-asan/bin/skein \
  tests/data/golden/* tests/data/golden-gguf/* --workers 0,2 --placement experts+here+overlap,slices --batch-tokens 512
check "KV cache formats" /usr/bin/python3 tests/e2e/kv_cache.py build/bin/skein
check "unseen models" /usr/bin/python3 tests/e2e/unseen_models.py build/bin/skein
check "ways in which frames travel" /usr/bin/python3 tests/e2e/transport.py build-asan/bin/skein
check "shards on disk" /usr/bin/python3 tests/e2e/shard_cache.py build-asan/bin/skein
check "shards from worker to worker" /usr/bin/python3 tests/e2e/worker_to_worker.py build-asan/bin/skein
check "shards on disk instead of in memory" /usr/bin/python3 tests/e2e/spill.py build-asan/bin/skein
check "memory of each process" /usr/bin/python3 tests/e2e/memory.py build/bin/skein
check "workers that come and go" /usr/bin/python3 tests/e2e/changing_workers.py build-asan/bin/skein
check "plans" /usr/bin/python3 tests/e2e/plan.py build/bin/skein
check "command line and chat" /usr/bin/python3 tests/e2e/command_line.py build/bin/skein
check "demo model answers" /usr/bin/python3 tests/e2e/demo_model.py build/bin/skein
wait
check "figures of workers that join" /usr/bin/python3 tests/e2e/joining.py build-asan/bin/skein

counts() { grep -c "^$1" "$results" || true; }
echo "$(counts ok) passed, $(counts FAILED) failed, $(counts skipped) skipped"
[ "$(counts FAILED)" -eq 0 ]
