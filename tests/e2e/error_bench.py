"""What the error cases share: the programs under test, ways to spoil a model, and what a good error looks like."""

import json
import os
import re
import shutil
import subprocess
import tempfile
import time

import peers

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
GOLDEN = os.path.join(ROOT, "tests", "data", "golden")
DEMO = os.path.join(ROOT, "deploy", "demo-model")
GGUF = os.path.join(ROOT, "tests", "data", "golden-gguf", "deepseek-v3-tiny-q8_0", "model.gguf")
V1, V3, V3_FP8 = (
    os.path.join(GOLDEN, name) for name in ("deepseek-moe-tiny", "deepseek-v3-tiny", "deepseek-v3-tiny-fp8")
)

LOCAL_TIMEOUT_S = 30
NETWORK_TIMEOUT_S = 60
CALL_TIMEOUT_S = 120
READY_TIMEOUT_S = 10
RELEASE_TIMEOUT_S = 8  # a worker lets go of a coordinator that vanished: three missed health reports and some
GOOD_TOKENS = 3


# What is no remedy, however it is punctuated: the place in front, figures in brackets, the system's words.
NO_REMEDY = r"^(worker )?\S+: |\([^)]*\)|: (No such file or directory|Not a directory|Permission denied|Is a directory)"

# All experts on the workers, once, whatever a plan would rather do with so small a model; and no way around a loss.
# What is measured decides about offloading, and with it which shards a worker gets: so none where a test counts them.
ON_WORKERS = ["--memory", "0", "--placement", "experts", "--replicas", "off", "--offload", "off", "--worker-timeout", "0"]


class Failed(Exception):
    """One sentence about what was not as it must be."""


def require(condition, sentence):
    if not condition:
        raise Failed(sentence)


def call(*command):
    """Runs a program that must succeed; returns its standard output."""
    result = subprocess.run(command, capture_output=True, text=True, timeout=CALL_TIMEOUT_S, stdin=subprocess.DEVNULL)
    require(result.returncode == 0, f"{' '.join(command)} ends with {result.returncode}: {result.stderr[-300:]}")
    require("Sanitizer" not in result.stderr, result.stderr[-600:])
    return result.stdout


class Bench:
    """The programs under test, a scratch folder that goes at the end of a `with`, and the tally."""

    def __init__(self, binaries, only, verbose):
        self.skein = os.path.join(binaries, "skein")
        self.worker_program = os.path.join(binaries, "skein-worker")
        self.only, self.verbose = only, verbose
        self.passed = self.failed = 0
        self.folder = tempfile.mkdtemp(prefix="skein-errors-")
        self.ids = self.write("ids.json", json.dumps([0, 5, 9, 13]))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        shutil.rmtree(self.folder)

    def report(self):
        """Says how the cases went; returns whether the program has to fail."""
        print(f"{self.passed} passed, {self.failed} failed")
        return self.failed > 0 or self.passed == 0

    def path(self, name):
        return os.path.join(self.folder, name)

    def write(self, name, content):
        with open(self.path(name), "wb" if isinstance(content, bytes) else "w") as f:
            f.write(content)
        return self.path(name)

    def case(self, name, check):
        if self.only and self.only not in name:
            return
        try:
            line = check()
            self.passed += 1
            print(f"ok     {name}" + (f"\n       {line}" if self.verbose and line else ""), flush=True)
        except (Failed, OSError, subprocess.SubprocessError, peers.Closed) as problem:
            self.failed += 1
            print(f"FAILED {name}: {problem or type(problem).__name__}", flush=True)

    # -- Commands that must fail --

    def refuse(self, args, places, status=1, program=None, timeout_s=LOCAL_TIMEOUT_S, stdin=None):
        """Runs the command and checks how it fails; returns its error line. `places`: patterns that the line must have."""
        command = [program or self.skein, *args]
        try:
            # Bytes and not text: even broken UTF-8 is to be judged here.
            result = subprocess.run(command, capture_output=True, timeout=timeout_s, input=stdin or b"")
        except subprocess.TimeoutExpired:
            raise Failed(f"no end after {timeout_s} s") from None
        return check_failure(result.returncode, result.stderr, places, status)

    def refuse_model(self, directory, *places, status=1):
        return self.refuse(
            ["logits", "--model", directory, "--ids", self.ids, "--out", self.path("out.npy")], places, status
        )

    def refuse_workers(self, addresses, *places, status=1):
        """A short run on these workers must fail; returns its error line."""
        return self.refuse(run_args(self.ids, 2, addresses), places, status, timeout_s=NETWORK_TIMEOUT_S)

    # -- Models --

    def variant(self, base=V3, config=None, remove=(), weights=None, index=None, tokenizer=None):
        """A copy of the model `base` with changes: config keys set and removed, other bytes of model.safetensors
        (False: no such file), an index, a tokenizer's text."""
        directory = tempfile.mkdtemp(dir=self.folder)
        with open(os.path.join(base, "config.json")) as f:
            merged = {**json.load(f), **(config or {})}
        with open(os.path.join(directory, "config.json"), "w") as f:
            json.dump({key: value for key, value in merged.items() if key not in remove}, f)
        target = os.path.join(directory, "model.safetensors")
        if weights is None:
            os.symlink(os.path.join(base, "model.safetensors"), target)
        elif weights is not False:
            with open(target, "wb") as f:
                f.write(weights)
        for name, text in (("model.safetensors.index.json", index), ("tokenizer.json", tokenizer)):
            if text is not None:
                with open(os.path.join(directory, name), "w") as f:
                    f.write(text)
        return directory

    # -- Runs that must work --

    def good_run(self, address, wait_s=RELEASE_TIMEOUT_S):
        """The worker answers correctly; right after an accident it may take a moment to let go of its coordinator."""
        with open(os.path.join(V3, "golden.json")) as f:
            golden = json.load(f)
        prompt = self.write("good.json", json.dumps(golden["prompt_ids"]))
        deadline = time.monotonic() + wait_s
        while True:
            result = subprocess.run(
                [self.skein, *run_args(prompt, GOOD_TOKENS, address)],
                capture_output=True,
                text=True,
                timeout=NETWORK_TIMEOUT_S,
                stdin=subprocess.DEVNULL,
            )
            if result.returncode == 0 or "busy" not in result.stderr or time.monotonic() > deadline:
                break
            time.sleep(0.2)
        if result.returncode:
            raise Failed(f"the worker does not serve a good run afterwards: {result.stderr.strip()[-300:]}")
        if json.loads(result.stdout)["ids"] != golden["greedy_ids"][:GOOD_TOKENS]:
            raise Failed(f"a good run afterwards gives other tokens: {result.stdout[:200]}")


class Worker:
    """A skein-worker daemon of ours."""

    def __init__(self, bench, name, args=(), address=None):
        self.address = address or peers.free_address()
        self.log = bench.path(name + ".log")
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                [bench.worker_program, "--listen", self.address, "--threads", "1", "--cache-size", "0", *args],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + READY_TIMEOUT_S
        while not peers.listening(self.address):
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"skein-worker does not start: {self.text()}")
            time.sleep(0.05)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()

    def text(self):
        with open(self.log, errors="replace") as f:
            return f.read().strip()[-400:]

    def check_alive(self):
        if self.process.poll() is not None:
            raise Failed(f"the worker daemon ended with {self.process.returncode}: {self.text()}")
        if "Sanitizer" in self.text():
            raise Failed(f"the worker daemon was caught by a sanitizer: {self.text()}")


def run_args(prompt, tokens, address, model=V3):
    return [
        "run",
        "--model",
        model,
        "--prompt-ids",
        prompt,
        "--max-tokens",
        str(tokens),
        "--temperature",
        "0",
        "--ignore-eos",
        "--json",
        *ON_WORKERS,
        "--workers",
        address,
    ]


def check_failure(code, stderr, places, status=1):
    try:
        text = stderr.decode()
    except UnicodeDecodeError:
        raise Failed(f"standard error is not UTF-8: {stderr[-300:]!r}") from None
    lines = [line for line in text.splitlines() if "error:" in line]
    if "Sanitizer" in text:
        raise Failed(f"caught by a sanitizer: {text[:600]}")
    if code not in (status if isinstance(status, tuple) else (status,)):
        raise Failed(f"exit status {code}, expected {status}; it said: {text.strip()[-300:] or '(nothing)'}")
    if len(lines) != 1:
        raise Failed(f"{len(lines)} error lines instead of one: {text.strip()[-500:] or '(nothing)'}")
    message = lines[0].split("error:", 1)[1].strip()
    for place in places:
        if not re.search(place, message, re.IGNORECASE):
            raise Failed(f"the line does not name /{place}/: {message}")
    # A wrong option is a remedy by itself; else, what is wrong and what to do about it are two clauses.
    if code != 2 and not re.search(r"[;,?:] \S", re.sub(NO_REMEDY, "", message)):
        raise Failed(f"the line has no remedy: {message}")
    return message
