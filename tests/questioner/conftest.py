import pytest

from tests.questioner import sampling


@pytest.fixture
def model():
  return sampling.tiny_model()


@pytest.fixture
def prompts():
  return sampling.tiny_prompts()
