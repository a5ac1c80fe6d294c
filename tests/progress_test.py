"""A bar where it can be redrawn, lines where it can't."""

import io
import os
import pty
import termios

from fmd_jax.progress import Progress


def test_a_log_gets_lines_without_control_characters(monkeypatch):
  log = io.StringIO()
  monkeypatch.setattr("tqdm.std.time", lambda: 0.0)
  bar = Progress(range(1000), "grpo", unit="step", file=log)
  bar._time = lambda: 0.0
  for _ in bar:
    bar.set_postfix(reward="+0.10", refresh=False)
  text = log.getvalue()
  # tqdm itself would write "\r" and a bar of blocks, all in one line.
  assert "\r" not in text and text.endswith("\n")
  lines = text.splitlines()
  # One at the start, one at the end: a thousand steps took no time.
  assert len(lines) == 2
  assert lines[0].startswith("grpo: 0/1000 [")
  assert lines[1].startswith("grpo: 1000/1000 [") and "reward=+0.10" in lines[1]


def test_lines_come_in_between_when_steps_are_slow(monkeypatch):
  log, now = io.StringIO(), [0.0]
  monkeypatch.setattr("tqdm.std.time", lambda: now[0])
  bar = Progress(range(6), "grpo", file=log)
  bar._time = lambda: now[0]
  for _ in bar:
    now[0] += 4
  done = [line.split("/")[0] for line in log.getvalue().splitlines()]
  # Every third step is ten seconds after the last line; with tqdm's own guess of
  # how many steps that is, a slow one after fast ones would be silent for minutes.
  assert done == ["grpo: 0", "grpo: 3", "grpo: 6"]


def test_a_terminal_gets_one_line_drawn_again():
  here, there = pty.openpty()
  termios.tcsetwinsize(there, (24, 80))
  with os.fdopen(there, "w") as terminal:
    for _ in Progress(range(3), "grpo", file=terminal, mininterval=0):
      pass
    terminal.flush()
    shown = ""
    while "\n" not in shown:
      shown += os.read(here, 10000).decode()
  os.close(here)
  assert shown.count("\n") == 1 and shown.count("\r") > 3
  assert "100%" in shown
