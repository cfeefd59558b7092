#!/usr/bin/python3
"""What each format of the KV cache costs in accuracy: kv_cache.py SKEIN

On the golden models, whose random weights make every rounding show: f32 within 2e-3 of the reference logits, and by
default too; f16, bf16 and q8 within a share of the logits' deviation (root mean square over all positions; experts
that change because of a rounding are in it). The demo model, which is trained, must give its exact answers with each.
Needs python3-numpy."""
import glob
import json
import os
import subprocess
import sys
import tempfile

import numpy as np

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../..")
F32_TOLERANCE = 2e-3  # largest difference
SHARES = {"f16": 0.05, "bf16": 0.2, "q8": 0.4}  # measured: up to 0.029, 0.10 and 0.19
SHARE_MIN = 1e-4  # less would mean that another format was used
QUESTIONS_STEP = 12

passed = failed = 0


def check(name, problem):
    global passed, failed
    passed += not problem
    failed += bool(problem)
    print(f"{'WRONG' if problem else 'ok   '} {name}{': ' + problem if problem else ''}", flush=True)


def run(args):
    result = subprocess.run([sys.argv[1], *args], capture_output=True, text=True, timeout=300)
    if result.returncode:
        raise RuntimeError(f"exit status {result.returncode}: {result.stderr.strip()[-300:]}")
    return result.stdout


def logits(directory, options):
    """-> (ours, the reference's)"""
    with open(os.path.join(directory, "golden.json")) as f:
        golden = json.load(f)
    model = os.path.join(directory, "model.gguf")
    if os.path.exists(model):
        options = [*options, "--activations", "f32"]
    else:
        model = directory
    with tempfile.TemporaryDirectory(prefix="skein-kv-") as folder:
        ids, out = os.path.join(folder, "ids.json"), os.path.join(folder, "logits.npy")
        with open(ids, "w") as f:
            json.dump(golden["prompt_ids"], f)
        run(["logits", "--model", model, "--ids", ids, "--out", out, "--batch-tokens", "7", *options])
        return np.load(out).astype(float), np.load(os.path.join(directory, "logits.npy")).astype(float)


def check_golden(directory):
    name = os.path.basename(directory)
    for options in ([], ["--kv-cache", "f32"]):
        ours, reference = logits(directory, options)
        off = np.abs(ours - reference).max()
        problem = "" if off <= F32_TOLERANCE else f"off by {off:.3g}"
        check(f"{name}, {' '.join(options) or 'default'}", problem)
    for form, limit in SHARES.items():
        ours, reference = logits(directory, ["--kv-cache", form])
        share = np.sqrt(np.mean((ours - reference) ** 2)) / reference.std()
        problem = "" if SHARE_MIN < share <= limit else f"off by {share:.3g} of the deviation"
        check(f"{name}, {form}", problem)


def check_demo(form):
    model = os.path.join(ROOT, "deploy/demo-model")
    with open(os.path.join(model, "questions.json")) as f:
        questions = json.load(f)
    for question in questions[::QUESTIONS_STEP]:
        answer = json.loads(run(["run", "--model", model, "--prompt", question["question"], "--json", "--kv-cache", form]))
        problem = "" if answer["text"] == question["answer"] else f"{answer['text']!r}"
        check(f"demo model, {form}: {question['question']}", problem)


def main():
    for directory in sorted(glob.glob(os.path.join(ROOT, "tests/data/golden*/*"))):
        check_golden(directory)
    for form in ("f32", *SHARES):
        check_demo(form)
    print(f"{passed} passed, {failed} failed")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
