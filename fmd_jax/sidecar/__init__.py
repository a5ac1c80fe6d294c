"""The sidecar: engines behind gRPC, in a process of their own without jax.

`server` is that process, `process` starts and ends it from another one. In it `service`
answers calls, `worker` runs one engine, `images` keeps what was uploaded, `cache` what
was replied, `security` knows who may call, and `status` shows what goes on.
"""
