"""tpu_fit: real compilations for a TPU slice, of little programs; there is no TPU."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from fmd_jax import fit
from tests.models import tiny

ROOT = pathlib.Path(__file__).parents[1]
SHAPES = ROOT / "fmd_jax" / "models" / "shapes"
CONFIG = "--config=configs/paper/table1.py:method=grpo"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}
SMALL = (
  *("--image=56x56", "--text_tokens=8", "--topology=v5e:2x2", "--nosuggest"),
  *("--config.images_per_step=4", "--config.group_size=2"),
  "--config.sampling.max_new_tokens=8",
)


def tpu_fit(*flags, config=CONFIG):
  command = [sys.executable, "-m", "launch.tpu_fit", config, *flags]
  return subprocess.run(
    command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True
  )


def tiny_config(folder):
  content = fit_config()
  (folder / "config.json").write_text(json.dumps(content))
  return f"--model={folder / 'config.json'}"


def fit_config():
  from fmd_jax.models.config import to_dict

  return to_dict(tiny.config())


@pytest.mark.slow
def test_a_model_that_does_not_fit_is_exit_1_and_says_why(tmp_path):
  run = tpu_fit(tiny_config(tmp_path), *SMALL, "--hbm=0.0001")
  assert run.returncode == 1, run.stderr[-2000:]
  for name in ("prefill", "decode", "scorer", "update"):
    assert f"{name} does not fit. Its largest arguments:" in run.stdout
    (row,) = [line for line in run.stdout.splitlines() if line.startswith(f"{name}  ")]
    assert "all-gather" in row and "too large" not in row
  assert "embed_tokens.embedding" in run.stdout
  assert run.stdout.splitlines()[0].startswith(
    "v5e:2x2: 4 devices of 0.00 GiB, data 1 x fsdp 4 x tensor 1"
  )


@pytest.mark.slow
def test_a_model_that_fits_is_exit_0_and_the_smallest_is_named(tmp_path):
  run = tpu_fit(tiny_config(tmp_path), *SMALL, "--suggest")
  assert run.returncode == 0, run.stderr[-2000:]
  assert "v5e:2x2 is the smallest that everything fits." in run.stdout


SCAN = """
import json, jax, numpy as np
from fmd_jax import fit, sharding
from jax.sharding import NamedSharding, PartitionSpec as P
mesh = sharding.make_mesh(1, -1, 1, fit.topology("v5e:2x2"))
shape = lambda dims, *spec: jax.ShapeDtypeStruct(
  dims, "float32", sharding=NamedSharding(mesh, P(*spec)))
arguments = (shape((512, 512), "fsdp"), shape((5, 512, 512), None, "fsdp"))
f = jax.jit(lambda x, ws: jax.lax.scan(lambda x, w: (x @ w, None), x, ws)[0])
made = fit.compile_program("f", 7, f, arguments, mesh)
huge = fit.compile_program(
  "huge", 0, jax.jit(lambda x: (x @ x.T).sum() * x),
  (shape((400_000, 4096), "fsdp"),), mesh)
from fmd_jax.models.attention import attend
mesh = sharding.make_mesh(1, 2, 2, fit.topology("v5e:2x2"))
q, kv = (shape((4, 2, 8, heads, 128), "fsdp") for heads in (4, 1))
with sharding.use(mesh):
  kernel = jax.jit(lambda q, k, v: attend(q, k, v, None, None)).lower(q, kv, kv)
kernels = kernel.as_text().count("tpu_custom_call")
print(json.dumps([made._asdict(), made.peak, huge._asdict(), kernels]))
"""


def test_the_account_of_a_program():
  # Wrong: what a loop sends counted once (a fifth of the bytes), whole arrays for one
  # device's, or a program that the compiler refuses as a traceback.
  command = [sys.executable, "-c", "from launch import tpu_fit\n" + SCAN]
  run = subprocess.run(
    command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True
  )
  assert run.returncode == 0, run.stderr[-2000:]
  made, peak, huge, kernels = json.loads(run.stdout.splitlines()[-1])
  assert made["arguments"] == (512 * 512 + 5 * 512 * 512) * 4 // 4
  assert peak == 7 + made["arguments"] + made["output"] + made["temporaries"]
  # In bf16, in which a TPU multiplies.
  assert made["collectives"] == {"all-gather": [5, 5 * 512 * 512 * 2]}
  assert huge["arguments"] == 0 and "exceeds available HBM" in huge["error"]
  assert kernels == 1, "attention for a TPU is not the fused kernel"


HLO = """
%cond.1 (p: (s32[], f32[8])) -> pred[] {
  %c = s32[]{:T(128)} constant(3)
  ROOT %lt.3 = pred[]{:T(512)} compare(%i, %c), direction=LT
}
%until.1 (p: (s32[], f32[8])) -> pred[] {
  %c = s32[] constant(256)
  ROOT %both = pred[] and(%below, %alive)
}
%body.1 (p: (s32[], f32[8])) -> (s32[], f32[8]) {
  %ag = f32[4,8]{1,0} all-gather(f32[1,8]{1,0} %x), channel_id=1
  %r = (f32[4]{0}, bf16[16,2]{1,0}) all-gather-start(%y), channel_id=2
}
%body.2 (p: (s32[], f32[8])) -> (s32[], f32[8]) {
  %w = (s32[]) while(%t), condition=%cond.1, body=%body.1, metadata={}
  %s = f32[2]{0} all-reduce(%w), to_apply=%add
}

ENTRY %main (a: f32[8]) -> f32[8] {
  %w = (s32[]) while(%t), condition=%until.1, body=%body.2
}
"""


def test_messages_in_a_loop_count_as_often_as_it_runs():
  assert fit.collectives(HLO) == {
    "all-gather": (6, 3 * (4 * 8 * 4 + 16 * 2 * 2)),
    "all-reduce": (1, 8),
  }


def test_a_program_fits_with_what_is_beside_it():
  program = fit.Program("f", 6, 4, 3, 2, 1)
  assert program.peak == 12
  assert program.fits(12) and not program.fits(11)
  # Sizes of a program that the compiler refused are not known: 0 would always fit.
  assert not fit.Program("f", 0, error="too large").fits(12)


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    (("--model=qwen9", "--topology=v5e:2x2"), "no model 'qwen9': it is no file, and"),
    (("--model=qwen2_5_vl_3b", "--topology=v7x:2x2"), "no topology 'v7x:2x2'; there"),
    (
      ("--model=qwen2_5_vl_3b", "--topology=v5e:2x2", "--config.images_per_step=6"),
      r"config.images_per_step (6) does not split into 4",
    ),
  ],
)
def test_what_cannot_be_is_one_line(flags, message):
  run = tpu_fit(*flags)
  assert run.returncode == 1
  assert message in run.stderr.strip().splitlines()[-1]
  assert "Traceback" not in run.stderr


def test_an_unknown_method_is_refused():
  from configs.paper import table1

  with pytest.raises(ValueError, match="no row 'method=gpro'; there are: method=zero"):
    table1.get_config("method=gpro")


def test_the_published_shapes():
  # Parameters, in billions, as their cards give them.
  import jax
  from flax import nnx

  from fmd_jax import models

  counts = {
    "qwen2_5_vl_3b": 3.75,
    "qwen2_5_vl_7b": 8.29,
    "qwen3_vl_2b": 2.13,
    "qwen3_vl_4b": 4.44,
    "qwen3_vl_8b": 8.77,
  }
  assert sorted(p.name for p in SHAPES.iterdir()) == sorted(counts)
  for name, billions in counts.items():
    config = models.config.from_folder(SHAPES / name)
    made = nnx.eval_shape(lambda c=config: models.QwenVL(c, rngs=nnx.Rngs(0)))
    found = sum(x.size for x in jax.tree.leaves(nnx.state(made)))
    assert abs(found / 1e9 - billions) < 0.01, (name, found)
