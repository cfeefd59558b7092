#!/usr/bin/python3
"""What further machines bring, on hosts made of network namespaces with one core each:

    hosts.py MODEL [--skein build/bin/skein] [--hosts 2] [--mbit 10000] [--delay-us 0] [-p 32] [-n 16] [-r 3] [-- OPTIONS]

The first host runs the coordinator, and workers run on the others; each is pinned to a core and behind a link of --mbit
in each direction with --delay-us on the way. In alternation `skein bench` runs on the first host alone, on each host for
itself at the same time, and on all of them together; OPTIONS go to the last. Prints the medians, their ratios, and what
was predicted. The hosts share one memory, so the second figure is what one host of its own would be worth here. Needs
root, iproute2, and memory for the model on each host."""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys

PREFIX = "10.214.77."


def call(*command):
    subprocess.run(command, check=True, capture_output=True)


class Hosts:
    """Namespaces on a bridge, until the `with` block ends."""

    def __init__(self, count, mbit, delay_us):
        self.names = [f"skein{os.getpid()}h{i}" for i in range(count)]
        self.bridge = f"sk{os.getpid() % 100000}br"
        self.mbit, self.delay_us = mbit, delay_us
        self.processes = []

    def __enter__(self):
        try:
            call("ip", "link", "add", self.bridge, "type", "bridge")
            call("ip", "link", "set", self.bridge, "up")
            for i, name in enumerate(self.names):
                self.add(i, name)
        except subprocess.CalledProcessError as problem:
            self.__exit__()
            sys.exit(f"no hosts here: {' '.join(problem.cmd)}: {problem.stderr.decode().strip()}")
        return self

    def add(self, index, name):
        outer = f"sk{os.getpid() % 100000}v{index}"
        call("ip", "netns", "add", name)
        call("ip", "link", "add", outer, "type", "veth", "peer", "name", "eth0", "netns", name)
        call("ip", "link", "set", outer, "master", self.bridge, "up")
        call("ip", "-n", name, "addr", "add", f"{PREFIX}{index + 1}/24", "dev", "eth0")
        call("ip", "-n", name, "link", "set", "eth0", "up")
        call("ip", "-n", name, "link", "set", "lo", "up")
        for where in (("tc",), ("ip", "netns", "exec", name, "tc")):
            device = outer if len(where) == 1 else "eth0"
            limit = ["rate", f"{self.mbit}mbit", "burst", "256kb", "latency", "100ms"]
            call(*where, "qdisc", "add", "dev", device, "root", "handle", "1:", "tbf", *limit)
            if self.delay_us:
                delay = ["netem", "delay", f"{self.delay_us / 2}us", "limit", "100000"]
                call(*where, "qdisc", "add", "dev", device, "parent", "1:", "handle", "2:", *delay)

    def command(self, index, *command):
        core = str(index % os.cpu_count())
        return ["ip", "netns", "exec", self.names[index], "taskset", "-c", core, *command]

    def start(self, index, *command):
        process = subprocess.Popen(self.command(index, *command), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        process.stdout.readline()  # "listening …"
        self.processes.append(process)

    def stop_all(self):
        for process in self.processes:
            process.kill()
            process.wait()
        self.processes = []

    def __exit__(self, *_):
        self.stop_all()
        for name in self.names:
            with contextlib.suppress(subprocess.CalledProcessError):
                call("ip", "netns", "del", name)
        with contextlib.suppress(subprocess.CalledProcessError):
            call("ip", "link", "del", self.bridge)


def begin_bench(hosts, index, args, *options):
    """One repetition."""
    command = hosts.command(
        index, args.skein, "bench", "--model", args.model, "--threads", "1", "-p", str(args.p), "-n", str(args.n), "-r", "1",
        "--json", *options,
    )  # fmt: skip
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True)


def end_bench(process):
    out, said = process.communicate()
    if process.returncode:
        sys.exit(f"bench fails: {said.strip()[-400:]}")
    return json.loads(out)


def bench_together(hosts, args, *options):
    memory = memory_of_each(args.hosts)
    addresses = [f"{PREFIX}{i + 1}:7717" for i in range(1, args.hosts)]
    for i, address in enumerate(addresses):
        hosts.start(
            i + 1, f"{args.skein}-worker", "--listen", address, "--insecure", "--threads", "1", "--model", args.model,
            "--memory", memory,
        )  # fmt: skip
    result = end_bench(begin_bench(hosts, 0, args, "--workers", ",".join(addresses), "--memory", memory, *options))
    hosts.stop_all()
    return result


def memory_of_each(hosts):
    """Of this machine's memory, which by itself each daemon would take for its own."""
    with open("/proc/meminfo") as f:
        available_kib = next(int(line.split()[1]) for line in f if line.startswith("MemAvailable"))
    return str(available_kib * 1024 * 8 // 10 // hosts)


def report(title, alone, side_by_side, together):
    runs = (alone, side_by_side, together)
    rates = [[result[title]["tokens_per_s"] for result in results] for results in runs]
    one, beside, all_of_them = (statistics.median(rate) for rate in rates)
    spread = [f"{min(rate):.2f}–{max(rate):.2f}" for rate in rates]
    plan = together[0]["predicted"].get("plan")
    predicted = f"{plan[f'{title}_tokens_per_s']:.2f}" if plan else "nothing"
    print(
        f"{title:8}  alone {one:.2f} ({spread[0]}), beside others {beside:.2f} ({spread[1]}), together {all_of_them:.2f} "
        f"({spread[2]}) tokens/s: {all_of_them / one:.2f}x and {all_of_them / beside:.2f}x; predicted {predicted}"
    )


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--skein", default="build/bin/skein")
    parser.add_argument("--hosts", type=int, default=2)
    parser.add_argument("--mbit", type=int, default=10000)
    parser.add_argument("--delay-us", type=int, default=0)
    parser.add_argument("-p", type=int, default=32)
    parser.add_argument("-n", type=int, default=16)
    parser.add_argument("-r", type=int, default=3)
    parser.add_argument("options", nargs="*")
    args = parser.parse_args()
    args.skein, args.model = os.path.abspath(args.skein), os.path.abspath(args.model)
    alone, side_by_side, together = [], [], []
    with Hosts(args.hosts, args.mbit, args.delay_us) as hosts:
        for _ in range(args.r):
            alone.append(end_bench(begin_bench(hosts, 0, args)))
            each = [begin_bench(hosts, i, args) for i in range(args.hosts)]
            side_by_side += map(end_bench, each)
            together.append(bench_together(hosts, args, *args.options))
    placement = together[0]["predicted"].get("plan", {}).get("placement", "")
    print(f"{args.hosts} hosts of one core, {args.mbit} Mbit/s, {args.delay_us} us; {placement}")
    report("decode", alone, side_by_side, together)
    report("prefill", alone, side_by_side, together)


if __name__ == "__main__":
    main()
