#!/usr/bin/env bash
# tools/check_gpu.sh [BUILD]: checks of the solver on this machine's GPU. BUILD (build/cuda) is made with
# -DAQ_WITH_CUDA=ON. Unit tests on the card, runs of one rank beside those of the CPU, and memcheck, initcheck and
# racecheck over small shapes.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=tools/common.sh
source tools/common.sh
set_up_mpi

build=${1:-build/cuda}
step "Building $build"
cmake --preset release -B "$build" -DAQ_WITH_CUDA=ON -DAQ_BUILD_TESTS=ON
cmake --build "$build" --target aq-dist quant_test
sanitizer=$(command -v compute-sanitizer || ls "${CUDA_HOME:-/usr/local/cuda}/bin/compute-sanitizer")
gpu=$("$build/bin/aq-dist" doctor | sed -n 's/^ *GPU *//p')
case $gpu in
  [1-9]*) echo "GPUs: $gpu" ;;
  *) echo "There is no GPU: $gpu" >&2; exit 2 ;;
esac

export AQ_TEST_DEVICE=cuda
step "Unit tests on the GPU"
"$build/tests/quant_test" --gtest_filter='Device.*:OutputFactor.*'

step "Runs of one rank"
(cd tests/e2e && AQ_DIST=$(realpath "../../$build/bin/aq-dist") /usr/bin/python3 -m unittest -v test_device)

for tool in memcheck initcheck racecheck; do
  step "compute-sanitizer, $tool"
  "$sanitizer" --tool "$tool" --error-exitcode 1 "$build/tests/quant_test" \
    --gtest_filter='Device.SlicesThreadsAndBatchesDoNotChangeBits:Device.FactorsTravel:Device.TheLadderIsThatOfTheCpu:OutputFactor.SlicesAndThreadsDoNotChangeBits'
done
