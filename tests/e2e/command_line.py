#!/usr/bin/python3
"""The command line as a user has it, on the demo model: command_line.py SKEIN [--only TEXT]

Where a prompt comes from, what samples and ends an answer, the shapes of every output, the help, completion,
worker daemons and their ends, and the chat on a pseudo-terminal. skein-worker must stand beside SKEIN. Prints
"ok" or "FAILED" for each case; exit status 1 when any failed.
"""
import argparse
import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
from command_line_chat import chat_cases  # noqa: E402
from command_line_options import (
    completion_cases,
    help_cases,
    measuring_cases,
    output_cases,
    prompt_cases,
    sampling_cases,
)  # noqa: E402
from command_line_processes import process_cases, worker_cases  # noqa: E402
from error_bench import Bench  # noqa: E402


def main():
    parser = argparse.ArgumentParser(description="The command line as a user has it, on the demo model.")
    parser.add_argument("skein", metavar="SKEIN")
    parser.add_argument("--only", help="cases whose name contains this")
    args = parser.parse_args()
    with Bench(os.path.dirname(os.path.abspath(args.skein)), args.only, False) as bench:
        prompt_cases(bench)
        sampling_cases(bench)
        output_cases(bench)
        measuring_cases(bench)
        help_cases(bench)
        completion_cases(bench)
        worker_cases(bench)
        process_cases(bench)
        chat_cases(bench)
    sys.exit(bench.report())


if __name__ == "__main__":
    main()
