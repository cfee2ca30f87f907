"""`moesaic chat` at a terminal, which here is a pseudo-terminal."""

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time

import pytest
from conftest import BINARY, DEMO
from test_life import run

BACKSPACE = "\x7f"


def take_terminal():
    """As a login does it: a terminal of its own, whose end is noticed even under nohup."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


class Terminal:
    """A chat in a window of so many columns."""

    def __init__(self, cache, columns=80, **environment):
        self.side, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        self.process = subprocess.Popen(
            [str(BINARY), "chat", str(DEMO), "--temperature", "0", "--max-tokens", "60"],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            preexec_fn=take_terminal,
            env={
                **os.environ,
                "MOESAIC_PREPARED_CACHE": str(cache),
                "TERM": "xterm",
                "LC_ALL": "C",
                **environment,
            },
        )
        os.close(theirs)
        self.text = ""
        self.wait_for("> ")

    def read(self, seconds):
        """What comes until nothing has come for so long."""
        out = b""
        while select.select([self.side], [], [], seconds)[0]:
            try:
                out += os.read(self.side, 65536)
            except OSError:
                break
        self.text += out.decode(errors="replace")
        return out.decode(errors="replace")

    def wait_for(self, what, seconds=20):
        end = time.monotonic() + seconds
        seen = ""
        while what not in plain(seen):
            assert time.monotonic() < end, f"no {what!r} in {seen!r}"
            seen += self.read(0.05)
        return seen

    def type(self, keys):
        os.write(self.side, keys.encode())

    def say(self, keys):
        """Types a line; what is shown until the next prompt."""
        self.type(keys + "\r")
        return self.wait_for("\n> ")

    def leaves(self, seconds=20):
        """The exit code, with the terminal read meanwhile."""
        end = time.monotonic() + seconds
        while self.process.poll() is None and time.monotonic() < end:
            self.read(0.05)
        return self.process.poll()


@pytest.fixture
def terminal(cache):
    opened = []

    def open_terminal(**how):
        opened.append(Terminal(cache, **how))
        return opened[-1]

    yield open_terminal
    for one in opened:
        one.process.kill()
        os.close(one.side)


def plain(text):
    """Without what steers the terminal."""
    return re.sub(r"\x1b\[[?0-9;]*[a-zA-Z]|\r", "", text)


HELP = "forget the conversation"


def test_help_and_commands(terminal):
    chat = terminal()
    assert HELP in chat.say("/help")
    assert "did you mean /help?" in plain(chat.say("/hlep"))
    assert "/reset" not in plain(chat.say("/reset")).split("/reset", 1)[1]
    chat.type("/exit\r")
    assert chat.leaves() == 0


@pytest.mark.parametrize("word", ["한글", "日本", "é", "😀x", "abc"])
def test_backspace_takes_a_character(terminal, word):
    chat = terminal()
    # One byte too few or too many gone, and this would be no command.
    assert HELP in chat.say("/he" + word + BACKSPACE * len(word) + "lp")


def test_the_line_can_be_edited_and_earlier_ones_come_back(terminal):
    chat = terminal()
    left, home, up = "\x1b[D", "\x01", "\x1b[A"
    assert HELP in chat.say("/hlp" + left * 2 + "e")
    assert HELP in chat.say("help" + home + "/")
    assert HELP in chat.say(up)
    assert HELP in chat.say("x" + up + up + up)


def test_ctrl_c_at_the_prompt(terminal):
    chat = terminal()
    chat.type("/exit")
    chat.read(0.3)
    chat.type("\x03")
    chat.wait_for("\n> ")
    assert HELP in chat.say("/help")
    chat.type("\x03")
    chat.wait_for("\n> ")
    assert HELP in chat.say("/help")  # not twice in a row
    chat.type("\x03")
    assert "again" in chat.wait_for("\n> ")
    chat.type("\x03")
    assert chat.leaves() == 0


def test_ctrl_d_and_a_terminal_that_goes(terminal):
    chat = terminal()
    chat.type("\x04")
    assert chat.leaves() == 0
    chat = terminal()
    os.close(os.dup(chat.side))
    chat.process.send_signal(signal.SIGHUP)
    assert chat.leaves() in (-signal.SIGHUP, 0)


def test_ctrl_c_stops_an_answer_only(terminal):
    chat = terminal()
    chat.type("Tell me a long story.\r")
    chat.read(0.1)
    chat.type("\x03")
    chat.wait_for("\n> ")
    assert HELP in chat.say("/help")


def answer_to(text):
    """The model's, to one message."""
    return run("chat", DEMO, "--temperature", "0", "--max-tokens", "60", input=text + "\n").stdout


def test_words_are_not_broken_at_the_margin(terminal):
    wanted = answer_to("Tell me a short story.").split()
    assert len(wanted) > 15
    chat = terminal(columns=30)
    shown = plain(chat.say("Tell me a short story."))
    lines = shown.split("story.", 1)[1].removesuffix("> ").strip("\n").split("\n")
    assert max(len(line) for line in lines) <= 30 and len(lines) > 3
    assert [word for line in lines for word in line.split()] == wanted


@pytest.mark.parametrize(
    "keys",
    [
        '"""Who are you?\r/exit"""',
        "Who are you?\\\r/exit",
        "Who are you?\x1b\r/exit",
        "\x1b[200~Who are you?\r/exit\x1b[201~",
        "\x1b[200~Who are you?\n/exit\x1b[201~",
    ],
)
def test_several_lines_are_one_message(terminal, keys):
    chat = terminal()
    # A line of its own, /exit would end the program; the model answers the two as one.
    shown = plain(chat.say(keys))
    assert chat.process.poll() is None
    assert re.search(r"you\?\\?\n(\. )?/exit", shown), shown
    assert len(shown.split("/exit", 1)[1].strip('">\n ')) > 5
    assert HELP in chat.say("/help")


def test_a_dumb_terminal_is_sent_text_only(terminal):
    chat = terminal(TERM="dumb")
    assert HELP in chat.say("/help")
    assert "\x1b" not in chat.text


def test_what_is_pasted_is_no_key(terminal):
    chat = terminal()
    end, home, kill = "\x04", "\x01", "\x15"
    assert HELP in chat.say(f"\x1b[200~/he{end}{home}{kill}lp\x1b[201~")
