"""Event files as TensorBoard reads them: frames, checksums, and what is hidden."""

import struct
import subprocess
import sys

import pytest
from tensorboardX.proto import event_pb2

from fmd_jax import records
from fmd_jax.records import curves

POLYNOMIAL = 0x82F63B78  # CRC-32C, reversed


def crc32c(content):
  crc = 0xFFFFFFFF
  for byte in content:
    crc ^= byte
    for _ in range(8):
      crc = crc >> 1 ^ (POLYNOMIAL if crc & 1 else 0)
  return crc ^ 0xFFFFFFFF


def masked(content):
  crc = crc32c(content)
  return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def events(path):
  """The events of one file; TensorBoard stops at the first wrong checksum."""
  content, out = path.read_bytes(), []
  while content:
    (size,) = struct.unpack("<Q", content[:8])
    assert struct.unpack("<I", content[8:12])[0] == masked(content[:8])
    body, content = content[12 : 12 + size], content[12 + size :]
    assert struct.unpack("<I", content[:4])[0] == masked(body)
    content = content[4:]
    out.append(event_pb2.Event.FromString(body))
  return out


def files(workdir, method):
  found = (workdir / "tensorboard" / method).iterdir()
  return sorted(found, key=lambda path: path.stat().st_mtime_ns)


def scalars(event):
  return {v.tag: v.simple_value for v in event.summary.value}


def test_scalars_of_every_step(tmp_path):
  assert crc32c(b"123456789") == 0xE3069283  # the published check value
  for method in ("zero_shot", "grpo"):
    out = records.Measurements(tmp_path, method)
    for step in range(3):
      out.write(step, {"a/b": step / 2, "a/nan": float("nan")})
  for method in ("zero_shot", "grpo"):
    (path,) = files(tmp_path, method)
    assert path.name.startswith("events.out.tfevents.")
    first, *rest = events(path)
    assert first.file_version == "brain.Event:2"
    # There at once, without a close: a run that is killed loses no step.
    assert [(e.step, scalars(e)) for e in rest] == [
      (step, {"a/b": step / 2}) for step in range(3)
    ]
    assert all(e.wall_time > 1.7e9 for e in rest)


def test_a_resumed_run_hides_what_it_writes_again(tmp_path):
  for start, stop in ((0, 5), (3, 6)):
    out = records.Measurements(tmp_path, "grpo", start)
    for step in range(start, stop):
      out.write(step, {"a/b": step})
  _, second = files(tmp_path, "grpo")
  start = events(second)[1]
  # Without it steps 3 and 4 would be two points each.
  assert (start.step, start.session_log.status) == (3, event_pb2.SessionLog.START)
  records.Measurements(tmp_path, "grpo")
  # Afresh: the old curve would stay for ever beside the new one.
  assert len(files(tmp_path, "grpo")) == 1


def test_object_stores_get_whole_files(tmp_path, monkeypatch):
  monkeypatch.setattr(curves, "is_remote", lambda path: True)
  out = curves.Curves(tmp_path, "grpo", 2)
  out.write(2, {"a/b": 1.5})
  (path,) = files(tmp_path, "grpo")
  assert [e.step for e in events(path)] == [0, 2, 2]


@pytest.mark.parametrize("first", ["", "import torch; "])
def test_no_torch_is_taken_along(tmp_path, first):
  code = f"{first}import sys; from fmd_jax.records.curves import Curves; "
  code += f"Curves({str(tmp_path)!r}, 'grpo'); print(sys.modules.get('torch', 'none'))"
  if first:  # a stand-in is enough: torch itself takes seconds
    (tmp_path / "torch.py").write_text("class Tensor: pass\n")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); {code}"
  run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
  # Loaded already it stays; left None, a later `import torch` would fail.
  assert ("module 'torch'" if first else "none") in run.stdout, run.stderr
