"""Cases of error_cases.py about `skein plan` and what cluster files may hold."""

import json
import os

import peers
from error_bench import DEMO, V3

MACHINE = "memory: 1G, read_gb_per_s: 20, gops: 100"
COORDINATOR = f"coordinator: {{{MACHINE}}}\n"


def plan_cases(bench):
    def case(name, text, *places, status=1, args=()):
        def check():
            path = bench.write("cluster.yaml", text)
            command = ["plan", "--model", DEMO, "--cluster", path, *args]
            return bench.refuse(command, places, status)

        bench.case(f"plan: {name}", check)

    good = f"workers: [{{{MACHINE}}}]\n{COORDINATOR}"
    bench.case("plan: no model", lambda: bench.refuse(["plan"], ["--model"], status=2))
    bench.case("plan: no cluster", lambda: bench.refuse(["plan", "--model", DEMO], ["--cluster"], status=2))
    bench.case(
        "plan: no such file",
        lambda: bench.refuse(["plan", "--model", DEMO, "--cluster", bench.path("no.yaml")], ["no.yaml"]),
    )
    bench.case(
        "plan: a folder in place of a file",
        lambda: bench.refuse(["plan", "--model", DEMO, "--cluster", bench.folder], [bench.folder]),
    )
    for name, text, places in (
        ("an empty file", "", ["names no worker"]),
        ("no YAML", "workers: [", [r"cluster.yaml:\d", "YAML"]),
        ("a list", "- a\n", ["cluster.yaml:1", "workers"]),
        ("an unknown key", good + "switch: 7\n", ["cluster.yaml:3", "switch"]),
        ("a misspelt key", good.replace("gops", "gpos"), ["cluster.yaml:1", "gpos", "did you mean gops"]),
        ("a machine without memory", good.replace("memory: 1G, ", "", 1), ["cluster.yaml:1", "memory"]),
        ("no memory at all", good.replace("1G", "0"), ["cluster.yaml:1", "memory"]),
        ("a speed of 0", good.replace("20", "0"), ["read_gb_per_s"]),
        ("a speed that is no number", good.replace("20", ".nan"), ["read_gb_per_s"]),
        ("an unknown format", good.replace("gops: 100", "gops: {q3: 5}"), ["gops", "q4_k"]),
        ("an address twice", "workers: [a:1, {address: 'a:1'}]\n", ["a:1 twice"]),
        ("300 workers", f"workers: [{{count: 200, {MACHINE}}}, {{count: 100, {MACHINE}}}]\n", ["more than 256"]),
        ("a node within itself", "workers: &a [*a]\n", ["a worker"]),
    ):
        case(name, text, *places, status=(1, 2))
    case("too little memory", good.replace("1G", "4M", 1), "missing", "add workers", args=("--memory", "1M"))
    case("no worker there", f"workers: ['{peers.free_address()}']\n{COORDINATOR}", "127.0.0.1", "skein-worker")
    case("an unknown type", good, "--type", status=2, args=("--type", "q3"))
    case("no statistics", good, "nothing.json", args=("--popularity", bench.path("nothing.json")))
    statistics = bench.write("other.json", json.dumps({"layers": {"1": [1, 2, 3]}}))
    case("statistics of another model", good, "other.json", "layer", args=("--popularity", statistics))

    def no_weights():
        path = bench.write("cluster.yaml", good)
        directory = os.path.dirname(bench.path("config-only/x"))
        os.makedirs(directory, exist_ok=True)
        with open(os.path.join(V3, "config.json")) as source, open(os.path.join(directory, "config.json"), "w") as f:
            f.write(source.read())
        return bench.refuse(["plan", "--model", directory, "--cluster", path], ["model.safetensors"])

    bench.case("plan: no weights and no type", no_weights)
    bench.case(
        "run: a machine that is not there",
        lambda: bench.refuse(
            ["run", "--model", V3, "--prompt-ids", bench.ids, "--cluster", bench.write("cluster.yaml", good)],
            ["cluster.yaml", "worker 1", "no address"],
            status=2,
        ),
    )
