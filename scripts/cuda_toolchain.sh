#!/usr/bin/env bash
# cuda_toolchain.sh [FOLDER]: prints the path of an nvcc. It is $NVCC or one on the PATH where its CUDA is 13;
# else the compiler and the static runtime are installed from PyPI into FOLDER (default .cuda of this project),
# which needs no system toolkit, driver or device. Idempotent.
# cuda_toolchain.sh --here: the same where nothing needs to be installed; else says so and exits with 69.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=${1:-.cuda}
wanted='cuda-toolkit[nvcc,crt,cccl,cudart]==13.0.*'

for nvcc in "${NVCC:-}" "$(command -v nvcc || true)"; do
  if [[ -n $nvcc ]] && "$nvcc" --version 2>/dev/null | grep -q 'release 13\.'; then
    echo "$nvcc"
    exit 0
  fi
done

if [[ ${1:-} == --here ]]; then
  echo "cuda_toolchain: no nvcc of CUDA 13 on the PATH, nor in \$NVCC" >&2
  exit 69
fi

found() { find "$folder/venv/lib" -path '*/nvidia/cu13/bin/nvcc' 2>/dev/null | head -n 1; }
if [[ -z $(found) || $(cat "$folder/wanted" 2>/dev/null) != "$wanted" ]]; then
  echo "cuda_toolchain: installing $wanted into $folder" >&2
  mkdir -p "$folder"
  python3 -m venv "$folder/venv"
  "$folder/venv/bin/pip" install --quiet --disable-pip-version-check "$wanted" >&2
  echo "$wanted" > "$folder/wanted"
fi
nvcc=$(found)
[[ -n $nvcc ]] || { echo "cuda_toolchain: no nvcc in $folder after the installation" >&2; exit 69; }
echo "$PWD/$nvcc"
