#!/usr/bin/python3
"""What further machines bring, on hosts made of network namespaces with one core each:

    hosts.py MODEL [--skein build/bin/skein] [--hosts 2] [--mbit 10000] [--delay-us 0] [-p 32] [-n 16] [-r 3]
             [--memory SIZE,...] [--isa NAME,...] [--ways "OPTIONS;OPTIONS"] [-- OPTIONS]

The first host runs the coordinator, and workers run on the others; each is pinned to a core and behind a link of --mbit
in each direction with --delay-us on the way. In alternation `skein bench` runs on the first host alone, on each host for
itself at the same time, and on all of them together; OPTIONS go to the last. Prints the medians (of decoding those of median
steps), their ratios, what was predicted, and the median of what came of each prediction: all hosts are measured anew for each run. The hosts share one
memory, so the second figure is what one host of its own would be worth here. Needs root, iproute2, and memory for the model
on each host.

--memory and --isa have one value for each host and make them unequal: what it gives to experts (the first one besides the
coordinator's own weights), and its instruction set. With --ways only all hosts together run, once with each of the given
options in turn."""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile

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
        "--isa", args.isa[index], "--json", *options,
    )  # fmt: skip
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True)


def end_bench(process):
    out, said = process.communicate()
    if process.returncode:
        sys.exit(f"bench fails: {said.strip()[-400:]}")
    return json.loads(out)


def bench_together(hosts, args, *options):
    addresses = [f"{PREFIX}{i + 1}:7717" for i in range(1, args.hosts)]
    with tempfile.TemporaryDirectory() as caches:  # where nothing is remembered of earlier runs
        for i, address in enumerate(addresses):
            hosts.start(
                i + 1, f"{args.skein}-worker", "--listen", address, "--insecure", "--threads", "1", "--model", args.model,
                "--memory", args.memory[i + 1], "--isa", args.isa[i + 1], "--cache", f"{caches}/{i + 1}", "--cache-size", "0",
            )  # fmt: skip
        result = end_bench(
            begin_bench(
                hosts, 0, args, "--workers", ",".join(addresses), "--memory", args.memory[0], "--cache", caches, *options
            )
        )
        hosts.stop_all()
    return result


def memory_of_each(hosts):
    """Of this machine's memory, which by itself each daemon would take for its own."""
    with open("/proc/meminfo") as f:
        available_kib = next(int(line.split()[1]) for line in f if line.startswith("MemAvailable"))
    return str(available_kib * 1024 * 8 // 10 // hosts)


def for_each_host(text, hosts):
    """One value stands for all."""
    values = text.split(",")
    if len(values) not in (1, hosts):
        sys.exit(f"{text}: give one value, or one for each of {hosts} hosts")
    return values * hosts if len(values) == 1 else values


def rate_of(title, result):
    """Of decoding that of the median step: what happens to a machine now and then is not what is compared."""
    step_ms = result[title].get("step_ms")
    return 1000 / step_ms["median"] if step_ms else result[title]["tokens_per_s"]


def rates_of(title, results):
    """The median, and it with what it lies between, as text."""
    rates = [rate_of(title, result) for result in results]
    return statistics.median(rates), f"{statistics.median(rates):.2f} ({min(rates):.2f}–{max(rates):.2f})"


def predicted(title, results):
    predictions = [result["predicted"]["plan"][f"{title}_tokens_per_s"] for result in results if "plan" in result["predicted"]]
    if not predictions:
        return "nothing predicted"
    reached = [rate_of(title, result) / prediction for result, prediction in zip(results, predictions)]
    return (
        f"predicted {statistics.median(predictions):.2f} ({min(predictions):.2f}–{max(predictions):.2f}), of which came "
        f"{statistics.median(reached):.0%} ({min(reached):.0%}–{max(reached):.0%})"
    )


def placement(results):
    return results[0]["predicted"].get("plan", {}).get("placement", "")


def report(title, alone, side_by_side, together):
    (one, alone_text), (beside, beside_text), (all_of_them, text) = (
        rates_of(title, results) for results in (alone, side_by_side, together)
    )
    print(
        f"{title:8}  alone {alone_text}, beside others {beside_text}, together {text} tokens/s: "
        f"{all_of_them / one:.2f}x and {all_of_them / beside:.2f}x; {predicted(title, together)}"
    )


def compare_ways(hosts, args):
    """All hosts together, in each way in turn."""
    results = {way: [] for way in args.ways.split(";")}
    for _ in range(args.r):
        for way, runs in results.items():
            runs.append(bench_together(hosts, args, *way.split(), *args.options))
    for way, runs in results.items():
        print(f"{way}: {placement(runs)}; fan-out {runs[0]['fanout_mean']:.2f}")
        for title in ("decode", "prefill"):
            print(f"  {title:8}  {rates_of(title, runs)[1]} tokens/s; {predicted(title, runs)}")


def compare_hosts(hosts, args):
    """The first host alone, each for itself, and all together."""
    alone, side_by_side, together = [], [], []
    for _ in range(args.r):
        alone.append(end_bench(begin_bench(hosts, 0, args)))
        each = [begin_bench(hosts, i, args) for i in range(args.hosts)]
        side_by_side += map(end_bench, each)
        together.append(bench_together(hosts, args, *args.options))
    print(placement(together))
    report("decode", alone, side_by_side, together)
    report("prefill", alone, side_by_side, together)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--skein", default="build/bin/skein")
    parser.add_argument("--hosts", type=int, default=2)
    parser.add_argument("--mbit", type=int, default=10000)
    parser.add_argument("--delay-us", type=int, default=0)
    parser.add_argument("--memory")
    parser.add_argument("--isa", default="auto")
    parser.add_argument("--ways")
    parser.add_argument("-p", type=int, default=32)
    parser.add_argument("-n", type=int, default=16)
    parser.add_argument("-r", type=int, default=3)
    parser.add_argument("options", nargs="*")
    args = parser.parse_args()
    args.skein, args.model = os.path.abspath(args.skein), os.path.abspath(args.model)
    args.memory = for_each_host(args.memory or memory_of_each(args.hosts), args.hosts)
    args.isa = for_each_host(args.isa, args.hosts)
    with Hosts(args.hosts, args.mbit, args.delay_us) as hosts:
        print(f"{args.hosts} hosts of one core, {args.mbit} Mbit/s, {args.delay_us} us")
        (compare_ways if args.ways else compare_hosts)(hosts, args)


if __name__ == "__main__":
    main()
