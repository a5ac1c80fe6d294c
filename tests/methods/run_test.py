"""What a run writes when it is one of several hosts."""

import pytest
from flax import nnx

from fmd_jax import data, hosts, inference, models, records, rollout
from fmd_jax.methods.run import Run, ask_heldout
from fmd_jax.questioner.agent import Agent
from tests.models import tiny
from tests.runs import small_config

HOSTS, IMAGES = 2, 8


class Silent:
  """An answerer, judge and embedder with nothing to say."""

  name, revision = "silent", ""

  def generate(self, requests):
    return [inference.Reply("") for _ in requests]

  def embed(self, texts):
    raise AssertionError("nothing is rewarded here")


@pytest.fixture
def run(tmp_path):
  folder = tmp_path / "questioner"
  models.save(tiny.model(seed=1), folder)
  tiny.write_processor(folder)
  config = small_config(images_per_step=4)
  agent = Agent(
    str(folder), questions=2, group_size=3, max_new_tokens=4, temperature=1.0
  )
  images = data.open(f"testbed://?split=heldout&size={IMAGES}")
  roles = rollout.Roles(Silent(), Silent(), Silent())
  return Run(config, tmp_path / "run", "id", agent, roles, images, images)


def test_every_host_writes_its_own_shard_of_its_own_images(run, monkeypatch):
  # Under one name the hosts would replace each other's rows; without their parts of
  # the batches every row would be there twice.
  monkeypatch.setattr(hosts, "count", lambda: HOSTS)
  monkeypatch.setattr(hosts, "from_first", lambda make: make())
  for host in range(HOSTS):
    monkeypatch.setattr(hosts, "index", lambda host=host: host)
    ask_heldout(run, "grpo", nnx.state(run.agent.model), 3)
  folder = run.workdir / "records" / "grpo_heldout"
  assert sorted(path.name for path in folder.iterdir()) == [
    f"step-{step:06d}-host-{host:05d}-of-00002.parquet"
    for step in range(2)
    for host in range(HOSTS)
  ]
  rows = records.read(run.workdir, "grpo", "heldout")
  assert len(rows) == IMAGES * 3 * 2
  assert (rows.groupby("image_id").size() == 3 * 2).all()
  assert rows["image_id"].nunique() == IMAGES
  assert len(list((run.workdir / "images").iterdir())) == IMAGES
