"""openai:// and gemini:// against loopback servers, by the vendors' own clients."""

import base64
import json
import threading
import time

import pytest

from fmd_jax import inference
from fmd_jax.inference import Reply, Request
from fmd_jax.inference.engines import api
from tests.inference import api_servers

PNG = base64.b64decode(
  "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9"
  "awAAAABJRU5ErkJggg=="
)
KEY = "sk-very-secret-123"
SCHEMA = {"type": "object", "properties": {"ok": {"type": "boolean"}}}
MESSAGES = [
  {"role": "system", "content": "Be short."},
  {
    "role": "user",
    "content": [{"type": "image"}, {"type": "text", "text": "What <|im_end|>is it?"}],
  },
]
REQUEST = Request(MESSAGES, (PNG,), max_tokens=9, seed=3, schema=SCHEMA)


@pytest.fixture(params=["openai", "gemini"])
def kind(request):
  return request.param


@pytest.fixture
def server(kind, monkeypatch):
  monkeypatch.setenv("OPENAI_API_KEY", KEY)
  monkeypatch.setenv("GEMINI_API_KEY", KEY)
  # What the machine's environment says must not reach a loopback server.
  for name in ("GOOGLE_API_KEY", "GOOGLE_GENAI_USE_VERTEXAI", "OPENAI_BASE_URL"):
    monkeypatch.delenv(name, raising=False)
  with api_servers.running(kind, lambda body: "a red ball") as running:
    yield running


@pytest.fixture
def engine(kind, server, monkeypatch):
  def make(options="attempts=3&timeout=30"):
    return inference.load_engine(f"{kind}://org/model@{server.url}?{options}")

  return make


def test_the_request_as_the_endpoint_sees_it(kind, engine, server):
  # Wrong: a control token that closes the turn, an image in the wrong place or lost,
  # no limit, the schema left out.
  (reply,) = engine().generate([REQUEST])
  assert reply == Reply("a red ball", prompt_tokens=7, tokens=3)
  (body,) = server.bodies
  data = base64.b64encode(PNG).decode()
  if kind == "openai":
    assert body["path"] == "/v1/chat/completions"
    assert body["model"] == "org/model"
    system, user = body["messages"]
    assert system == {"role": "system", "content": "Be short."}
    image, text = user["content"]
    assert image["image_url"]["url"] == f"data:image/png;base64,{data}"
    assert text == {"type": "text", "text": "What is it?"}
    assert (body["max_tokens"], body["temperature"], body["seed"]) == (9, 0, 3)
    assert body["response_format"]["json_schema"]["schema"] == SCHEMA
    assert server.headers[0]["authorization"] == f"Bearer {KEY}"
  else:
    assert "/models/org/model:streamGenerateContent" in body["path"]
    assert KEY not in body["path"]
    assert body["systemInstruction"]["parts"] == [{"text": "Be short."}]
    image, text = body["contents"][0]["parts"]
    inline = image["inlineData"]
    assert base64.urlsafe_b64decode(inline["data"]) == PNG
    # The client spells it so; protobuf's JSON knows both.
    assert inline.get("mimeType", inline.get("mime_type")) == "image/png"
    assert text == {"text": "What is it?"}
    config = body["generationConfig"]
    assert (config["maxOutputTokens"], config["temperature"], config["seed"]) == (
      9,
      0,
      3,
    )
    assert config["responseJsonSchema"] == SCHEMA
    assert config["responseMimeType"] == "application/json"
    assert server.headers[0]["x-goog-api-key"] == KEY


def test_what_an_endpoint_refuses_can_be_left_out(kind, engine, server):
  engine("omit=temperature,seed").generate([REQUEST])
  config = (
    server.bodies[0] if kind == "openai" else server.bodies[0]["generationConfig"]
  )
  assert not {"temperature", "seed"} & set(config)
  with pytest.raises(inference.SpecError, match="omit is of temperature"):
    engine("omit=top_k")


@pytest.mark.parametrize(
  "fault", ["429", "500", "malformed", "shapeless", "slow", "cut", "ended"]
)
def test_what_may_pass_is_asked_again(engine, server, fault):
  # Wrong: the row is lost, half a reply is taken for one, or 429 is answered at once.
  server.plan = [fault]
  # On a busy machine also a good reply may take more than a second.
  slow = "attempts=6&timeout=1"
  model = engine(slow) if fault == "slow" else engine()
  (reply,) = model.generate([REQUEST])
  assert (reply.text, reply.error) == ("a red ball", "")
  assert len(server.bodies) == 2 or (fault == "slow" and len(server.bodies) > 2)
  if fault == "429":
    assert server.times[1] - server.times[0] >= 1.0


@pytest.mark.parametrize("fault", ["500", "malformed", "ended"])
def test_what_does_not_pass_is_one_row_without_a_reply(engine, server, fault):
  server.plan = [fault] * 2
  (reply,) = engine("attempts=2").generate([REQUEST])
  assert reply.text == ""
  assert "HTTP 500" in reply.error or "broke off" in reply.error
  assert len(server.bodies) == 2


def test_what_concerns_one_request_fails_alone(engine, server):
  model = engine("concurrency=1")
  server.plan = ["400", "filter", "length"]
  too_large, blocked, cut, good = model.generate([REQUEST] * 4)
  # Wrong: the key, which this endpoint repeats, in a rationale of the records.
  assert "too large, " in too_large.error and "***" in too_large.error
  assert KEY not in too_large.error
  assert "block" in blocked.error
  assert (cut.text, cut.finish, cut.error) == ("a red ball", "length", "")
  assert good.text == "a red ball"
  assert len(server.bodies) == 4
  no_image = model.generate([Request(MESSAGES), Request(MESSAGES, (PNG, PNG))])
  assert [bool(reply.error) for reply in no_image] == [True, True]
  assert "no PNG" in model.generate([Request(MESSAGES, (b"bm",))])[0].error


@pytest.mark.parametrize("kind", ["gemini"])  # OpenAI's prompt filter is a 400
def test_a_blocked_prompt_says_so(kind, engine, server):
  server.plan = ["prompt"]
  assert engine().generate([REQUEST])[0].error == "the prompt was blocked: SAFETY"


def test_a_refused_key_ends_the_run_and_is_not_told(kind, engine, server):
  # Wrong: a thousand unscored rows; or the key, which the server echoes, in a log.
  server.plan = ["401"] * 9
  with pytest.raises(inference.InferenceError) as error:
    engine("concurrency=1").generate([REQUEST] * 9)
  assert KEY not in str(error.value)
  assert "***" in str(error.value)
  assert error.value.__cause__ is None
  time.sleep(0.2)
  assert len(server.bodies) <= 2


def test_a_rate_limit_that_stays_ends_the_run(engine, server, monkeypatch):
  server.plan = ["429"] * 2
  monkeypatch.setattr(api, "_LONGEST_WAIT", 0.01)
  with pytest.raises(inference.InferenceError, match="HTTP 429"):
    engine("attempts=2").generate([REQUEST])


def test_calls_run_at_one_time_up_to_the_bound(engine, server):
  # Wrong: one after another, or as many as there are rows.
  here, now, most = threading.Barrier(3), 0, 0
  lock = threading.Lock()

  def answer(_):
    nonlocal now, most
    with lock:
      now += 1
      most = max(most, now)
    here.wait(100)
    time.sleep(0.2)  # a fourth would be seen
    with lock:
      now -= 1
    return "a red ball"

  server.answer = answer
  replies = engine("attempts=1&concurrency=3&timeout=200").generate([REQUEST] * 6)
  assert [reply.text for reply in replies] == ["a red ball"] * 6
  assert most == 3


def test_replies_come_as_they_finish(engine, server):
  # Wrong: the quick one waits for the slow one, and so does a caller that leaves.
  gate = threading.Event()

  def answer(body):
    if "slow" in json.dumps(body):
      assert gate.wait(100)
    return "a red ball"

  server.answer = answer
  model = engine("concurrency=2&timeout=200")
  slow = Request([{"role": "user", "content": "slow"}])
  stream = model.stream([slow, REQUEST, slow])
  try:
    index, reply = next(stream)
    assert (index, reply.text) == (1, "a red ball")
    stream.close()
    assert not gate.is_set()
  finally:
    gate.set()


@pytest.mark.parametrize(
  ("spec", "says"),
  [
    ("openai://", "names no model"),
    ("openai://m@ftp://x", "takes model@http"),
    ("openai://m?key=sk-abc", "a key belongs into the environment"),
    ("openai://m@http://me:pw@host/v1", "takes model@http|no user"),
    ("openai://m?concurrency=0", "whole number"),
    ("openai://m?thinks=yes", "thinks is 0 or 1"),
    ("openai://m?key_env=NOT_THERE", "NOT_THERE"),
    ("gemini://m?key_env=NOT_THERE", "NOT_THERE"),
    ("gemini://", "names no model"),
  ],
)
def test_bad_specs_name_the_cure_and_no_secret(spec, says, monkeypatch):
  monkeypatch.setenv("OPENAI_API_KEY", KEY)
  with pytest.raises(inference.SpecError, match=says) as error:
    inference.load_engine(spec)
  assert "sk-abc" not in str(error.value)
  assert "pw" not in str(error.value)


def test_a_key_that_no_header_takes_is_refused(kind, engine, monkeypatch):
  # Wrong: UnicodeEncodeError, which shows the header, for each row of a run.
  for bad in ("sk-gehe\u00efm", "sk-a\nb"):
    monkeypatch.setenv("OTHER_KEY", bad)
    with pytest.raises(inference.SpecError, match="key in OTHER_KEY has char") as error:
      engine("key_env=OTHER_KEY")
    assert bad not in str(error.value)


def test_openai_of_a_thinking_template(server, kind):
  if kind == "openai":
    spec = f"openai://m@{server.url}?thinks=1"
    (reply,) = inference.load_engine(spec).generate([REQUEST])
    assert reply.text == "<think>\na red ball"


def test_samples_of_one_prompt_are_counted(engine, server, kind):
  # Wrong: G responses with one seed, which an endpoint that honours it makes equal.
  hot = Request(MESSAGES, (PNG,), temperature=1.0, seed=3)
  model = engine("concurrency=1")
  inference.generate_distinct(model, [hot] * 3)
  configs = [b if kind == "openai" else b["generationConfig"] for b in server.bodies]
  seeds = [config["seed"] for config in configs]
  assert seeds[0] == 3
  assert len(set(seeds)) == 3
  assert all(0 <= seed < 2**31 for seed in seeds)
  inference.generate_distinct(model, [REQUEST] * 3)
  assert len(server.bodies) == 4
