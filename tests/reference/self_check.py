#!/usr/bin/python3
"""Checks the reference itself against the golden models, which come from another implementation.

self_check.py [DIR...]   default: every model below tests/data/golden. Exit status 0 when all agree.
"""
import json
import os
import sys

import numpy as np

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from model import Model  # noqa: E402

LOGITS_TOLERANCE = 1e-4
WEIGHTS_TOLERANCE = 1e-6  # relative to the largest weight; the files keep nine digits


def check(directory):
    """-> what is wrong, as a list of sentences, and the largest difference of the logits."""
    with open(os.path.join(directory, "golden.json")) as f:
        golden = json.load(f)
    model, wrong = Model.load(directory), []
    out = model.forward(golden["prompt_ids"])
    off = np.abs(out.logits - np.load(os.path.join(directory, "logits.npy"))).max()
    if not off <= LOGITS_TOLERANCE:
        wrong.append(f"logits are off by {off:.3g}")

    if [r["layer"] for r in out.routes] != [r["layer"] for r in golden["routes"]]:
        wrong.append("other layers have experts")
    for mine, theirs in zip(out.routes, golden["routes"]):
        if mine["ids"].tolist() != theirs["ids"]:
            wrong.append(f"layer {theirs['layer']} chooses other experts")
        elif not np.allclose(
            mine["weights"], theirs["weights"], rtol=0, atol=WEIGHTS_TOLERANCE * mine["weights"].max()
        ):
            wrong.append(f"layer {theirs['layer']} weighs experts otherwise")
    if not np.isclose(out.margins.min(), golden["min_route_margin"], rtol=1e-3):
        wrong.append(f"route margin {out.margins.min():.6g}, expected {golden['min_route_margin']:.6g}")

    ids, logits, cache, gaps = [], out.logits[-1], out.cache, []
    for _ in golden["greedy_ids"]:
        second, first = np.sort(logits)[-2:]
        gaps.append(first - second)
        ids.append(int(logits.argmax()))
        step = model.forward(ids[-1:], cache)
        logits, cache = step.logits[-1], step.cache
    if ids != golden["greedy_ids"]:
        wrong.append(f"greedy {ids}, expected {golden['greedy_ids']}")
    if not np.isclose(min(gaps), golden["greedy_min_gap"], rtol=1e-3):
        wrong.append(f"greedy gap {min(gaps):.6g}, expected {golden['greedy_min_gap']:.6g}")

    draft = os.path.join(directory, "mtp_logits.npy")
    if os.path.exists(draft):
        mtp_off = np.abs(model.draft(out.hidden[:-1], golden["prompt_ids"][1:]).logits - np.load(draft)).max()
        if not mtp_off <= LOGITS_TOLERANCE:
            wrong.append(f"draft logits are off by {mtp_off:.3g}")
    return wrong, off


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    goldens = os.path.join(here, "..", "data", "golden")
    directories = sys.argv[1:] or [os.path.join(goldens, name) for name in sorted(os.listdir(goldens))]
    failed = 0
    for directory in directories:
        wrong, off = check(directory)
        failed += bool(wrong)
        print(
            f"{'WRONG' if wrong else 'ok   '} {os.path.basename(os.path.normpath(directory))}, logits within {off:.2g}"
            + "".join("\n      " + w for w in wrong)
        )
    print(f"{len(directories) - failed} passed, {failed} failed")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
