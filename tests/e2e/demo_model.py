#!/usr/bin/python3
"""Asks the demo model all questions it was not trained on, in process, and a sample of them on workers, and
requires the exact answers: demo_model.py SKEIN"""
import json
import os
import subprocess
import sys

skein = sys.argv[1]
model = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../deploy/demo-model")
questions = json.load(open(os.path.join(model, "questions.json")))
passed = failed = 0


def ask(question, *more):
    run = subprocess.run([skein, "run", "--model", model, "--prompt", question, "--json", *more], capture_output=True, text=True, timeout=120)
    if run.returncode:
        return run.stderr.strip()
    return json.loads(run.stdout)["text"]


def check(question, more):
    global passed, failed
    text = ask(question["question"], *more)
    if text == question["answer"]:
        passed += 1
    else:
        failed += 1
        print(f"FAILED {question['question']} {' '.join(more)}\n  got      {text}\n  expected {question['answer']}")


for question in questions:
    check(question, [])
for i, question in enumerate(questions[::8]):
    check(question, ["--local-workers", str(1 + i % 3), "--placement", ["experts", "slices"][i % 2]])
print(f"{passed} passed, {failed} failed")
sys.exit(failed > 0)
