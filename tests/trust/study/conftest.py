"""A judged run, made once a module, and a study of it for each test."""

import pytest

from fmd_jax.trust import study as kit
from tests.trust.study import made


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  folder = tmp_path_factory.mktemp("run")
  return folder, made.make_run(folder)


@pytest.fixture
def study(run, tmp_path):
  return kit.export(run[0], tmp_path / "study", items=30)
