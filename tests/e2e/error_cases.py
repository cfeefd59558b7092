#!/usr/bin/python3
"""Every error a user can run into, on the real programs.

error_cases.py [BIN_DIR] [--only TEXT] [--verbose]     default BIN_DIR: build/bin

Each case must end in time with the right exit status and exactly one "error:" line on standard error, which names the
place and what to do about it. Worker daemons that took part must still be there and answer a good run afterwards.
Prints "ok" or "FAILED" for each case; exit status 1 when any failed. Needs the golden and the demo model only.
"""
import argparse
import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
from error_bench import ROOT, V3, Bench, Worker  # noqa: E402
from error_cases_files import config_cases, option_cases, prompt_cases, weight_cases  # noqa: E402
from error_cases_plan import plan_cases  # noqa: E402
from error_cases_quantize import quantize_cases  # noqa: E402
from error_cases_workers import (  # noqa: E402
    accident_cases,
    cluster_cases,
    measured_cases,
    spoilt_cases,
    stranger_cases,
    unreachable_cases,
)


def main():
    parser = argparse.ArgumentParser(description="Every error a user can run into, on the real programs.")
    parser.add_argument("binaries", nargs="?", default=os.path.join(ROOT, "build", "bin"), metavar="BIN_DIR")
    parser.add_argument("--only", help="cases whose name contains this")
    parser.add_argument("--verbose", action="store_true", help="show the error lines")
    args = parser.parse_args()
    with Bench(os.path.abspath(args.binaries), args.only, args.verbose) as bench:
        config_cases(bench)
        weight_cases(bench)
        prompt_cases(bench)
        option_cases(bench)
        quantize_cases(bench)
        plan_cases(bench)
        unreachable_cases(bench)
        measured_cases(bench)
        with Worker(bench, "shipped") as shipped, Worker(bench, "own-copy", ["--model", V3]) as own:
            spoilt_cases(bench, shipped)
            stranger_cases(bench, own)
            accident_cases(bench, shipped)
            cluster_cases(bench, own)
    sys.exit(bench.report())


if __name__ == "__main__":
    main()
