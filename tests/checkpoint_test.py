import pathlib
import shutil
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fmd_jax.checkpoint import Checkpoints, MismatchError

ROOT = pathlib.Path(__file__).parents[1]


def a_state(seed=0, width=3):
  key = jax.random.key(seed)
  params = {
    "w": jax.random.normal(key, (width, 4)),
    "layers": [{"b": jax.random.normal(key, (2,)).astype(jnp.bfloat16)}],
  }
  optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))
  opt_state = optimizer.init(params)
  updates, opt_state = optimizer.update(params, opt_state, params)
  return {
    "params": params,
    "opt": opt_state,
    "step": jnp.asarray(7, jnp.int32),
    "key": jax.random.fold_in(key, 5),
  }


def comparable(tree):
  return [
    np.asarray(jax.random.key_data(x) if x.dtype == jax.random.key(0).dtype else x)
    for x in jax.tree.leaves(tree)
  ]


ARRAYS = {"embeddings": np.random.default_rng(0).normal(size=(5, 3)).astype("f4")}
META = {"images": {"a/ü": 2, "b": 3}, "counts": {"what color": 4}, "x": 0.1}


def test_everything_comes_back_bit_for_bit(tmp_path):
  # Wrong: bf16 through fp32, a typed key as bare numbers, Adam's moments left out,
  # JSON numbers rounded.
  state = a_state()
  with Checkpoints(tmp_path / "ck") as checkpoints:
    assert checkpoints.latest() is None
    checkpoints.save(7, state, ARRAYS, META)
  template = jax.tree.map(jnp.zeros_like, {**a_state(1), "key": 0})
  template["key"] = jax.random.key(9)
  with Checkpoints(tmp_path / "ck") as checkpoints:
    found = checkpoints.restore(template)
  assert found.step == 7 and found.meta == META
  assert jax.tree.structure(found.state) == jax.tree.structure(state)
  for got, want in zip(comparable(found.state), comparable(state), strict=True):
    assert got.dtype == want.dtype and got.tobytes() == want.tobytes()
  assert list(found.arrays) == ["embeddings"]
  assert found.arrays["embeddings"].tobytes() == ARRAYS["embeddings"].tobytes()
  assert found.state["key"].dtype == state["key"].dtype
  next_number = jax.random.uniform(found.state["key"])
  assert next_number == jax.random.uniform(state["key"])


def test_banks_may_be_empty_and_grow(tmp_path):
  # Wrong: the first step's shapes taken for every step's, or no arrays => no save.
  with Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(0, a_state(), {}, {"images": {}})
    checkpoints.save(1, a_state(), {"e": np.ones((2, 3))}, {})
    checkpoints.save(2, a_state(), {"e": np.ones((9, 3))}, {})
    assert checkpoints.restore(a_state()).arrays["e"].shape == (9, 3)
    assert checkpoints.restore(a_state(), 1).arrays["e"].shape == (2, 3)


def test_the_newest_are_kept_and_a_step_is_replaced(tmp_path):
  # Wrong: keep all (the disc fills up); or a repeated step ignored, as orbax does.
  with Checkpoints(tmp_path, keep=2) as checkpoints:
    for step in (1, 2, 3, 10):
      checkpoints.save(step, {"x": jnp.ones(2) * step}, {}, {})
    checkpoints.save(10, {"x": jnp.ones(2) * 99}, {}, {})
    assert checkpoints.latest() == 10
    assert checkpoints.restore({"x": jnp.ones(2)}).state["x"][0] == 99
    assert checkpoints.restore({"x": jnp.ones(2)}, 3).state["x"][0] == 3
    with pytest.raises(FileNotFoundError, match="step 2"):
      checkpoints.restore({"x": jnp.ones(2)}, 2)


def test_another_model_is_refused_in_one_line(tmp_path):
  # Wrong: orbax' own dump of both trees, or silent truncation to the new shape.
  with Checkpoints(tmp_path) as checkpoints:
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
      checkpoints.restore(a_state())
    checkpoints.save(3, a_state(), {}, {})
    wider = a_state(width=5)
    more = a_state() | {"ema": jnp.ones(2)}
    fewer = {k: v for k, v in a_state().items() if k != "step"}
    for template, says in ((wider, r"w is .*\[3, 4\]"), (more, "ema"), (fewer, "step")):
      with pytest.raises(ValueError, match=says) as error:
        checkpoints.restore(template)
      assert "\n" not in str(error.value)


def test_arrays_are_restored_to_the_templates_sharding():
  # Wrong: every device gets the whole array, and a pod's host reads all of it.
  code = """
    import os, sys, tempfile
    os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=4"
    import jax, jax.numpy as jnp
    from jax.sharding import NamedSharding, PartitionSpec as P
    from fmd_jax.checkpoint import Checkpoints
    mesh = jax.make_mesh((4,), ("fsdp",))
    split = NamedSharding(mesh, P("fsdp"))
    with tempfile.TemporaryDirectory() as folder, Checkpoints(folder) as checkpoints:
      checkpoints.save(1, {"w": jnp.arange(8.0)}, {}, {})
      template = {"w": jax.ShapeDtypeStruct((8,), jnp.float32, sharding=split)}
      w = checkpoints.restore(template).state["w"]
    assert w.sharding == split, w.sharding
    assert [s.data.tolist() for s in w.addressable_shards][1] == [2.0, 3.0]
  """
  command = [sys.executable, "-c", textwrap.dedent(code)]
  subprocess.run(command, cwd=ROOT, check=True)


def test_a_run_killed_while_saving_leaves_the_older_checkpoint(tmp_path):
  # Wrong: written in place; the half-written step is then the latest.
  code = f"""
    import os, sys
    import jax.numpy as jnp
    from fmd_jax.checkpoint import Checkpoints
    checkpoints = Checkpoints({str(tmp_path)!r})
    checkpoints.save(1, {{"x": jnp.ones(3)}}, {{}}, {{}})
    checkpoints.wait()
    # The end comes when all bytes are written and nothing is named yet.
    import orbax.checkpoint as ocp
    ocp.JsonCheckpointHandler.finalize = lambda *_: os._exit(9)
    ocp.StandardCheckpointHandler.finalize = lambda *_: os._exit(9)
    checkpoints.save(2, {{"x": jnp.zeros(3)}}, {{}}, {{}})
    checkpoints.wait()
  """
  command = [sys.executable, "-c", textwrap.dedent(code)]
  assert subprocess.run(command, cwd=ROOT).returncode == 9
  assert [p for p in tmp_path.iterdir() if p.name.startswith("2")]  # its remains
  with Checkpoints(tmp_path) as checkpoints:
    assert checkpoints.latest() == 1
    assert checkpoints.restore({"x": jnp.zeros(3)}).state["x"].tolist() == [1, 1, 1]
    checkpoints.save(2, {"x": jnp.zeros(3)}, {}, {})
    assert checkpoints.latest() == 2


def test_what_is_saved_is_what_the_state_was(tmp_path):
  # Wrong: the files are written after the next update has reused the memory.
  update = jax.jit(lambda x: x * 3 + 1, donate_argnums=0)
  x = update(jnp.arange(2**22, dtype=jnp.float32))
  wanted = np.array(x)
  with Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(1, {"x": x}, {}, {})
    for _ in range(5):
      x = update(x)
    checkpoints.wait()
    found = checkpoints.restore({"x": x}).state["x"]
  assert np.array_equal(found, wanted)


def flip(path):
  data = bytearray(path.read_bytes())
  data[len(data) // 2] ^= 0x55
  path.write_bytes(data)


@pytest.mark.parametrize(
  "damage",
  [flip, lambda path: path.write_bytes(path.read_bytes()[:9]), pathlib.Path.unlink],
  ids=["flipped", "cut", "gone"],
)
def test_a_damaged_checkpoint_is_said_and_the_older_one_used(tmp_path, damage, caplog):
  # Wrong: the run ends, or goes on with parameters that were never trained.
  state = {"w": jax.random.normal(jax.random.key(0), (64, 64))}
  with Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(3, state, ARRAYS, META)
    checkpoints.save(5, {"w": state["w"] * 2}, ARRAYS, META)
  largest = lambda p: p.stat().st_size  # noqa: E731
  files = [p for p in (tmp_path / "5" / "state").rglob("*") if p.is_file()]
  damage(max(files, key=largest))
  with Checkpoints(tmp_path) as checkpoints:
    found = checkpoints.restore(jax.tree.map(jnp.zeros_like, state))
    assert found.step == 3 and np.array_equal(found.state["w"], state["w"])
    assert "step 5" in caplog.text and "damaged" in caplog.text
    # Training comes to step 5 again, and replaces it.
    checkpoints.save(5, state, ARRAYS, META)
    checkpoints.wait()
    assert checkpoints.restore(state).step == 5
    shutil.rmtree(tmp_path / "3")
    damage(max((tmp_path / "5" / "state").rglob("*"), key=largest))
  none = pytest.raises(FileNotFoundError, match=r"is whole \(steps \[5\]")
  with Checkpoints(tmp_path) as checkpoints, none:
    checkpoints.restore(state)


def test_the_run_of_a_checkpoint_is_looked_at_first(tmp_path):
  # Wrong: refused for the shape of some parameter, or taken for damaged.
  def accept(meta):
    raise MismatchError(f"the seed is {meta['seed']} there")

  with Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(1, {"x": jnp.ones(3)}, {}, {"seed": 7})
    checkpoints.wait()
    with pytest.raises(MismatchError, match="seed is 7"):
      checkpoints.restore({"y": jnp.ones(4)}, accept=accept)
