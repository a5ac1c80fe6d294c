"""Who may call: bearer tokens, TLS, and no open door on a public address."""

import dataclasses
import hmac
import os
import pathlib
from collections.abc import Callable

import grpc
from absl import logging

from fmd_jax.inference.channel import TOKEN

_LOOPBACK = ("127.0.0.1", "localhost", "[::1]", "::1")
_OPEN = "/grpc.health.v1.Health/"


@dataclasses.dataclass(frozen=True)
class Security:
  """How callers prove who they are.

  Attributes:
    token: that every call but a health check has to bring; "" for none.
    certificate, key: PEM files of this server; "" for no TLS.
    client_ca: PEM file of the authority that signs callers' certificates (mutual TLS);
      "" asks for none.
  """

  token: str = dataclasses.field(default="", repr=False)
  certificate: str = ""
  key: str = ""
  client_ca: str = ""

  def check(self, host: str) -> None:
    """Refuses what would leave a door open.

    Raises:
      ValueError: names the setting and the cure.
    """
    if bool(self.certificate) != bool(self.key):
      raise ValueError("TLS needs both a certificate and its key")
    if self.client_ca and not self.certificate:
      raise ValueError("a client CA needs TLS: give a certificate and its key too")
    if host in _LOOPBACK:
      return
    if not self.token and not self.client_ca:
      raise ValueError(
        f"listening at {host} lets everybody in: set {TOKEN} in the environment, or "
        "give a client CA, or listen at 127.0.0.1"
      )
    if not self.certificate:
      logging.warning("listening at %s without TLS: the token can be read", host)

  def credentials(self) -> grpc.ServerCredentials | None:
    """None without TLS."""
    if not self.certificate:
      return None
    pair = [pathlib.Path(p).read_bytes() for p in (self.key, self.certificate)]
    ca = pathlib.Path(self.client_ca).read_bytes() if self.client_ca else None
    return grpc.ssl_server_credentials(
      [tuple(pair)], root_certificates=ca, require_client_auth=ca is not None
    )


def from_environment(
  certificate: str = "", key: str = "", client_ca: str = ""
) -> Security:
  """The security of a server whose token is in the environment."""
  return Security(os.environ.get(TOKEN, "").strip(), certificate, key, client_ca)


class TokenInterceptor(grpc.ServerInterceptor):
  """Ends calls without the token as UNAUTHENTICATED, before anything is read."""

  def __init__(self, token: str, rejected: Callable[[], None]):
    self._wanted = f"Bearer {token}".encode()

    def deny(_, context):
      rejected()
      context.abort(
        grpc.StatusCode.UNAUTHENTICATED,
        f"a bearer token is needed: set {TOKEN} in the caller's environment",
      )

    # Of any kind of call: a kind is only how often either side may speak.
    self._deny = grpc.stream_stream_rpc_method_handler(deny)

  def intercept_service(self, continuation, details):
    if details.method.startswith(_OPEN):
      return continuation(details)
    told = dict(details.invocation_metadata).get("authorization", "")
    told = told if isinstance(told, bytes) else told.encode()
    if hmac.compare_digest(told, self._wanted):
      return continuation(details)
    return self._deny
