#!/usr/bin/env bash
# Rolls skein out with ansible, over ssh, on two machines of this test's own: Debian roots booted with their own
# systemd in containers, on a bridge that only they and this script see. Installs what it needs from Debian; keeps
# the root in build/rollout-root.tar. Wants root, and cgroups that containers may have.
#
#   tests/e2e/rollout.sh [BUILD]
set -euo pipefail

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
build=$(realpath "${1:-$top/build}")
playbooks=$top/deploy/ansible

if [ "$(id -u)" -ne 0 ]; then
  echo "skipped: containers and network namespaces need root"
  exit 0
fi
# A network of its own, which ends with this script.
if [ -z "${SKEIN_ROLLOUT_INSIDE:-}" ]; then
  "$top/deploy/install-packages.sh" ansible-core ansible-lint mmdebstrap systemd-container openssh-client iproute2 >/dev/null
  unshare --net true 2>/dev/null || { echo "skipped: no network namespaces here"; exit 0; }
  [ -f "$build/rollout-root.tar" ] || {
    mmdebstrap --quiet --variant=minbase \
      --include=systemd-sysv,dbus,openssh-server,python3,python3-apt \
      --include=libjansson4,libnuma1,libopenblas0-pthread,libprotobuf-c1,libsystemd0,liburing2,libuv1,libxxhash0,libyaml-0-2 \
      --include=libedit2,libpcre2-8-0 bookworm "$build/rollout-root.part.tar"
    mv "$build/rollout-root.part.tar" "$build/rollout-root.tar"
  }
  SKEIN_ROLLOUT_INSIDE=1 exec unshare --net "$0" "$build"
fi

scratch=$(mktemp -d)
declare -A containers=()
cgroups=()

finish() {
  for name in "${!containers[@]}"; do
    kill "${containers[$name]}" 2>/dev/null || true
    wait "${containers[$name]}" 2>/dev/null || true
  done
  for folder in "${cgroups[@]}"; do
    find "$folder" -depth -type d -exec rmdir {} + 2>/dev/null || true
  done
  rm -rf "$scratch"
}
trap finish EXIT

fail() {
  echo "FAILED: $1" >&2
  for name in one two; do
    on "$name" journalctl --no-pager -n 20 -u skein-worker >&2 || true
  done
  exit 1
}

# Waits until a command succeeds: wait_for SECONDS WHAT COMMAND...
wait_for() {
  local tries=$((10 * $1)) what=$2
  shift 2
  for _ in $(seq "$tries"); do
    "$@" >/dev/null 2>&1 && return
    sleep 0.1
  done
  fail "$what"
}

# ---- Machines.

ssh_options=(-i "$scratch/key" -o UserKnownHostsFile=/dev/null -o StrictHostKeyChecking=no -o LogLevel=ERROR
  -o ConnectTimeout=5)
declare -A addresses=([one]=10.77.0.2 [two]=10.77.0.3)

on() {
  local name=$1
  shift
  # shellcheck disable=SC2029 # quoted here, so that the far shell sees the same words
  ssh "${ssh_options[@]}" "root@${addresses[$name]}" "$(printf '%q ' "$@")" </dev/null
}

boot() {
  local name=$1 folder
  printf '[Match]\nName=host0\n[Network]\nAddress=%s/24\n' "${addresses[$name]}" >"$scratch/$name.network"
  local options=(--quiet --register=no --boot --machine="skein-$name" --directory="$scratch/root" --volatile=overlay
    --network-bridge=skein --resolv-conf=off --timezone=off --console=pipe
    --bind-ro="$scratch/$name.network:/etc/systemd/network/10-host0.network"
    --bind-ro="$scratch/key.pub:/root/.ssh/authorized_keys")
  # Without a systemd on this machine nobody makes a control group for the container, so it gets one from here.
  if [ ! -d /run/systemd/system ]; then
    options+=(--keep-unit)
    for folder in /sys/fs/cgroup/unified /sys/fs/cgroup/systemd /sys/fs/cgroup; do
      { [ -f "$folder/cgroup.procs" ] && mkdir "$folder/skein-$name"; } 2>/dev/null || continue
      cgroups+=("$folder/skein-$name")
    done
  fi
  (
    for folder in "${cgroups[@]}"; do
      [[ "$folder" != *"skein-$name" ]] || echo "$BASHPID" >"$folder/cgroup.procs"
    done
    SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1 exec systemd-nspawn "${options[@]}" <&- >"$scratch/$name.log" 2>&1
  ) &
  containers[$name]=$!
}

ip link set lo up
ip link add skein type bridge
ip address add 10.77.0.1/24 dev skein
ip link set skein up
ssh-keygen -q -t ed25519 -N '' -f "$scratch/key"
mkdir "$scratch/root"
tar -C "$scratch/root" -xf "$build/rollout-root.tar"
ln -s /lib/systemd/system/systemd-networkd.service "$scratch/root/etc/systemd/system/multi-user.target.wants/"
touch "$scratch/root/var/lib/apt/lists" # fresh: these machines have no way out
for name in one two; do
  boot "$name"
done
for _ in $(seq 300); do
  on one true 2>/dev/null && on two true 2>/dev/null && break
  kill -0 "${containers[one]}" "${containers[two]}" 2>/dev/null || break
  sleep 0.1
done
if ! on one true 2>/dev/null || ! on two true 2>/dev/null; then
  echo "skipped: no container with systemd boots here: $(tail -n 1 "$scratch/one.log")"
  exit 0
fi

# ---- The playbook.

write_inventory() {
  {
    printf 'workers:\n  hosts:\n'
    for name in "$@"; do
      printf '    %s: {ansible_host: %s, skein_memory: 16M, skein_threads: 1}\n' "$name" "${addresses[$name]}"
    done
    printf '  vars:\n    skein_options: {verbose: true}\n'
    printf 'coordinator:\n  hosts:\n    one: {ansible_host: %s}\n' "${addresses[one]}"
    printf 'all:\n  vars:\n    ansible_user: root\n    skein_build: %s\n' "$build"
    printf '    ansible_ssh_private_key_file: %s\n' "$scratch/key"
    printf '    ansible_ssh_common_args: "-o UserKnownHostsFile=/dev/null -o StrictHostKeyChecking=no"\n'
  } >"$scratch/inventory.yaml"
}

roll_out() {
  (cd "$playbooks" && ANSIBLE_HOME=$scratch/ansible ANSIBLE_NOCOLOR=1 \
    ansible-playbook -i "$scratch/inventory.yaml" rollout.yaml) >"$scratch/playbook.log" 2>&1 ||
    { cat "$scratch/playbook.log"; fail "the playbook"; }
}

# Requires a line of the recap: expect_recap HOST PATTERN
expect_recap() {
  grep -qE "^$1 .*$2" "$scratch/playbook.log" || { cat "$scratch/playbook.log"; fail "no $2 for $1"; }
}

property() {
  on "$1" systemctl show --value --property "$2" skein-worker
}

has_property() {
  # shellcheck disable=SC2053 # $3 is a pattern
  [[ "$(property "$1" "$2")" == $3 ]]
}

demo=/usr/local/share/skein/demo-model
ask() {
  on one /usr/local/bin/skein run --model $demo --cluster /etc/skein/cluster.yaml --memory 0 \
    --prompt "What is 37 plus 58?" --json
}

export ANSIBLE_NOCOLOR=1
(cd "$playbooks" && ansible-lint --offline --nocolor -q rollout.yaml) || fail "ansible-lint"
echo "ok      ansible-lint"

write_inventory one two
roll_out
for name in one two; do
  has_property "$name" ActiveState active || fail "the worker on $name is not active"
  has_property "$name" StatusText "waiting for a coordinator" || fail "$name has no status"
  has_property "$name" LimitMEMLOCK infinity || fail "the limit of $name's locked memory"
  on "$name" systemctl is-enabled --quiet skein-worker || fail "the worker on $name does not start at boot"
  [ "$(on "$name" ps -o user= -C skein-worker)" = skein ] || fail "the worker's user on $name"
done
echo "ok      two workers rolled out, ready"

on one journalctl -u skein-worker -o json | grep -q '"PRIORITY":"6".*"MESSAGE":"info: listening\|"MESSAGE":"info: listening.*"PRIORITY":"6"' ||
  fail "the journal does not have the level"
echo "ok      levels in the journal"

answer=$(ask)
[[ "$answer" == *"37 + 58 = 95"* ]] || fail "a wrong answer: $answer"
[[ "$answer" == *"${addresses[one]}:7717"* && "$answer" == *"${addresses[two]}:7717"* ]] || fail "not both workers: $answer"
echo "ok      an answer from the coordinator and both workers"

roll_out
for name in localhost one two; do
  expect_recap "$name" "changed=0 "
done
echo "ok      a second run changes nothing"

on one /usr/local/bin/skein run --model $demo --cluster /etc/skein/cluster.yaml --memory 0 --ignore-eos \
  --max-tokens 2000 --prompt "Tell me a story." >/dev/null &
generation=$!
wait_for 20 "no status while serving" has_property two StatusText "* shards loaded, serving * (${addresses[one]}:*"
echo "ok      status while serving: $(property two StatusText)"
kill $generation
wait $generation || true
on one pkill -x skein || true

before=$(property two MainPID)
on two systemctl kill --signal=KILL skein-worker
wait_for 20 "no new start after kill -9" has_property two NRestarts 1
wait_for 20 "not ready after kill -9" has_property two ActiveState active
[ "$(property two MainPID)" != "$before" ] || fail "the same process after kill -9"
[[ "$(ask)" == *"37 + 58 = 95"* ]] || fail "a wrong answer after kill -9"
echo "ok      restarted after kill -9"

write_inventory one
roll_out
expect_recap two "changed=1 "
has_property two ActiveState inactive || fail "the worker on two still runs"
has_property two Result success || fail "the worker on two did not end in order"
! on two systemctl is-enabled --quiet skein-worker || fail "the worker on two would start again"
! on one grep -q two /etc/skein/cluster.yaml || fail "two is still in cluster.yaml"
[[ "$(ask)" == *"37 + 58 = 95"* ]] || fail "a wrong answer from one machine"
roll_out
for name in localhost one; do
  expect_recap "$name" "changed=0 "
done
! grep -q '^two ' "$scratch/playbook.log" || fail "two was not forgotten"
echo "ok      a machine that left is drained and forgotten"

write_inventory one two
roll_out
has_property two ActiveState active || fail "the worker on two did not come back"
echo "ok      it comes back"

on two systemctl stop skein-worker
on two sh -c 'echo treads: 4 >>/etc/skein/worker.yaml'
! on two systemctl start skein-worker 2>/dev/null || fail "a wrong worker.yaml was taken"
sleep 2
has_property two ActiveState failed || fail "a worker with a wrong worker.yaml is tried again"
on two journalctl -u skein-worker -p err -o cat | grep -q 'did you mean threads' || fail "no error in the journal"
roll_out
has_property two ActiveState active || fail "the playbook does not repair worker.yaml"
echo "ok      a mistake in worker.yaml is told and not tried again; the playbook repairs it"
