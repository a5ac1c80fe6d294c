"""How the launchers run other programs: shown, asked about, or only shown."""

import shlex
import shutil
import subprocess
import sys
from typing import NamedTuple


class ToolError(Exception):
  """A program of the cloud or the cluster failed."""


class Shell(NamedTuple):
  """Runs commands.

  Attributes:
    dry_run: prints them and runs none.
    yes: takes yes for the answer to every question.
  """

  dry_run: bool
  yes: bool

  def run(
    self, command: list[str], fails: bool = False, stdin: str = "", looks: bool = False
  ) -> str | None:
    """Runs a command, which is printed first.

    Args:
      command: program and arguments.
      fails: whether it may fail.
      stdin: what it reads.
      looks: it changes nothing, and is printed by a dry run only.

    Returns:
      What it wrote to stdout; None when it failed, "" when nothing was run.

    Raises:
      ToolError: it failed and may not, or the program is not there.
    """
    if self.dry_run or not looks:
      self.show(command)
    if self.dry_run:
      return ""
    need(command[0])
    done = subprocess.run(command, input=stdin, capture_output=True, text=True)
    if done.returncode == 0:
      return done.stdout
    if fails:
      return None
    message = (done.stderr.strip() or done.stdout.strip() or "no output")[-2000:]
    raise ToolError(f"{shlex.join(command[:5])} … failed: {message}")

  def stream(self, command: list[str]) -> int:
    """Runs a command whose output goes straight to the terminal; its exit code."""
    self.show(command)
    if self.dry_run:
      return 0
    need(command[0])
    return subprocess.run(command).returncode

  def show(self, command: list[str]) -> None:
    """Prints a command; of a script that is run too, its first line."""
    if not self.dry_run:
      command = [w.split("\n")[0] + " …" if "\n" in w else w for w in command]
    print(shlex.join(command), flush=True)

  def confirm(self, step: str) -> None:
    """Asks before a step that can't be undone.

    Raises:
      ToolError: the answer is not yes, or there is nobody to ask.
    """
    if self.dry_run:
      print(f"# asks first, unless --yes: {step}")
    elif not self.yes:
      if not sys.stdin.isatty():
        raise ToolError(f"{step}: say --yes, there is nobody to ask")
      if input(f"{step}? [y/N] ").strip().lower() not in ("y", "yes"):
        raise ToolError(f"not done: {step}")

  def note(self, text: str) -> None:
    """A comment between the commands."""
    print(f"# {text}", flush=True)


def need(program: str) -> None:
  """Raises ToolError when a program isn't on PATH."""
  if shutil.which(program) is None:
    raise ToolError(
      f"{program} is not on PATH; install it, or see the commands with --dry_run"
    )
