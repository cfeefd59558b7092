#!/usr/bin/python3
"""What further machines bring, on hosts made of network namespaces with one core each:

    hosts.py MODEL [--skein build/bin/skein] [--hosts 2] [--mbit 10000] [--delay-us 0] [-p 32] [-n 16] [-r 3] [-- OPTIONS]

The first host runs the coordinator, and workers run on the others; each is pinned to a core and behind a link of --mbit
in each direction with --delay-us on the way. In alternation `skein bench` runs on the first host alone and on all of
them; OPTIONS go to the latter. Prints the medians, their ratio, and what was predicted. Needs root and iproute2."""

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

    def __exit__(self, *_):
        for process in self.processes:
            process.kill()
            process.wait()
        for name in self.names:
            with contextlib.suppress(subprocess.CalledProcessError):
                call("ip", "netns", "del", name)
        with contextlib.suppress(subprocess.CalledProcessError):
            call("ip", "link", "del", self.bridge)


def bench(hosts, args, *options):
    """One repetition."""
    command = hosts.command(
        0, args.skein, "bench", "--model", args.model, "--threads", "1", "-p", str(args.p), "-n", str(args.n), "-r", "1",
        "--json", *options,
    )  # fmt: skip
    result = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if result.returncode:
        sys.exit(f"bench fails: {result.stderr.strip()[-400:]}")
    return json.loads(result.stdout)


def report(title, alone, together):
    rates = [[run[title]["tokens_per_s"] for run in runs] for runs in (alone, together)]
    one, all_of_them = (statistics.median(rate) for rate in rates)
    spread = ["–".join(f"{value:.2f}" for value in (min(rate), max(rate))) for rate in rates]
    plan = together[0]["predicted"].get("plan")
    predicted = f"{plan[f'{title}_tokens_per_s']:.2f}" if plan else "nothing"
    print(
        f"{title:8}  alone {one:.2f} ({spread[0]})  together {all_of_them:.2f} ({spread[1]}) tokens/s: "
        f"{all_of_them / one:.2f}x; predicted {predicted}"
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
    alone, together = [], []
    with Hosts(args.hosts, args.mbit, args.delay_us) as hosts:
        addresses = [f"{PREFIX}{i + 1}:7717" for i in range(1, args.hosts)]
        for i, address in enumerate(addresses):
            hosts.start(
                i + 1, f"{args.skein}-worker", "--listen", address, "--insecure", "--threads", "1", "--model", args.model
            )  # fmt: skip
        for _ in range(args.r):
            alone.append(bench(hosts, args))
            together.append(bench(hosts, args, "--workers", ",".join(addresses), *args.options))
    placement = together[0]["predicted"].get("plan", {}).get("placement", "")
    print(f"{args.hosts} hosts of one core, {args.mbit} Mbit/s, {args.delay_us} us; {placement}")
    report("decode", alone, together)
    report("prefill", alone, together)


if __name__ == "__main__":
    main()
