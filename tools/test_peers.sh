#!/usr/bin/env bash
# tools/test_peers.sh [OPTIONS OF test_peers.py]: exports read by compressed-tensors, transformers and GPTQModel,
# and chat templates beside those of transformers.
# tools/peer_environments.py installs them from PyPI, or takes AQ_PEERS_VENV and AQ_LLMCOMPRESSOR_VENV as they are.
#   AQ_DIST   the program (build/release/bin/aq-dist, else build/dev/bin/aq-dist)
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

step "Peers"
python=$(tools/peer_environments.py gptqmodel)
step "Chats through templates"
(cd tests/e2e && "$python" -m unittest test_chat_data)

step "Reading exports"
set_up_mpi
"$python" tools/test_peers.py --program "$aq" "$@"

compressor=$(tools/peer_environments.py llmcompressor)
step "Scoring checkpoints of other programs"
"$compressor" tools/peer_checkpoints.py --library llmcompressor --program "$aq" 2>build/peers.log
if "$python" -c "import gptqmodel" 2>/dev/null; then
  "$python" tools/peer_checkpoints.py --library gptqmodel --program "$aq" 2>>build/peers.log
fi
