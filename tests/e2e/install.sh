#!/usr/bin/env bash
# install.sh CMAKE BUILD_DIRECTORY CONSUMER_SOURCE CXX: installs, moves the tree, uses it from there.
set -euo pipefail
cmake=$1 build=$2 consumer=$3 cxx=$4
work=$(mktemp -d "${TMPDIR:-/tmp}/aq-dist-install-XXXXXX")
trap 'rm -rf "$work"' EXIT
"$cmake" --install "$build" --prefix "$work/first" >/dev/null
mv "$work/first" "$work/moved"
"$work/moved/bin/aq-dist" --version
"$work/moved/bin/aq-dist" doctor >/dev/null
examples=$(dirname "$0")/../../examples
"$work/moved/bin/aq-dist" eval --model "$examples/olmoe-tiny" --tokens "$examples/evaluation.h5" --max-windows 2
"$cmake" -S "$consumer" -B "$work/consumer" -DCMAKE_PREFIX_PATH="$work/moved" -DCMAKE_CXX_COMPILER="$cxx" \
  -DCMAKE_BUILD_TYPE=Release >/dev/null
"$cmake" --build "$work/consumer" >/dev/null
"$work/consumer/consumer"
