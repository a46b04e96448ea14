#!/usr/bin/env bash
# tools/quickstart.sh: from a bare Debian 12 to a quantized model. Installs what is missing, builds,
# quantizes the small example model on two MPI ranks, scores it beside the original, and exports it.
# Everything it writes is under build/.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=tools/common.sh
source tools/common.sh

install_packages "${AQ_PACKAGES[@]}"
set_up_mpi

step "Building build/release/bin/aq-dist"
build release all -DAQ_BUILD_TESTS=OFF

aq=build/release/bin/aq-dist
out=build/quickstart
model=examples/olmoe-tiny
rm -rf "$out"
mkdir -p "$out"

show() {
  printf '\n$ %s\n' "$*"
  "$@"
}

step "Quantizing $model on two ranks"
show mpirun -n 2 $aq quantize --model $model --config configs/gptq_example.json \
  --calib examples/calibration.h5 --save $out/run --json $out/quantize.json

step "Scoring the quantized model beside the original"
show mpirun -n 2 $aq eval --model $model --quantized $out/run --tokens examples/evaluation.h5 \
  --json $out/quantized.json

step "Exporting what transformers and vLLM load"
show $aq export $out/run --out $out/served --json $out/export.json

step "Result"
python3 - $out <<'END'
import json, sys
from pathlib import Path

out = Path(sys.argv[1])
quantized, run = (json.loads((out / f"{name}.json").read_text()) for name in ("quantized", "quantize"))
methods = ", ".join(f"{count} by {method}" for method, count in run["by_method"].items())
print(f"matrices     {run['matrices']} ({methods}), {run['mean_bits']:.2f} bits a weight")
print(f"perplexity   {quantized['reference_perplexity']:.4f} original, {quantized['perplexity']:.4f} quantized "
      f"({100 * (quantized['perplexity'] / quantized['reference_perplexity'] - 1):+.2f} %)")
print(f"distance     KL {quantized['kl']:.5f} nats a token, the same token likeliest in "
      f"{100 * quantized['same_top1']:.1f} %")
print(f"model        {out}/run/model.h5, as a checkpoint {out}/served")
END
