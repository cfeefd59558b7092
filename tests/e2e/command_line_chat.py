"""Cases of command_line.py that chat with skein on a pseudo-terminal, as a person would."""

import os
import pty
import re
import select
import subprocess
import tempfile
import time

from command_line_options import ASSISTANT, EOS, SUM, SUM_ANSWER, USER, answer_json, require, require_equal
from error_bench import DEMO, Failed

REPLY_TIMEOUT_S = 60
UP, CTRL_A, CTRL_C, CTRL_D = "\x1b[A", "\x01", "\x03", "\x04"
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[()][A-Z0-9]|\x1b[=>]|[\x07\x08\r]")


class Chat:
    """skein run on a terminal of its own; `home` keeps its history, and `log` takes what it says on standard error."""

    def __init__(self, bench, *options, home=None, log=None):
        self.home = home or tempfile.mkdtemp(dir=bench.folder)
        self.terminal, end = pty.openpty()
        self.text = ""  # what the terminal showed since the last answer, without escape sequences
        env = {
            **os.environ,
            "HOME": self.home,
            "XDG_STATE_HOME": self.home,
            "TERM": "xterm",
            "LC_ALL": "C.UTF-8",
        }
        args = [bench.skein, "run", "--model", DEMO, *options]
        errors = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600) if log else end
        # A session of its own makes the terminal its controlling one, so that Ctrl-C becomes a signal.
        self.process = subprocess.Popen(
            ["setsid", "--ctty", "--wait", *args], stdin=end, stdout=end, stderr=errors, env=env
        )
        for fd in {end, errors}:
            os.close(fd)
        self.partial = b""

    def __enter__(self):
        self.wait_prompt()
        return self

    def __exit__(self, *_):
        # The terminal's end hangs up on skein; setsid then ends as well.
        os.close(self.terminal)
        try:
            self.process.wait(REPLY_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def read(self, deadline):
        """Adds what the terminal shows; False at its end."""
        ready, _, _ = select.select([self.terminal], [], [], max(0, deadline - time.monotonic()))
        if not ready:
            raise Failed(f"no reply after {REPLY_TIMEOUT_S} s; the terminal shows {self.text[-300:]!r}")
        try:
            self.partial += os.read(self.terminal, 1 << 16)
        except OSError:  # nobody has the other end any more
            return False
        self.text = ESCAPES.sub("", self.partial.decode(errors="ignore"))
        return True

    def wait_for(self, pattern):
        deadline = time.monotonic() + REPLY_TIMEOUT_S
        while not re.search(pattern, self.text):
            if not self.read(deadline):
                raise Failed(f"the chat ended; the terminal shows {self.text[-300:]!r}")

    def wait_prompt(self):
        """Waits for the prompt and returns what was shown before it. Whatever is typed from now on must count."""
        # The terminal shows Ctrl-C as ^C, and that may be anywhere behind the place where it was typed.
        self.wait_for(r"(^|\n)(\^C)?> $")
        shown, self.text, self.partial = self.text[:-2].replace("^C", ""), "", b""
        return shown

    def type(self, keys):
        os.write(self.terminal, keys.encode())

    def ask(self, question):
        """Types a question; returns what was shown between it and the next prompt."""
        self.type(question + "\r")
        self.wait_for(r"\n")
        return self.wait_prompt().partition("\n")[2].strip()

    def end(self):
        """Waits for the end; returns the exit status."""
        deadline = time.monotonic() + REPLY_TIMEOUT_S
        while self.read(deadline):
            pass
        return self.process.wait(REPLY_TIMEOUT_S)


def check_turns(bench):
    """The second answer is the one that the model gives to the whole conversation."""
    second = "What is 15 plus 0?"
    with Chat(bench) as chat:
        first_answer = chat.ask(SUM)
        second_answer = chat.ask(second)
        chat.type(CTRL_D)
        require_equal("the exit status", chat.end(), 0)
    require_equal("the first answer", first_answer, SUM_ANSWER)
    whole = f"{USER}{SUM}{ASSISTANT}{SUM_ANSWER}{EOS}{USER}{second}{ASSISTANT}"
    expected = answer_json(bench, "--raw", "--prompt", whole)["text"]
    require(expected != "", "the reference answer is empty")
    require_equal("the second answer", second_answer, expected)


def prompt_tokens(text):
    found = re.search(r"prompt (\d+) tokens", text)
    if not found:
        raise Failed(f"no figures after the answer: {text!r}")
    return int(found.group(1))


def check_commands(bench):
    with Chat(bench, "--verbose") as chat:
        shown = chat.ask("/help")
        require(
            all(word in shown for word in ("/clear", "/exit", "Ctrl-C", "Ctrl-D")), f"/help shows {shown!r}"
        )
        shown = chat.ask("/nonsense")
        require("/nonsense" in shown and "/help" in shown, f"an unknown command is answered with {shown!r}")
        first = prompt_tokens(chat.ask(SUM))
        second = prompt_tokens(chat.ask(SUM))
        require(second > first, f"the second turn's prompt has {second} tokens, the first's {first}")
        chat.ask("/clear")
        shown = chat.ask(SUM)
        require_equal("the prompt's tokens after /clear", prompt_tokens(shown), first)
        require(shown.startswith(SUM_ANSWER), f"the answer after /clear is {shown!r}")
        require_equal("what an empty line shows", chat.ask(""), "")
        chat.type("/exit\r")
        require_equal("the exit status", chat.end(), 0)


def check_history(bench):
    with Chat(bench) as chat:
        chat.ask("Spell cloud.")
        require_equal("the answer", chat.ask("/clear"), "A new conversation.")
        require_equal("the answer to the line before the last", chat.ask(UP + UP), "cloud: c l o u d.")
        chat.type(CTRL_D)
        require_equal("the exit status", chat.end(), 0)
    with Chat(bench, home=chat.home) as chat:
        require_equal("the answer to the last chat's line", chat.ask(UP), "cloud: c l o u d.")


def check_editing(bench):
    """Keys in the middle of the line, and characters of several bytes."""
    with Chat(bench) as chat:
        require_equal("the answer", chat.ask("cloudé\x7f." + CTRL_A + "Spell "), "cloud: c l o u d.")


def check_paste(bench):
    """Several pasted lines are one message."""
    with Chat(bench) as chat:
        shown = chat.ask("\x1b[200~What is 37\nplus 58?\x1b[201~")
        expected = answer_json(bench, "--prompt", "What is 37\nplus 58?")["text"]
        require(shown.endswith(expected), f"the answer is {shown!r}, expected {expected!r}")


def check_interrupt(bench):
    """Ctrl-C ends an endless answer and drops a line, and the chat goes on."""
    with Chat(bench, "--ignore-eos", "--max-tokens", "100000") as chat:
        for _ in range(2):
            chat.type(SUM + "\r")
            chat.wait_for(r"\n[^\n]{20,}")
            require(not chat.text.endswith("> "), "the answer ended by itself")
            chat.type(CTRL_C)
            shown = chat.wait_prompt()
            require(shown.endswith(" ...\n"), f"the ended answer ends with {shown[-20:]!r}")
        chat.type("half a line")
        chat.wait_for("half a line")
        chat.type(CTRL_C)
        chat.wait_prompt()
        chat.type(CTRL_D)
        require_equal("the exit status", chat.end(), 0)


def check_local_workers(bench):
    """Ctrl-C on the terminal reaches the whole process group; the local workers must outlive it."""
    with Chat(bench, "--ignore-eos", "--max-tokens", "100000", "--local-workers", "2") as chat:
        chat.type(SUM + "\r")
        chat.wait_for(r"\n[^\n]{20,}")
        chat.type(CTRL_C)
        chat.wait_prompt()
        chat.type("/clear\r")
        chat.wait_prompt()
        chat.type(SUM + "\r")
        chat.wait_for(re.escape(SUM_ANSWER))
        chat.type(CTRL_C)
        chat.wait_prompt()
        chat.type(CTRL_D)
        require_equal("the exit status", chat.end(), 0)


def chat_cases(bench):
    bench.case("chat: two turns, Ctrl-D ends", lambda: check_turns(bench))
    bench.case("chat: /help, /clear, /exit", lambda: check_commands(bench))
    bench.case("chat: history", lambda: check_history(bench))
    bench.case("chat: editing", lambda: check_editing(bench))
    bench.case("chat: pasted lines", lambda: check_paste(bench))
    bench.case("chat: Ctrl-C ends the answer, not the chat", lambda: check_interrupt(bench))
    bench.case("chat: Ctrl-C on local workers", lambda: check_local_workers(bench))
