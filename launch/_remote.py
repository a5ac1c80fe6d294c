"""A command on other machines that goes on when the connection to them ends.

`start`, `follow` and `stop` give text for the shell over there, which keeps all it has
to know in one folder of the home directory: run.sh, log, group, pid, exit.
"""

import queue
import re
import shlex
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

RUNNING = 3  # exit code of `start` when there is something already
_END = "fmd_jax: exit code"
_RETRIES = 3
_ALIVE = """
alive() {
  [ ! -f exit ] && [ -f group ] && kill -0 -- "-$(cat group)" 2>/dev/null
}
"""


def start(folder: str, cwd: str, command: list[str]) -> str:
  """Starts a command in the background, in a session of its own.

  Args:
    folder: in the home directory, of this command alone.
    cwd: where it runs, in the home directory.
    command: program and arguments.
  """
  # The program's own pid is kept: SIGTERM is for it and not for its children, of which
  # it still has need while it saves.
  script = f"""
cd "$HOME/{cwd}" || exit
export PYTHONUNBUFFERED=1
{shlex.join(command)} &
echo $! > "$HOME/{folder}/pid"
{{ wait $!; echo $? > "$HOME/{folder}/exit"; }} 2>/dev/null
"""
  return f"""
umask 077
mkdir -p "$HOME/{folder}" && cd "$HOME/{folder}" || exit
{_ALIVE.strip()}
if alive; then echo "$(hostname): a command is under way"; exit {RUNNING}; fi
rm -f exit pid group
[ ! -f log ] || mv log log.before
printf %s {shlex.quote(script)} > run.sh
setsid nohup bash run.sh > log 2>&1 < /dev/null &
echo $! > group
# Else a look at once finds no session yet, and a stop nothing to end.
for _ in $(seq 100); do [ ! -f pid ] || break; sleep 0.1; done
""".strip()


def follow(folder: str, seen: int = 0, until: str = "") -> str:
  """Prints the command's output, and at its end a line with its exit code.

  Args:
    folder: as in `start`.
    seen: lines not to print again.
    until: ends as soon as the output has this text.
  """
  done = f"grep -q -e {shlex.quote(until)} log 2>/dev/null" if until else "false"
  return f"""
cd "$HOME/{folder}" || exit
{_ALIVE.strip()}
at=$(head -n {seen} log | wc -c)
show() {{
  size=$(wc -c < log)
  [ "$size" -ge "$at" ] || at=0  # started anew
  tail -c "+$((at + 1))" log | head -c "$((size - at))" || exit
  at=$size
}}
while alive && ! {done}; do show; sleep 0.5; done
show
if {done}; then code=0; else code="$(cat exit 2>/dev/null || echo unknown)"; fi
echo "{_END} $code"
""".strip()


def stop(folder: str, seconds: int) -> str:
  """Ends the command: SIGTERM, then SIGKILL to all its processes.

  Args:
    folder: as in `start`.
    seconds: it gets to save what it has.
  """
  return f"""
cd "$HOME/{folder}" 2>/dev/null || {{ echo "nothing was running"; exit 0; }}
{_ALIVE.strip()}
alive || {{ echo "nothing was running"; exit 0; }}
kill -TERM "$(cat pid)"
for _ in $(seq {seconds}); do alive || break; sleep 1; done
if alive; then
  kill -KILL -- "-$(cat group)"
  echo "did not end within {seconds} s, killed"
else
  echo "ended with exit code $(cat exit)"
fi
""".strip()


class End(NamedTuple):
  """How a command on one machine ended.

  Attributes:
    code: its exit code; None: it, or the machine, is gone without one.
    said: its last line.
  """

  code: int | None
  said: str


def follow_all(
  command: Callable[[int, str], list[str]],
  workers: int,
  folder: str,
  grace: float,
  poll: float,
) -> dict[int, End]:
  """Prints what the workers print until all have ended, or one has not ended well.

  A connection that breaks is made again, and goes on where it was.

  Args:
    command: (worker, shell text) -> the command that runs it there.
    workers: how many.
    folder: as in `start`.
    grace: seconds for the others after a worker has not ended well.
    poll: seconds before a broken connection is made again.

  Returns:
    How they ended, in that order; those that go on are missing.
  """
  events: queue.Queue = queue.Queue()
  ends: dict[int, End] = {}
  processes: list[subprocess.Popen] = []

  def watch(worker: int) -> None:
    for event in _lines(lambda text: command(worker, text), folder, poll, processes):
      events.put((worker, event))

  for worker in range(workers):
    threading.Thread(target=watch, args=(worker,), daemon=True).start()
  deadline = None
  try:
    while len(ends) < workers:
      wait = None if deadline is None else max(deadline - time.monotonic(), 0)
      try:
        worker, event = events.get(timeout=wait)
      except queue.Empty:
        return ends
      if isinstance(event, End):
        ends[worker] = event
        if event.code != 0 and deadline is None:
          deadline = time.monotonic() + grace
      else:
        print(f"[worker {worker}] {event}" if workers > 1 else event, flush=True)
    return ends
  finally:
    for process in processes:
      process.kill()


def _lines(
  command: Callable[[str], list[str]], folder: str, poll: float, processes: list
) -> Iterator[str | End]:
  """The lines of one worker, then its End."""
  seen, said, trouble = 0, "", ""
  for attempt in range(_RETRIES + 1):
    if attempt:
      time.sleep(poll)
    with tempfile.TemporaryFile("w+") as errors:
      process = subprocess.Popen(
        command(follow(folder, seen)),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
        errors="replace",
      )
      processes.append(process)
      for line in process.stdout:
        line = line.rstrip("\n")
        # A last line of the command's may have no end of its own.
        end = re.fullmatch(rf"(.*){_END} (\w+)", line)
        if end:
          if end[1]:
            yield end[1]
          code = int(end[2]) if end[2].isdecimal() else None
          yield End(code, end[1].strip() or said)
          return
        seen, said = seen + 1, line.strip() or said
        yield line
      process.wait()
      errors.seek(0)
      trouble = ([t for t in errors.read().splitlines() if t.strip()] or [trouble])[-1]
  yield End(None, f"it can't be reached: {trouble}")
