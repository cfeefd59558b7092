#!/usr/bin/python3
"""Compares a built skein with models whose outputs are known.

check_model.py SKEIN DIR... [--workers 0,1,2,3,5] [--placement experts,slices,slices+here,experts+overlap,experts+offload]
               [--batch-tokens 1,7,32,512] [--isa NAME]

Each DIR is a golden model (with model.gguf, that file is the model, and runs with --activations f32) or one written by
tests/reference/generate.py. Every combination of worker count (0: in process), placement (only with workers; "+here": this
process takes a share, too; "+overlap": steps in parts; "+offload": slices of what all rows meet on workers) and rows
per engine step must give: logits and draft logits within 2e-3, the same experts for every position with the same weights,
and the same greedy tokens. One line for each combination; exit status 1 when any is wrong.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile

import numpy as np

LOGITS_TOLERANCE = 2e-3
WEIGHTS_TOLERANCE = 1e-4  # where weights are scaled up (V2: by 16), times the scale
COMMAND_TIMEOUT_S = 300


class Wrong(Exception):
    """One sentence about what differs."""


def run(skein, args):
    try:
        result = subprocess.run(
            [skein, *args],
            capture_output=True,
            text=True,
            timeout=COMMAND_TIMEOUT_S,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        raise Wrong(f"{args[0]}: no end after {COMMAND_TIMEOUT_S} s") from None
    if result.returncode:
        raise Wrong(f"{args[0]}: exit status {result.returncode}: {result.stderr.strip()[-400:]}")
    return result.stdout


def compare_logits(mine, theirs, what):
    if not os.path.exists(mine):
        raise Wrong(f"{what}: no file was written")
    a, b = np.load(mine), np.load(theirs)
    if a.dtype != np.float32 or a.shape != b.shape:
        raise Wrong(f"{what}: {a.dtype} {a.shape}, expected float32 {b.shape}")
    off = np.abs(a - b)
    if not off.max() <= LOGITS_TOLERANCE:  # NaN is wrong too
        row, column = np.unravel_index(np.argmax(np.where(np.isnan(off), np.inf, off)), off.shape)
        rows = int((~(off <= LOGITS_TOLERANCE)).any(1).sum())
        raise Wrong(
            f"{what}: off by {off.max():.3g} at position {row}, token {column} ({rows} of {len(off)} rows are wrong)"
        )
    return off.max()


def compare_routes(mine, theirs, scale):
    if [r["layer"] for r in mine] != [r["layer"] for r in theirs]:
        raise Wrong(
            f"routes: of layers {[r['layer'] for r in mine]}, expected {[r['layer'] for r in theirs]}"
        )
    for a, b in zip(mine, theirs):
        if len(a["ids"]) != len(b["ids"]) or len(a["weights"]) != len(b["ids"]):
            raise Wrong(f"routes: layer {b['layer']} has {len(a['ids'])} positions, expected {len(b['ids'])}")
        for position, row in enumerate(zip(a["ids"], a["weights"], b["ids"], b["weights"])):
            place = f"routes: layer {b['layer']}, position {position}"
            if sorted(row[0]) != sorted(row[2]):
                raise Wrong(f"{place}: experts {sorted(row[0])}, expected {sorted(row[2])}")
            found, expected = dict(zip(row[0], row[1])), dict(zip(row[2], row[3]))
            for expert, weight in expected.items():
                if not abs(found[expert] - weight) <= WEIGHTS_TOLERANCE * scale:
                    raise Wrong(f"{place}: expert {expert} weighs {found[expert]}, expected {weight}")


def weights_scale(directory, golden):
    """What the experts' weights are scaled up by; of a GGUF file, which tells it in binary, the largest weight."""
    config = os.path.join(directory, "config.json")
    if os.path.exists(config):
        with open(config) as f:
            return max(1.0, json.load(f).get("routed_scaling_factor") or 1.0)
    return max(1.0, *(max(row) for layer in golden["routes"] for row in layer["weights"]))


def check(skein, directory, options):
    """Raises Wrong, or returns the largest difference of the logits."""
    with open(os.path.join(directory, "golden.json")) as f:
        golden = json.load(f)
    scale = weights_scale(directory, golden)
    model = os.path.join(directory, "model.gguf")
    if os.path.exists(model):
        options = [*options, "--activations", "f32"]
    else:
        model = directory
    draft = os.path.join(directory, "mtp_logits.npy")
    with tempfile.TemporaryDirectory(prefix="skein-check-") as temporary:
        ids, logits, routes, mtp = (
            os.path.join(temporary, name) for name in ("ids.json", "l.npy", "r.json", "m.npy")
        )
        with open(ids, "w") as f:
            json.dump(golden["prompt_ids"], f)
        run(
            skein,
            ["logits", "--model", model, "--ids", ids, "--out", logits, "--routes", routes]
            + (["--mtp", mtp] if os.path.exists(draft) else [])
            + options,
        )
        with open(routes) as f:
            compare_routes(json.load(f), golden["routes"], scale)
        off = compare_logits(logits, os.path.join(directory, "logits.npy"), "logits")
        if os.path.exists(draft):
            off = max(off, compare_logits(mtp, draft, "draft logits"))
        output = run(
            skein,
            [
                "run",
                "--model",
                model,
                "--prompt-ids",
                ids,
                "--max-tokens",
                str(len(golden["greedy_ids"])),
                "--temperature",
                "0",
                "--ignore-eos",
                "--json",
            ]
            + options,
        )
    try:
        answer = json.loads(output)["ids"]
    except (ValueError, KeyError, TypeError):
        raise Wrong(f"run --json: not an object with ids: {output[:200]!r}") from None
    if answer != golden["greedy_ids"]:
        raise Wrong(f"greedy tokens {answer}, expected {golden['greedy_ids']}")
    return off


def combinations(workers, placements, batches):
    for count in workers:
        for placement in placements if count else [None]:
            for batch in batches:
                yield count, placement, batch


def report(skein, directory, isa, count, placement, batch):
    """Prints one line; whether all agreed."""
    options = ["--batch-tokens", str(batch), "--isa", isa]
    where = "in process"
    if count:
        options += ["--local-workers", str(count), "--placement", placement.split("+")[0]]
        if "+overlap" in placement:
            options += ["--overlap", "on"]
        if "+offload" in placement:
            options += ["--offload", "on"]
        if "+here" in placement:
            options += ["--memory", "1T"]
        where = f"on {count} worker{'s' if count > 1 else ''}, {placement}"
    name = f"{os.path.basename(os.path.normpath(directory))} {where}, steps of {batch}"
    try:
        off = check(skein, directory, options)
        print(f"ok    {name}: within {off:.2g}", flush=True)
        return True
    except (Wrong, OSError, ValueError) as error:
        print(f"WRONG {name}: {error}", flush=True)
        return False


def check_all(
    skein,
    directories,
    workers=(0, 1, 2, 3, 5),
    placements=("experts", "slices", "slices+here"),
    batches=(1, 7, 32, 512),
    isa="auto",
):
    """-> (passed, failed)"""
    results = [
        report(skein, directory, isa, *combination)
        for directory in directories
        for combination in combinations(workers, placements, batches)
    ]
    return results.count(True), results.count(False)


def main():
    def numbers(text):
        return [int(part) for part in text.split(",")]

    parser = argparse.ArgumentParser(
        description="Compares a built skein with models whose outputs are known."
    )
    parser.add_argument("skein")
    parser.add_argument("directories", nargs="+", metavar="DIR")
    parser.add_argument("--workers", type=numbers, default=[0, 1, 2, 3, 5])
    parser.add_argument("--placement", type=lambda text: text.split(","), default=["experts", "slices", "slices+here"])
    parser.add_argument("--batch-tokens", type=numbers, default=[1, 7, 32, 512])
    parser.add_argument("--isa", default="auto")
    args = parser.parse_args()
    passed, failed = check_all(
        os.path.abspath(args.skein),
        args.directories,
        args.workers,
        args.placement,
        args.batch_tokens,
        args.isa,
    )
    print(f"{passed} passed, {failed} failed")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
