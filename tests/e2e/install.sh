#!/usr/bin/env bash
# install.sh CMAKE GENERATOR BUILD_DIRECTORY CONSUMER_SOURCE CXX: installs, moves the tree, uses it from there.
# The consumer is built with the generator of the build: no other one need be installed.
set -euo pipefail
cmake=$1 generator=$2 build=$3 consumer=$4 cxx=$5
work=$(mktemp -d "${TMPDIR:-/tmp}/aq-dist-install-XXXXXX")
trap 'rm -rf "$work"' EXIT
"$cmake" --install "$build" --prefix "$work/first" >/dev/null
mv "$work/first" "$work/moved"
"$work/moved/bin/aq-dist" --version
"$work/moved/bin/aq-dist" doctor >/dev/null
examples=$(dirname "$0")/../../examples
"$work/moved/bin/aq-dist" eval --model "$examples/olmoe-tiny" --tokens "$examples/evaluation.h5" --max-windows 2
"$cmake" -G "$generator" -S "$consumer" -B "$work/consumer" -DCMAKE_PREFIX_PATH="$work/moved" -DCMAKE_CXX_COMPILER="$cxx" \
  -DCMAKE_BUILD_TYPE=Release >/dev/null
"$cmake" --build "$work/consumer" >/dev/null
"$work/consumer/consumer"
