#!/usr/bin/env bash
# tools/test_peers.sh [OPTIONS OF test_peers.py]: exports read by compressed-tensors, transformers and GPTQModel,
# and chat templates beside those of transformers.
# Makes a virtual environment with them under build/peers, from PyPI.
#   AQ_DIST         the program (build/release/bin/aq-dist, else build/dev/bin/aq-dist)
#   AQ_PEERS_VENV   a virtual environment to use as it is; AQ_LLMCOMPRESSOR_VENV for llm-compressor, which wants older ones
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=tools/common.sh
source tools/common.sh

aq=${AQ_DIST:-}
for candidate in build/release/bin/aq-dist build/dev/bin/aq-dist; do
  if [ -z "$aq" ] && [ -x "$candidate" ]; then aq=$candidate; fi
done
if [ -z "$aq" ]; then
  echo "There is no program; build it, or name it: AQ_DIST=PATH" >&2
  exit 2
fi

# torch of PyPI needs the libraries of CUDA to be imported, though nothing here runs on a GPU.
venv=${AQ_PEERS_VENV:-build/peers}
if [ -z "${AQ_PEERS_VENV:-}" ] && [ ! -f "$venv/.complete" ]; then
  step "Installing the peers into $venv"
  python3 -m venv "$venv"
  "$venv/bin/pip" install --quiet --upgrade pip setuptools wheel
  "$venv/bin/pip" install --quiet torch transformers compressed-tensors safetensors numpy h5py pyarrow
  # Compiles extensions where there is no wheel; without it numpy reads the format.
  if ! "$venv/bin/pip" install --quiet gptqmodel optimum --no-build-isolation; then
    echo "gptqmodel could not be installed"
  fi
  touch "$venv/.complete"
fi

python=$(realpath --no-symlinks "$venv/bin/python")
step "Chats through templates"
(cd tests/e2e && "$python" -m unittest test_chat_data)

step "Reading exports"
set_up_mpi
"$python" tools/test_peers.py --program "$aq" "$@"

compressor=${AQ_LLMCOMPRESSOR_VENV:-build/peers-llmcompressor}
if [ -z "${AQ_LLMCOMPRESSOR_VENV:-}" ] && [ ! -f "$compressor/.complete" ]; then
  step "Installing llm-compressor into $compressor"
  python3 -m venv "$compressor"
  "$compressor/bin/pip" install --quiet llmcompressor numpy h5py
  touch "$compressor/.complete"
fi
step "Scoring checkpoints of other programs"
"$compressor/bin/python" tools/peer_checkpoints.py --library llmcompressor --program "$aq" 2>build/peers.log
if "$python" -c "import gptqmodel" 2>/dev/null; then
  "$python" tools/peer_checkpoints.py --library gptqmodel --program "$aq" 2>>build/peers.log
fi
