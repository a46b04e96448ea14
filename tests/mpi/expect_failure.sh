#!/usr/bin/env bash
# expect_failure.sh SECONDS COMMAND...: succeeds when COMMAND fails within SECONDS.
set -euo pipefail

limit=$1
shift
start=$SECONDS
code=0
timeout --kill-after=5 "$limit" "$@" 2>&1 || code=$?
echo "exit code $code after $((SECONDS - start)) s"
if [ "$code" -eq 0 ]; then
  echo "the command did not fail" >&2
  exit 1
fi
if [ "$code" -eq 124 ] || [ "$code" -eq 137 ] && [ $((SECONDS - start)) -ge "$limit" ]; then
  echo "the command hung" >&2
  exit 1
fi
