"""The sidecar: engines behind gRPC, in a process of their own without jax.

`server` is that process, `process` starts and ends it from another one, `images`
keeps what was uploaded.
"""
