#!/usr/bin/env bash
# tools/test.sh [--fast]: installs what is missing, then runs all checks and tests: lint, the unit
# tests and the seeds of tests/fuzz under sanitizers, and all tests of the dev build. Ends with
# ctest's summary.
#   --fast  without clang-tidy and the sanitizers
# Everything it writes is under build/.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=tools/common.sh
source tools/common.sh

fast=false
case ${1:-} in
  '') ;;
  --fast) fast=true ;;
  *) sed -n '2,5s/^# //p' tools/test.sh >&2; exit 2 ;;
esac

install_packages "${AQ_PACKAGES[@]}" "${AQ_TEST_PACKAGES[@]}"
set_up_mpi

jobs=$(nproc)
if [ "$jobs" -lt 2 ]; then jobs=2; fi

step "Building build/dev"
build dev all -DAQ_BUILD_TESTS=ON

step "Kernels of GPUs"
tools/check_cuda_kernels.py

step "Lint"
if $fast; then tools/lint.sh --fast; else tools/lint.sh; fi

if ! $fast; then
  step "Building build/asan"
  build asan aq_unit_tests -DAQ_BUILD_TESTS=ON -DAQ_BUILD_RUNTIME=OFF
  step "Unit tests under AddressSanitizer and UndefinedBehaviorSanitizer"
  ctest --preset asan --label-regex '^unit$' --parallel "$jobs"
fi

step "All tests"
ctest --preset dev --parallel "$jobs"
