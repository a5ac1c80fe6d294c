"""Model specs: what they resolve to, and what a bad one says."""

import json

import numpy as np
import pytest

from fmd_jax import inference
from fmd_jax.inference import Reply, Request


@pytest.mark.parametrize(
  ("spec", "says"),
  [
    ("answerer", "no scheme"),
    ("vllm:///x", "no folder /x"),
    ("vllm://testbed/answerer?ray=yes", "ray is 0 or 1"),
    ("vllm://testbed/answerer?memory=2", "from 0 to 1"),
    ("vllm://testbed/answerer?gpu=1", "no option 'gpu'"),
    ("gguf:///x", "no engine 'gguf'"),
    ("hf://relative/folder", "absolute path"),
    ("hf:///no/such/folder/here", "no folder"),
    ("hf:///x/y?batch=0", "whole number"),
    ("hf:///x/y?treads=2", "no option 'treads'; it has threads"),
    ("hf:///x/y?dtype=int8", "dtype is one of"),
    ("hf://testbed/nobody", "no checkpoint 'nobody'; it has answerer, .*questioner"),
    ("hf://testbed/", "no checkpoint ''"),
    ("hf://testbed/../assets/answerer", "no checkpoint '../assets/answerer'"),
    ("oracle://path", "takes no path"),
    ("oracle://?se=0.4", "se must be a number from 0.5 .* not '0.4'"),
    ("oracle://?sp=1.01", "sp must be a number from 0.5 .* not '1.01'"),
    ("oracle://?se=80%25", "se must be a number from 0.5 .* not '80%'"),
    ("oracle://?se=nan", "se must be a number from 0.5 .* not 'nan'"),
    ("oracle://?se=", "se must be a number from 0.5 .* not ''"),
    ("oracle://?by=skill", "by must be difficulty, not 'skill'; without it"),
    ("oracle://?seed=-1", "seed must be a whole number from 0"),
    ("oracle://?seed=1.5", "seed must be a whole number from 0"),
    ("oracle://?ce=0.8", "no option 'ce'; it has se, sp, by, seed"),
    ("minilm://path", "takes no path"),
    ("scripted://no.json", "no file"),
    ("grpc://host/role", "not grpc://host:port/role"),
    ("grpc://host:123", "not grpc://host:port/role"),
  ],
)
def test_a_bad_spec_says_what_is_wrong(spec, says):
  with pytest.raises(inference.SpecError, match=says):
    inference.resolve(spec)


def test_an_embedder_is_not_a_generator():
  with pytest.raises(inference.SpecError, match="does not embed"):
    inference.resolve_embedder("oracle://")


@pytest.mark.parametrize(
  ("spec", "name"),
  [
    ("oracle://", "oracle"),
    ("oracle://?se=0.8&sp=0.75", "oracle?se=0.8&sp=0.75&seed=0"),
    ("oracle://?seed=1&se=.50", "oracle?se=0.5&sp=1.0&seed=1"),
    (
      "oracle://?se=0.8&sp=0.8&by=difficulty&seed=1",
      "oracle?se=0.8&sp=0.8&by=difficulty&seed=1",
    ),
  ],
)
def test_an_oracles_name_tells_its_noise(spec, name):
  # Wrong: "oracle" for all, so that records of a noisy judge pass for exact ones; or
  # the spec as typed, so that one judge has several names.
  assert inference.resolve(spec).name == name


def test_needs_sidecar():
  # Wrong: an hf:// engine loaded beside jax.
  specs = ("hf:///x", "minilm://", "oracle://", "grpc://h:1/r")
  assert [inference.needs_sidecar(s) for s in specs] == [True, True, False, False]


def request(question: str) -> Request:
  return Request([], fields={"question": question})


def test_a_scripted_function_fails_one_request_at_a_time(tmp_path):
  file = tmp_path / "model.py"
  file.write_text(
    "def answer(request):\n"
    "  q = request.fields['question']\n"
    "  if q == 'bad': raise RuntimeError('boom')\n"
    "  return 3 if q == 'three' else q.upper()\n"
    "def embed(text): return [len(text), 1.0]\n"
  )
  model = inference.resolve(f"scripted://{file}:answer")
  replies = model.generate([request(q) for q in ("a", "bad", "three", "b")])
  assert [reply.text for reply in replies] == ["A", "", "", "B"]
  assert "boom" in replies[1].error
  assert "not text" in replies[2].error
  assert inference.identity(model).startswith("scripted/model.py:answer@")
  vectors = inference.resolve_embedder(f"scripted://{file}:embed").embed(["", "ab"])
  np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-6)
  with pytest.raises(inference.SpecError, match="no function 'nobody'"):
    inference.resolve(f"scripted://{file}:nobody")


def test_a_scripted_table(tmp_path):
  file = tmp_path / "table.json"
  file.write_text(json.dumps({"replies": {"a": "x", "b": {"ok": True}}}))
  model = inference.resolve(f"scripted://{file}")
  replies = model.generate([request(q) for q in "abc"])
  assert replies[:2] == [Reply("x"), Reply('{"ok": true}')]
  assert "no scripted reply to 'c'" in replies[2].error
  file.write_text(json.dumps({"replies": {}, "default": "d"}))
  assert inference.resolve(f"scripted://{file}").generate([request("c")]) == [
    Reply("d")
  ]
  file.write_text("[]")
  with pytest.raises(inference.SpecError, match="a table is"):
    inference.resolve(f"scripted://{file}")
