#!/usr/bin/python3
"""What `skein plan` says, and that runs go by it:

    plan.py SKEIN

Plans for models that are only a config.json: every machine within its memory, every expert somewhere, parts that add up
to the step, the same answer twice. Runs on daemons that a cluster file describes: the placement that was chosen, what was
predicted beside what was measured, and the same tokens whatever the placement. How long planning took is printed, never
asserted."""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from error_bench import DEMO, Bench, Worker, call, require  # noqa: E402

V3 = dict(
    model_type="deepseek_v3", num_hidden_layers=61, hidden_size=7168, vocab_size=129280, max_position_embeddings=163840,
    rms_norm_eps=1e-6, intermediate_size=18432, num_attention_heads=128, q_lora_rank=1536, kv_lora_rank=512,
    qk_nope_head_dim=128, qk_rope_head_dim=64, v_head_dim=128, rope_theta=10000, n_routed_experts=256, n_shared_experts=1,
    moe_intermediate_size=2048, num_experts_per_tok=8, first_k_dense_replace=3, scoring_func="sigmoid",
    topk_method="noaux_tc", n_group=8, topk_group=4, norm_topk_prob=True, routed_scaling_factor=2.5,
)  # fmt: skip
V2_LITE = dict(
    model_type="deepseek_v2", num_hidden_layers=27, hidden_size=2048, vocab_size=102400, max_position_embeddings=163840,
    rms_norm_eps=1e-6, intermediate_size=10944, num_attention_heads=16, kv_lora_rank=512, qk_nope_head_dim=128,
    qk_rope_head_dim=64, v_head_dim=128, rope_theta=10000, n_routed_experts=64, n_shared_experts=2,
    moe_intermediate_size=1408, num_experts_per_tok=6, first_k_dense_replace=1, scoring_func="softmax",
    topk_method="greedy", norm_topk_prob=False, routed_scaling_factor=1.0,
)  # fmt: skip
GIB = 1 << 30
SUM = "What is 37 plus 58?"


def model(bench, name, config):
    os.makedirs(bench.path(name), exist_ok=True)
    bench.write(f"{name}/config.json", json.dumps(config))
    return bench.path(name)


def plan(bench, directory, cluster, *args):
    path = bench.write("cluster.yaml", cluster)
    return json.loads(call(bench.skein, "plan", "--model", directory, "--cluster", path, "--json", *args))


def machine(memory_gib, gb_per_s, gops, **others):
    pairs = {"memory": f"{memory_gib}G", "read_gb_per_s": gb_per_s, "gops": gops, **others}
    return "{" + ", ".join(f"{key}: {value}" for key, value in pairs.items()) + "}"


def cluster(workers, coordinator, gbit_per_s=10, round_trip_us=80):
    lines = [f"link: {{gbit_per_s: {gbit_per_s}, round_trip_us: {round_trip_us}}}", f"coordinator: {coordinator}", "workers:"]
    return "\n".join([*lines, *(f"  - {worker}" for worker in workers)]) + "\n"


def check_sound(result):
    """What holds for every plan."""
    held = 0
    for held_by in result["machines"]:
        in_memory = held_by["experts_bytes"] - held_by["spilled_bytes"]
        require(in_memory <= held_by["memory_bytes"], f"{held_by['name']} holds more than it has")
        held += held_by["experts_bytes"]
    require(held >= 0.999 * result["memory"]["experts_bytes"], "some experts are nowhere")
    for work in ("decode", "prefill"):
        at = result[work]
        require(at["tokens_per_s"] > 0 and at["step_s"] > 0, f"{work} takes no time")
        require(at["tokens_per_s"] <= at["limit"]["at_most_tokens_per_s"] * 1.0001, f"{work} is faster than it can be")
        require(at["parts"] in (1, 2, 4) and at["parts"] <= at["rows"], f"a step of {at['parts']} parts")
        require(0.9999 < at["fanout"] < len(result["machines"]) + 0.0001, f"fan-out {at['fanout']}")
        layer = at["layer"]
        visible = sum(layer[key] for key in layer if key not in ("round_trip_s", "out_s", "compute_s", "in_s", "disk_s"))
        layers = sum(way is not None for way in result["layers"])
        require(visible * layers <= at["step_s"] * 1.0001, f"the parts of {work} are more than the step")
        for other in result["alternatives"]:
            require(other[f"{work}_tokens_per_s"] > 0, f"{other['placement']} has no speed")
        for more in result["with_one_more"]:
            require(more["fits"] and more[f"{work}_tokens_per_s"] > 0, f"{more['what']} has no speed")
    require(result["fits"] and len(result["with_one_more"]) >= 3, "it does not say what more would give")


def check_big_model(bench):
    directory = model(bench, "v3", V3)
    machines = cluster([machine(28, 40, 400, count=16, name="mini")], machine(64, 80, 1000))
    began = time.monotonic()
    first = plan(bench, directory, machines, "--type", "q4_k")
    seconds = time.monotonic() - began
    check_sound(first)
    require(len(first["machines"]) == 17, "not all machines are listed")
    require(first == plan(bench, directory, machines, "--type", "q4_k"), "a second plan is another one")
    return f"V3 over 16 machines planned in {seconds:.1f} s: {first['placement']}"


def check_types(bench):
    directory = model(bench, "v3", V3)
    machines = cluster([machine(700, 40, 400)], machine(1700, 80, 1000))
    sizes = {}
    for name in ("q4_0", "q4_k", "q8_0", "fp8", "bf16"):
        result = plan(bench, directory, machines, "--type", name)
        check_sound(result)
        sizes[name] = (result["memory"]["experts_bytes"] + result["memory"]["own_bytes"]) / 1e9
    # 671 billion weights of 0.5625 (and the scales of Q4_K as bytes), 1.0625, 1.0002 and 2 bytes, mostly.
    for name, wanted in (("q4_0", 377), ("q4_k", 389), ("q8_0", 713), ("fp8", 673), ("bf16", 1342)):
        require(abs(sizes[name] / wanted - 1) < 0.01, f"{name} takes {sizes[name]:.0f} GB, expected {wanted}")


def check_objectives(bench):
    """Optimising for one thing is never worse at it than for another; a slow network brings whole groups."""
    directory = model(bench, "v3", {**V3, "num_hidden_layers": 8})
    for gbit in (1, 25):
        workers = [machine(20, 40, 1000, count=8)]
        results = {
            work: plan(bench, directory, cluster(workers, machine(16, 80, 3000), gbit), "--type", "q4_k", "--optimize", work)
            for work in ("decode", "prefill", "balanced")
        }
        for work in ("decode", "prefill"):
            best = results[work][work]["tokens_per_s"]
            for name, result in results.items():
                check_sound(result)
                require(best >= result[work]["tokens_per_s"] * 0.999, f"{name} is better at {work} than {work}")
            for more in results[work]["with_one_more"]:
                require(more[f"{work}_tokens_per_s"] >= best * 0.999, f"{more['what']} is slower at {work}")
    slow = plan(bench, directory, cluster(workers, machine(16, 80, 3000), 1), "--type", "q4_k", "--optimize", "prefill")
    require(slow["placement"].startswith("whole groups"), f"1 Gbit/s gives {slow['placement']}")
    require(slow["prefill"]["fanout"] <= 4.0001, f"groups give a fan-out of {slow['prefill']['fanout']}")


def check_unequal(bench):
    directory = model(bench, "v2-lite", V2_LITE)
    workers = [machine(6, 10, 100), machine(2, 20, 100), machine(1, 40, 300)]
    for work in ("decode", "prefill", "balanced"):
        for replicas in ("auto", "off", "spare"):
            for placement in ("auto", "experts", "slices"):
                args = ("--type", "q4_0", "--optimize", work, "--replicas", replicas, "--placement", placement)
                result = plan(bench, directory, cluster(workers, machine(4, 20, 200)), *args)
                check_sound(result)
                require(replicas != "off" or result["replicas"] == 0, "copies that were not wanted")
                require(replicas != "spare" or result["replicas"] > 0, "no copies in spare memory")


def check_memory_of_coordinator(bench):
    directory = model(bench, "v2-lite", V2_LITE)
    for args, wanted in ((("--memory", "0"), None), (("--memory", "2G"), 2 * GIB), ((), 0.9 * 8 * GIB)):
        result = plan(bench, directory, cluster([machine(16, 10, 100)], machine(8, 20, 200)), "--type", "q4_0", *args)
        check_sound(result)
        own = [held_by for held_by in result["machines"] if held_by["coordinator"]]
        require(len(own) == (wanted is not None), f"{args}: {len(own)} shares of the coordinator")
        if not args:
            wanted -= result["memory"]["own_bytes"] + result["memory"]["cache_bytes"]
        if own:
            require(abs(own[0]["memory_bytes"] - wanted) < 16, f"{args}: it offers {own[0]['memory_bytes']}")


def check_popularity(bench):
    """A few experts that most tokens choose come to where reading is fast."""
    directory = model(bench, "v2-lite", V2_LITE)
    hot = {str(layer): [1000 if e < 8 else 1 for e in range(64)] for layer in range(1, 27)}
    statistics = bench.write("popularity.json", json.dumps({"layers": hot}))
    workers = [machine(8, 5, 1000), machine(1.5, 40, 1000)]
    args = ("--type", "q4_0", "--optimize", "decode", "--memory", "0", "--replicas", "off", "--placement", "experts")
    even = plan(bench, directory, cluster(workers, machine(4, 20, 200)), *args)
    known = plan(bench, directory, cluster(workers, machine(4, 20, 200)), *args, "--popularity", statistics)
    check_sound(known)
    require(
        known["decode"]["tokens_per_s"] > 1.2 * even["decode"]["tokens_per_s"],
        f"{known['decode']['tokens_per_s']} against {even['decode']['tokens_per_s']} tokens/s",
    )


def check_table(bench):
    directory = model(bench, "v2-lite", V2_LITE)
    path = bench.write("cluster.yaml", cluster([machine(6, 10, 100, name="old PC")], machine(4, 20, 200)))
    text = call(bench.skein, "plan", "--model", directory, "--cluster", path, "--type", "q4_0")
    for word in ("DeepSeek V2", "old PC", "coordinator", "fan-out", "tokens/s", "attention", "router", "shared experts",
                 "round trip", "combine", "limited by", "at most", "other ways", "GiB",
                 "with more", "one more machine like old PC"):  # fmt: skip
        require(word in text, f"the table lacks {word!r}")


def gain_of(result, what):
    """How many times as fast decoding is with it."""
    (more,) = [more for more in result["with_one_more"] if what in more["what"]]
    return more["decode_tokens_per_s"] / result["decode"]["tokens_per_s"]


def check_one_core_hosts(bench):
    """Where four and eight of them saturate, and why; the coordinator is described, or this machine."""
    directory = model(bench, "v2-lite", V2_LITE)
    args = ("--type", "q4_0", "--optimize", "decode", "--context", "512")
    gains = []
    for hosts in (4, 8):
        workers = [machine(16, 10, 60, count=hosts - 1, name="host")]
        result = plan(bench, directory, cluster(workers, machine(16, 10, 60), 10, 60), *args)
        check_sound(result)
        limit = result["decode"]["limit"]
        require(limit["what"] == "coordinator" and limit["part"] > 0.6, f"{hosts} hosts are limited by {limit}")
        gains.append(gain_of(result, "one more machine like host"))
        require(gain_of(result, "coordinator") > 1.4, f"{hosts} hosts do not gain by a faster coordinator")
        text = call(bench.skein, "plan", "--model", directory, "--cluster", bench.path("cluster.yaml"), *args)
        for words in ("limited by the coordinator's own work", "the coordinator works", "attention", "it waits"):
            require(words in text, f"{hosts} hosts: the table lacks {words!r}")
        hosts_only = bench.write("hosts.yaml", f"workers: [{workers[0]}]\n")
        text = call(bench.skein, "plan", "--model", DEMO, "--cluster", hosts_only)
        for words in ("limited by", "the coordinator works", "with more"):
            require(words in text, f"{hosts} hosts and this machine: the table lacks {words!r}")
    require(gains[0] > 1.05 and gains[1] < gains[0], f"one more host gives {gains} times as much")


def check_kinds(bench):
    """One line for each kind of machine, the best one first; each at least as good as without it."""
    directory = model(bench, "v2-lite", V2_LITE)
    workers = [machine(4, 5, 50, count=3, name="old"), machine(16, 20, 400, name="new")]
    result = plan(bench, directory, cluster(workers, machine(4, 60, 900)), "--type", "q4_0", "--memory", "0")
    check_sound(result)
    what = [more["what"] for more in result["with_one_more"]]
    require(sorted(what[:2]) == ["one more machine like new", "one more machine like old"], f"kinds: {what}")
    require(what[0].endswith("new") and what[2:] == ["a coordinator twice as fast", "links twice as fast"], f"{what}")


def check_unfit(bench):
    """What does not fit fits with so many more machines as it says, and not with one less."""
    directory = model(bench, "v2-lite", V2_LITE)
    coordinator = machine(2, 20, 200)

    def planned(count, *args):
        workers = [machine(1, 10, 100), machine(1.5, 10, 100, name="big", count=count)]
        path = bench.write("cluster.yaml", cluster(workers, coordinator))
        command = [bench.skein, "plan", "--model", directory, "--cluster", path, "--type", "q4_0", "--memory", "0", *args]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL)

    result = planned(2, "--json")
    answer = json.loads(result.stdout)
    (more,) = answer["with_one_more"]
    count = int(more["what"].split()[0])
    require(result.returncode == 1 and "missing" in result.stderr, f"{result.returncode}: {result.stderr}")
    require(f"fits with {count} more machines like big" in result.stderr, f"it says {result.stderr}")
    require(not answer["fits"] and more["fits"] and more["decode_tokens_per_s"] > 0, f"it says {answer}")
    require(planned(2 + count).returncode == 0, f"{count} more do not suffice")
    require(planned(1 + count).returncode == 1, f"{count - 1} more would suffice")


def check_header_model(bench):
    """A model that is there, by its headers, on a machine that is measured."""
    result = plan(bench, DEMO, "workers: [{memory: 1G, read_gb_per_s: 20, gops: 100}]\n")
    check_sound(result)
    require(result["machines"][-1]["coordinator"], "this machine takes no share")


# ---- Runs ----


def check_runs(bench):
    """On described daemons: every placement gives the same tokens and says what was predicted."""
    with contextlib.ExitStack() as stack:
        workers = [stack.enter_context(Worker(bench, f"w{i}")) for i in range(3)]
        lines = [machine(1, 5 * (i + 1), 50, address=f"'{w.address}'") for i, w in enumerate(workers)]
        path = bench.write("described.yaml", cluster(lines, "{}").replace("coordinator: {}\n", ""))
        tokens = set()
        for args in (
            ["--memory", "0"],
            ["--memory", "0", "--optimize", "decode", "--replicas", "spare"],
            ["--memory", "64M"],
            ["--memory", "0", "--placement", "experts", "--replicas", "spare"],
            ["--memory", "64M", "--placement", "slices", "--replicas", "spare"],
        ):
            command = [bench.skein, "run", "--model", DEMO, "--prompt", SUM, "--json", "--cluster", path, *args]
            result = json.loads(call(*command))
            tokens.add(tuple(result["ids"]))
            predicted = result["stats"]["predicted"]
            require(predicted["placement"], f"{args}: no placement is named")
            for key in ("prompt_tokens_per_s", "decode_tokens_per_s"):
                require(predicted[key] > 0, f"{args}: {key} is {predicted[key]}")
            if "--placement" in args:
                idle = [held["address"] for held in result["stats"]["workers"] if not held["experts"]]
                require(not idle, f"{args}: nothing on {idle}")
        require(len(tokens) == 1, f"placements differ: {tokens}")
        text = call(bench.skein, "bench", "--model", DEMO, "-p", "8", "-n", "2", "-r", "1", "--cluster", path)
        require("predicted" in text, f"bench does not say what was predicted: {text}")
        command = [bench.skein, "bench", "--model", DEMO, "-p", "8", "-n", "2", "-r", "1", "--cluster", path, "--json"]
        predicted = json.loads(call(*command))["predicted"]["plan"]
        require(predicted["decode_tokens_per_s"] > 0 and predicted["placement"], f"bench predicts {predicted}")


def main():
    skein = os.path.abspath(sys.argv[1] if len(sys.argv) > 1 else "build/bin/skein")
    # Figures of this machine are measured into a cache of our own.
    with tempfile.TemporaryDirectory() as cache:
        os.environ["XDG_CACHE_HOME"] = cache
        os.environ.pop("CACHE_DIRECTORY", None)
        with Bench(os.path.dirname(skein), None, True) as bench:
            for name, check in (
                ("a big model over 16 machines", check_big_model),
                ("types of weights", check_types),
                ("objectives", check_objectives),
                ("unequal machines, every kind, copies", check_unequal),
                ("the coordinator's memory", check_memory_of_coordinator),
                ("popularity", check_popularity),
                ("the table", check_table),
                ("one-core hosts", check_one_core_hosts),
                ("kinds of machines", check_kinds),
                ("machines that do not suffice", check_unfit),
                ("a model that is there, on this machine", check_header_model),
                ("runs on described machines", check_runs),
            ):
                bench.case(name, lambda: check(bench))
    sys.exit(bench.report())


if __name__ == "__main__":
    main()
