"""Lines and progress, with and without a terminal."""

import io
import subprocess
import sys

import pytest

from simple_diffusion.core import console


class Terminal(io.StringIO):
    def isatty(self):
        return True


def open_terminal(monkeypatch):
    """Replaces stderr; in the test itself, because pytest does so before it."""
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    return screen


def test_a_terminal_shows_a_bar_and_lines_stay_readable_above_it(monkeypatch, capsys):
    terminal = open_terminal(monkeypatch)
    with console.show_progress("training", 40, "steps", start=10) as show:
        assert console.has_bar()
        for done in range(11, 41):
            show(done)
            if done == 20:
                console.print_line("step 20/40  loss 0.5")
    assert not console.has_bar()
    assert "training" in terminal.getvalue() and "10/40" in terminal.getvalue()
    assert capsys.readouterr().out == "step 20/40  loss 0.5\n"


def test_a_bar_is_removed_after_an_error(monkeypatch, capsys):
    open_terminal(monkeypatch)
    with pytest.raises(ValueError), console.show_progress("sampling", 2, "images"):
        raise ValueError
    console.print_line("after it")
    assert not console.has_bar() and capsys.readouterr().out == "after it\n"


def test_without_a_terminal_there_is_a_line_now_and_then(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    with console.show_progress("sampling", 2000, "images") as show:
        for done in range(10, 2001, 10):
            now[0] += 1.0
            show(done)
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert len(lines) == 200 // 15 and captured.err == ""
    # 150 images after 15 seconds, of which the first second is not counted.
    assert lines[0] == "  sampling: 150 of 2,000 images  10 images/s  3:05 left"


def test_where_other_lines_show_the_progress_there_is_none_without_a_terminal(
    monkeypatch, capsys
):
    monkeypatch.setattr(console, "_SECONDS", 0.0)
    with console.show_progress("training", 9, "steps", prints_lines=False) as show:
        for done in range(9):
            show(done)
    assert capsys.readouterr() == ("", "")


def test_a_line_can_be_printed_only_once(capsys):
    for line in ("a", "b", "a"):
        console.print_once(line)
    assert capsys.readouterr().out == "a\nb\n"


def test_messages_need_neither_jax_nor_tqdm():
    code = (
        "import sys\n"
        "from simple_diffusion.core import console\n"
        "console.print_line('said')\n"
        "sys.exit(any(name in sys.modules for name in ('jax', 'tqdm')))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True)
    assert run.returncode == 0 and run.stdout == b"said\n"
