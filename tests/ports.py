"""A port of the loopback for a server that a test starts."""

import random
import socket

# Below those that systems give to clients (32768 and up on Linux, 49152 on others):
# between looking and listening no connection of anybody's takes one by chance.
_PORTS = range(20_000, 32_000)


def free_port() -> int:
  while True:
    port = random.SystemRandom().choice(_PORTS)
    with socket.socket() as probe:
      try:
        probe.bind(("127.0.0.1", port))
      except OSError:
        continue
    return port
