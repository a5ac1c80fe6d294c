"""A mesh changes where arrays lie, and nothing else: not a token, not a gradient."""

import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
from flax import nnx
from jax.sharding import PartitionSpec

from fmd_jax import models, sharding
from tests.models import tiny
from tests.ports import free_port

ROOT = pathlib.Path(__file__).parents[1]
ONE = "1,1,1"
MESHES = ["8,1,1", "2,2,2", "1,4,2"]


def environment(devices):
  # A collective whose threads do not meet in time is the end of the process, and on a
  # busy machine they may not within the 40 s that it is by default.
  flags = (
    f"--xla_force_host_platform_device_count={devices} "
    "--xla_cpu_collective_call_terminate_timeout_seconds=120"
  )
  return {**os.environ, "XLA_FLAGS": flags, "PYTHONPATH": str(ROOT)}


def worker(folder, out, *more):
  return [sys.executable, "-m", "tests.sharded", str(folder), str(out), *more]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
  """name, meshes -> what each mesh made, by tests.sharded; the first is one device."""
  done = {}

  def run(name, *meshes):
    if name not in done:
      folder = tmp_path_factory.mktemp("questioner")
      family = dict(zip(tiny.FAMILY_NAMES, tiny.FAMILIES, strict=True))[name]
      models.save(tiny.model(seed=1, **family), folder)
      # A patch of Qwen3-VL's tiny tower is 4 pixels wide, one of Qwen2.5-VL's 14.
      side = 8 if family else 28
      tiny.write_processor(
        folder,
        patch_size=side // 2,
        min_pixels=side * side,
        max_pixels=16 * side * side,
      )
      done[name] = folder, {}
    folder, found = done[name]
    missing = [mesh for mesh in (ONE, *meshes) if mesh not in found]
    if missing:
      command = worker(folder, folder, *missing)
      for _ in range(2):  # once more when eight threads did not meet on two cores
        run = subprocess.run(
          command, cwd=ROOT, env=environment(8), capture_output=True, text=True
        )
        if "rendezvous.cc" not in run.stderr:
          break
      assert run.returncode == 0, run.stderr[-3000:]
      for mesh in missing:
        found[mesh] = dict(np.load(folder / f"{mesh}.npz"))
    return folder, [found[mesh] for mesh in (ONE, *meshes)]

  return run


def check(one, many):
  """Equal tokens; loss and every gradient within 1e-5 of its largest number."""
  assert one.keys() == many.keys()
  np.testing.assert_array_equal(one["tokens"], many["tokens"])
  # All tokens alike would be equal in any order of the rows.
  assert len({row.tobytes() for row in one["tokens"][:, 0]}) > 2
  for name, wanted in one.items():
    scale = np.abs(wanted).max()
    off = np.abs(many[name] - wanted).max()
    # The reference is the policy, so is the sampler: these are nothing but rounding.
    rounding = name in ("grpo/kl", "grpo/ratio_max_dev")
    assert off <= 1e-5 * (1 if rounding else scale), (name, off, scale)
  moved = [n for n, g in one.items() if "." in n and np.abs(g).max() > 0]
  assert len(moved) > 30, "the gradients are zero"


@pytest.mark.slow
def test_a_mesh_equals_one_device(runs):
  # Wrong: a part's images against another part's rows, a mean over one device's rows,
  # a key/value head cut in two (there is one, and tensor is 2).
  check(*runs("Qwen2.5-VL", "2,2,2")[1])


@pytest.mark.slow
@pytest.mark.parametrize("name", tiny.FAMILY_NAMES)
@pytest.mark.parametrize("mesh", MESHES)
def test_meshes_equal_one_device(runs, name, mesh):
  check(*runs(name, mesh)[1])


@pytest.mark.slow
@pytest.mark.parametrize("name", tiny.FAMILY_NAMES)
def test_two_processes_equal_one_device(runs, name, tmp_path):
  # Each gives its own four images: wrong are the other's, or plans of other shapes.
  folder, (one,) = runs(name)
  shared = ["2,2,2", "--processes=2", f"--port={free_port()}"]
  started = [
    subprocess.Popen(
      worker(folder, tmp_path, *shared, f"--process={i}"),
      cwd=ROOT,
      env=environment(4),
      stderr=subprocess.PIPE,
      text=True,
    )
    for i in range(2)
  ]
  try:
    errors = [process.communicate(timeout=280)[1] for process in started]
  finally:
    for process in started:
      process.kill()
  assert all(p.returncode == 0 for p in started), "\n".join(e[-2000:] for e in errors)
  check(one, dict(np.load(tmp_path / "2,2,2.npz")))


def fake_mesh(data, fsdp, tensor):
  return jax.sharding.AbstractMesh((data, fsdp, tensor), sharding.AXES)


def test_the_published_models_are_cut_as_the_table_says():
  # An axis that is whole on every device by mistake fills a pod with copies.
  def specs(name, mesh):
    config = models.config.from_folder(ROOT / "fmd_jax" / "models" / "shapes" / name)
    made = nnx.eval_shape(lambda: models.QwenVL(config, rngs=nnx.Rngs(0)))
    found = {}
    for path, leaf in nnx.to_flat_state(nnx.state(made)):
      where = models.param_sharding(path, leaf.shape, mesh, config)
      found[".".join(path)] = where.spec
      if leaf.size > 2**20:
        assert any(where.spec), path
        where.shard_shape(leaf.shape)  # raises where it doesn't divide
    return found

  layer = "language_model.layers.self_attn"
  found = specs("qwen2_5_vl_3b", fake_mesh(1, 4, 4))
  assert found["language_model.embed_tokens.embedding"] == PartitionSpec(
    "tensor", "fsdp"
  )
  assert found[f"{layer}.q_proj.kernel"] == PartitionSpec(None, "fsdp", "tensor")
  # Two heads on four devices: whole. Cut by numbers, each would have half a head.
  assert found[f"{layer}.k_proj.kernel"] == PartitionSpec(None, "fsdp", None)
  found = specs("qwen2_5_vl_7b", fake_mesh(1, 16, 4))
  assert found[f"{layer}.k_proj.kernel"] == PartitionSpec(None, "fsdp", "tensor")
  assert found["lm_head.kernel"] == PartitionSpec("fsdp", "tensor")
  for name in ("qwen3_vl_2b", "qwen3_vl_4b", "qwen3_vl_8b"):
    specs(name, fake_mesh(1, 16, 1))


def test_an_axis_that_does_not_divide_is_whole():
  mesh = fake_mesh(2, 2, 2)
  spec = lambda *a, **k: tuple(sharding.spec(*a, mesh, **k))  # noqa: E731
  assert spec(("batch", None), (8, 3)) == (("data", "fsdp"), None)
  assert spec(("batch", None), (6, 3)) == (None, None)
  assert spec(("heads",), (12,), units={"heads": 4}) == (None,)
  assert spec(("heads",), (16,), units={"heads": 4}) == ("tensor",)
  # A mesh axis cuts one dimension.
  assert spec(("mlp", "heads"), (4, 4)) == ("tensor", None)


@pytest.mark.parametrize(
  ("sizes", "message"),
  [
    ((2, 2, 1), "data 2 x fsdp 2 x tensor 1 does not fit 1 devices"),
    ((-1, -1, 1), "positive, and one may be -1"),
    ((1, 0, 1), "positive, and one may be -1"),
    ((3, -1, 1), "data 3 x fsdp -1 x tensor 1 does not fit 1 devices"),
  ],
)
def test_a_mesh_that_does_not_fit_is_refused(sizes, message):
  with pytest.raises(ValueError, match=message):
    sharding.make_mesh(*sizes, devices=jax.devices()[:1])


def test_one_device_has_no_mesh():
  # A laptop's programs are those without a mesh, bit for bit.
  mesh = sharding.make_mesh(1, -1, 1, devices=jax.devices()[:1])
  assert mesh.size == 1
  value = np.arange(4.0)
  with sharding.use(mesh):
    assert jax.sharding.get_abstract_mesh().empty
    text = jax.jit(lambda x: sharding.constrain(x, "batch")).lower(value).as_text()
  assert "sharding" not in text
  assert sharding.join(value, mesh) is value
