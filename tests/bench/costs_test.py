"""The count by hand against the products in the program that JAX traces."""

import math

import jax
import numpy as np
from flax import nnx

from fmd_jax import models
from fmd_jax.models import scoring
from fmd_jax.questioner.inputs import make_prompt
from tests.bench import costs
from tests.models import tiny

G, T = 3, 5


def _products(jaxpr):
  """Operations of all products; of two branches, two tiny layers take each once."""
  total = 0.0
  for equation in jaxpr.eqns:
    name, given = equation.primitive.name, equation.params
    if name == "dot_general":
      (lhs, _), (batch, _) = given["dimension_numbers"]
      shape = equation.invars[0].aval.shape
      inner = math.prod(shape[i] for i in lhs)
      total += 2 * inner * math.prod(equation.outvars[0].aval.shape)
      continue
    times = given["length"] if name == "scan" else 0.5 if name == "cond" else 1
    for inner in jax.core.jaxprs_in_params(given):
      total += times * _products(inner)
  return total


def test_count_equals_the_traced_products():
  # A multiply-add counted as one, a product of attention or a layer forgotten, or the
  # prompt counted once a response would all differ.
  model = tiny.model(seed=0)
  config = model.config
  prompts = tiny.prompts(config, [(8, 8), (8, 8)], [22, 22])
  ids = prompts.input_ids[:, :22]
  prompt = make_prompt(ids, prompts.lengths, prompts.image_grid_thw, config)
  plan = models.vision_plan(prompts.image_grid_thw, config.vision)
  graphdef, params = nnx.split(model)
  features = np.zeros((32, config.feature_width), np.float32)

  def encode(params):
    return nnx.merge(graphdef, params).encode_images(
      prompts.pixel_values, plan, remat=False
    )

  def score(params):
    return scoring.completion_logprobs(
      nnx.merge(graphdef, params),
      features,
      prompt.input_ids,
      prompt.lengths,
      prompt.positions,
      prompt.next_position,
      np.ones((2, G, T), np.int32),
      np.full((2, G), T, np.int32),
      np.ones(config.text.vocab_size, bool),
      remat=False,
    )

  shape = costs.Shape(2, G, 22, T, prompts.image_grid_thw)
  counted = costs.forward(model, shape)
  assert _products(jax.make_jaxpr(encode)(params).jaxpr) == counted["vision"]
  # The program computes the whole square of scores, a prompt's last logits once a
  # response, and its last queries of all tokens.
  text = config.text
  width = text.num_attention_heads * text.head_dim
  layers = text.num_hidden_layers
  prompts_too_much = 2 * 22 * 21 / 2 * (layers - 1)
  rows_too_much = 2 * G * (T - 1) * (T - 2) / 2 * layers
  counted["attention"] += 4 * width * (prompts_too_much + rows_too_much)
  counted["layers"] += 2 * 2 * 21 * text.hidden_size * width
  counted["head"] += 2 * text.hidden_size * text.vocab_size * 2 * (G - 1)
  counted.pop("vision")
  assert _products(jax.make_jaxpr(score)(params).jaxpr) == sum(counted.values())
