"""A run to report on, made once a module."""

import shutil

import pytest

from fmd_jax import report
from tests.report import fake


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
  folder = tmp_path_factory.mktemp("run")
  return folder, fake.make_workdir(folder, steps=20)


@pytest.fixture(scope="module")
def page(workdir):
  return report.build(workdir[0])


@pytest.fixture
def a_copy(workdir, tmp_path):
  return shutil.copytree(workdir[0], tmp_path / "run")
