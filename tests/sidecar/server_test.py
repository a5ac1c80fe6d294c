"""The sidecar over real gRPC on loopback."""

import concurrent.futures
import hashlib
import queue
import threading

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from fmd_jax import inference
from fmd_jax.inference import Request, channel, client, wire
from fmd_jax.inference import sidecar_pb2 as pb
from fmd_jax.inference import sidecar_pb2_grpc as rpc
from fmd_jax.sidecar import images, server
from tests.ports import free_port
from tests.sidecar.conftest import picture

MESSAGES = [{"role": "user", "content": [{"type": "image"}]}]


def request(question: str, *pictures: bytes, **kwargs) -> Request:
  return Request(MESSAGES, pictures, {"question": question}, **kwargs)


@pytest.fixture
def sidecar(running, script):
  roles = {
    "answerer": script("echo"),
    "twin": script("echo"),
    "shouter": script("shout"),
    "embedder": script("embed"),
    "judge": "oracle://",
  }
  with running(roles) as address:
    yield address


@pytest.fixture
def stub(sidecar):
  with grpc.insecure_channel(sidecar) as channel:
    yield rpc.SidecarStub(channel)


def test_a_remote_generator_is_its_engine(sidecar, script):
  # Wrong: a field lost on the wire, images in another order, an address as name.
  here = inference.resolve(script("echo"))
  there = inference.resolve(f"grpc://{sidecar}/answerer")
  requests = [
    request(
      "a", picture(b"one"), picture(b"two"), max_tokens=5, temperature=0.25, seed=2**40
    ),
    request("bad"),
    request("b", picture(b"two"), picture(b"one")),
    request("ünïcode \u0000 <|im_end|>"),
  ]
  replies = there.generate(requests)
  assert replies == here.generate(requests)
  assert "bad question" in replies[1].error
  assert inference.identity(there) == inference.identity(here)
  shouter = inference.resolve(f"grpc://{sidecar}/shouter")
  assert shouter.generate([request("a")])[0].finish == "length"
  assert there.generate([]) == []


def test_a_remote_embedder_is_its_engine(sidecar, script):
  here = inference.resolve_embedder(script("embed"))
  there = inference.resolve_embedder(f"grpc://{sidecar}/embedder")
  texts = ["", "ab", "abc"]
  np.testing.assert_array_equal(there.embed(texts), here.embed(texts))
  assert there.embed(texts).dtype == np.float32
  assert there.name == here.name


def test_roles_of_one_spec_share_an_engine(running, script, monkeypatch):
  # Wrong: verifier and evaluator of one checkpoint take twice the memory.
  loaded, load = [], inference.load_engine
  monkeypatch.setattr(
    inference, "load_engine", lambda spec: loaded.append(spec) or load(spec)
  )
  spec = script("echo")
  with running({"a": spec, "b": spec}):
    assert loaded == [spec]


def test_calls_are_cut_by_position(sidecar, monkeypatch):
  # Wrong: a batch that depends on who came first, or replies in another order.
  monkeypatch.setattr(client, "_BATCH", 3)
  model = inference.resolve(f"grpc://{sidecar}/answerer")
  texts = [f"q{i}" for i in range(8)]
  replies = model.generate([request(text) for text in texts])
  assert [reply.text.split("|")[0] for reply in replies] == texts


def test_a_bad_role_is_an_invalid_argument(sidecar, stub):
  with pytest.raises(inference.InferenceError, match="no role 'nobody'; it has answe"):
    _ = inference.resolve(f"grpc://{sidecar}/nobody").name
  with pytest.raises(inference.InferenceError, match="INVALID_ARGUMENT: no role"):
    inference.resolve(f"grpc://{sidecar}/nobody").generate([request("a")])
  with pytest.raises(inference.InferenceError, match="does not embed"):
    _ = inference.resolve_embedder(f"grpc://{sidecar}/judge").name
  for call, message in (
    (stub.Generate, pb.GenerateRequest(role="nobody")),
    (stub.Embed, pb.EmbedRequest(role="judge", texts=["a"])),
    (
      stub.Generate,
      pb.GenerateRequest(role="answerer", requests=[pb.Request(messages_json="{")]),
    ),
    (
      stub.Generate,
      pb.GenerateRequest(role="answerer", requests=[pb.Request(messages_json="[1]")]),
    ),
  ):
    with pytest.raises(grpc.RpcError) as error:
      answer = call(message)
      list(answer) if message.DESCRIPTOR.name == "GenerateRequest" else None
    assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_an_engine_that_fails_is_internal_and_the_server_goes_on(
  running, script, monkeypatch
):
  class Broken:
    name, revision = "broken", ""

    def generate(self, requests):
      raise RuntimeError("out of memory")

  load = inference.load_engine
  monkeypatch.setattr(
    inference,
    "load_engine",
    lambda spec: Broken() if spec == "broken://" else load(spec),
  )
  with running({"a": "broken://", "b": script("echo")}) as address:
    with pytest.raises(inference.InferenceError, match="INTERNAL.*out of memory"):
      inference.resolve(f"grpc://{address}/a").generate([request("x")])
    replies = inference.resolve(f"grpc://{address}/b").generate([request("x")])
    assert replies[0].text.startswith("x|")


def test_an_engine_that_has_ended_ends_the_sidecar(monkeypatch):
  # Wrong: it answers INTERNAL for ever, which ends runs that have another sidecar, and
  # nobody starts it again.
  class Dead:
    name, revision, dead = "dead", "", False

    def generate(self, requests):
      self.dead = True
      raise RuntimeError("out of memory")

  monkeypatch.setattr(inference, "load_engine", lambda spec: Dead())
  codes: queue.Queue = queue.Queue()

  def ask(address):
    with grpc.insecure_channel(address) as channel:
      try:
        message = pb.GenerateRequest(
          role="a", requests=[pb.Request(messages_json="[]", max_tokens=1)]
        )
        codes.put(list(rpc.SidecarStub(channel).Generate(message)))
      except grpc.RpcError as error:
        codes.put(error.code())

  with pytest.raises(ChildProcessError, match="dead has ended: .*out of memory"):
    server.serve(
      {"a": "dead://"},
      host="127.0.0.1",
      port=0,
      on_ready=lambda address: threading.Thread(target=ask, args=(address,)).start(),
    )
  assert codes.get(timeout=30) == grpc.StatusCode.UNAVAILABLE


def test_images_travel_once_and_in_chunks(sidecar, monkeypatch):
  # Wrong: every call sends its pictures again; a large one exceeds a message.
  sent, chunks = [], channel.chunks

  def counted(pictures):
    for chunk in chunks(pictures):
      sent.append(chunk)
      yield chunk

  monkeypatch.setattr(channel, "chunks", counted)
  monkeypatch.setattr(wire, "CHUNK_BYTES", 4)
  model = inference.resolve(f"grpc://{sidecar}/answerer")
  long = picture(b"0123456789")
  requests = [request("a", long), request("b", long, picture(b"abc"))]
  first = model.generate(requests)
  own = [c for c in sent if c.sha256 == hashlib.sha256(long).hexdigest()]
  assert b"".join(chunk.data for chunk in own) == long
  assert [chunk.last for chunk in own] == [False] * (len(own) - 1) + [True]
  assert {len(chunk.data) for chunk in own[:-1]} == {4}
  number = len(sent)
  assert model.generate(requests) == first
  # Another client asks before it sends.
  other = inference.resolve(f"grpc://{sidecar}/answerer")
  assert other.generate(requests) == first
  assert len(sent) == number


def test_an_image_that_has_left_the_store_is_sent_again(running, script, monkeypatch):
  # Wrong: FAILED_PRECONDITION ends the run.
  big = [picture(bytes([i]) * 700_000) for i in range(2)]
  with running({"a": script("echo")}, image_store_mb=1) as address:
    model = inference.resolve(f"grpc://{address}/a")
    for _ in range(2):
      for i, shown in enumerate(big):
        seen = hashlib.sha256(shown).hexdigest()[:8]
        assert model.generate([request(f"{i}", shown)])[0].text.startswith(
          f"{i}|{seen}"
        )
    monkeypatch.setattr(channel, "_UPLOADS", 3)
    # Both at once do not fit: an end with a reason, not an endless exchange.
    with pytest.raises(inference.InferenceError, match="FAILED_PRECONDITION: . images"):
      model.generate([request("x", *big)])


def test_callers_that_push_each_others_images_out_are_all_served(running, script):
  # Wrong: an error after a few attempts, though every batch fits by itself.
  big = [picture(bytes([i]) * 300_000) for i in range(24)]
  with running({"a": script("echo")}, image_store_mb=1) as address:

    def ask(shown):
      model = inference.resolve(f"grpc://{address}/a")
      return [model.generate([request(f"{i}", shown)])[0].error for i in range(10)]

    with concurrent.futures.ThreadPoolExecutor(len(big)) as pool:
      assert not any(error for own in pool.map(ask, big) for error in own)


def test_missing_images_are_named(stub):
  digest = hashlib.sha256(b"new").hexdigest()
  message = pb.GenerateRequest(
    role="answerer", requests=[pb.Request(messages_json="[]", images=[digest])]
  )
  with pytest.raises(grpc.RpcError) as error:
    list(stub.Generate(message))
  assert error.value.code() == grpc.StatusCode.FAILED_PRECONDITION
  assert digest in error.value.details()
  assert list(stub.HasImages(pb.HasImagesRequest(sha256=[digest])).missing) == [digest]
  # 10 000 names do not fit in a status; it must arrive all the same.
  many = [hashlib.sha256(bytes([i % 256, i // 256])).hexdigest() for i in range(10_000)]
  message.requests[0].images[:] = many
  with pytest.raises(grpc.RpcError) as error:
    list(stub.Generate(message))
  assert error.value.code() == grpc.StatusCode.FAILED_PRECONDITION
  assert "10000 images" in error.value.details()


@pytest.mark.parametrize(
  ("parts", "says"),
  [
    ([("good", b"other", True)], "arrived with the hash"),
    ([("good", b"goo", False)], "was not finished"),
    ([("good", b"goo", False), ("other", b"d", True)], "was not finished"),
  ],
)
def test_a_broken_upload_is_an_invalid_argument(stub, parts, says):
  # Wrong: other bytes kept under the hash of a picture.
  chunks = [
    pb.ImageChunk(sha256=hashlib.sha256(n.encode()).hexdigest(), data=data, last=last)
    for n, data, last in parts
  ]
  with pytest.raises(grpc.RpcError, match=says) as error:
    stub.PutImages(iter(chunks))
  assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_the_store_keeps_what_was_used_last():
  a, b, c = picture(b"aaa"), picture(b"bbb"), picture(b"ccccc")
  names = {data: hashlib.sha256(data).hexdigest() for data in (a, b, c)}
  store = images.ImageStore(len(a) + len(c))
  store.put(names[a], a)
  store.put(names[b], b)
  store.get([names[a]])
  store.put(names[c], c)
  assert store.get(names.values()) == (
    {names[a]: a, names[c]: c},
    [names[b]],
  )
  with pytest.raises(ValueError, match="store takes"):
    store.put(hashlib.sha256(b"x" * 99).hexdigest(), b"x" * 99)


def test_a_large_batch_fits_in_a_message(sidecar):
  # gRPC's own limit is 4 MiB.
  texts = ["x" * 100_000 + str(i) for i in range(100)]
  model = inference.resolve(f"grpc://{sidecar}/shouter")
  replies = model.generate([request(text) for text in texts])
  assert [reply.text for reply in replies] == [text.upper() for text in texts]


def test_a_call_has_a_deadline(running, script, tmp_path):
  (tmp_path / "slow").touch()
  (tmp_path / "script.py").write_text(
    (tmp_path / "script.py").read_text().replace("sleep(600)", "sleep(4)")
  )
  with running({"a": script("slow")}) as address:
    model = inference.resolve(f"grpc://{address}/a", deadline=1)
    with pytest.raises(inference.InferenceError, match="did not answer within 1 s"):
      model.generate([request("x")])


def test_health_is_serving_only_when_models_are_loaded(running, script, monkeypatch):
  # Wrong: a client that waits for health asks a server that has no models yet.
  gate, load, statuses = threading.Event(), inference.load_engine, []
  ports = []
  monkeypatch.setattr(
    inference, "load_engine", lambda spec: gate.wait(120) and load(spec)
  )
  real = server.Servicer.load

  def watched(self, roles):
    def check():
      try:
        with grpc.insecure_channel(f"127.0.0.1:{ports[0]}") as channel:
          health = health_pb2_grpc.HealthStub(channel)
          for service in ("", server.SERVICE):
            message = health_pb2.HealthCheckRequest(service=service)
            statuses.append(health.Check(message).status)
          with pytest.raises(grpc.RpcError) as error:
            rpc.SidecarStub(channel).Describe(pb.DescribeRequest())
          statuses.append(error.value.code())
      finally:
        gate.set()

    thread = threading.Thread(target=check)
    thread.start()
    real(self, roles)
    thread.join()

  monkeypatch.setattr(server.Servicer, "load", watched)
  ports.append(free_port())
  with (
    running({"a": script("echo")}, port=ports[0]) as address,
    grpc.insecure_channel(address) as channel,
  ):
    health = health_pb2_grpc.HealthStub(channel)
    now = health.Check(health_pb2.HealthCheckRequest(service=server.SERVICE)).status
  serving = health_pb2.HealthCheckResponse
  assert statuses == [
    serving.NOT_SERVING,
    serving.NOT_SERVING,
    grpc.StatusCode.UNAVAILABLE,
  ]
  assert now == serving.SERVING


def test_reflection_names_the_service(sidecar):
  with grpc.insecure_channel(sidecar) as channel:
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    asked = reflection_pb2.ServerReflectionRequest(list_services="")
    (answer,) = stub.ServerReflectionInfo(iter([asked]))
  names = {service.name for service in answer.list_services_response.service}
  assert {server.SERVICE, "grpc.health.v1.Health"} <= names


def test_a_taken_port_and_a_bad_role_are_one_clear_error(running, script, sidecar):
  # Wrong: two sidecars share a port, and each gets some of the calls.
  port = int(sidecar.rpartition(":")[2])
  stop = threading.Event()
  stop.set()
  with pytest.raises(OSError, match=f"cannot listen at 127.0.0.1:{port}"):
    server.serve({"a": script("echo")}, host="127.0.0.1", port=port, stop=stop)
  with pytest.raises(inference.SpecError, match="role a: .*no function 'nobody'"):
    server.serve({"a": script("nobody")}, host="127.0.0.1", port=0)
  with pytest.raises(inference.SpecError, match="does not serve a sidecar"):
    server.serve({"a": "grpc://h:1/r"}, host="127.0.0.1", port=0)
