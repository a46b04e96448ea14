#!/usr/bin/env bash
# tools/lint.sh [--fast|--changed]: format, layers and clang-tidy, without changing any file.
#   --fast     no clang-tidy
#   --changed  clang-tidy only for files that differ from the last commit
# clang-tidy needs a configured build/dev; files that passed and have not changed since are skipped.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

mode=${1:-all}
case $mode in
  all | --fast | --changed) ;;
  *) sed -n '2,5s/^# //p' tools/lint.sh >&2; exit 2 ;;
esac

# Tracked files; all of them where there is no repository (a source archive).
cpp_files() {
  git ls-files -- 'include/*.h' 'src/*.h' 'src/*.cpp' 'src/*.cu' 'tests/*.h' 'tests/*.cpp' 2>/dev/null |
    while read -r file; do if [ -f "$file" ]; then echo "$file"; fi; done | grep . ||
    find include src tests -name '*.h' -o -name '*.cpp' -o -name '*.cu'
}

status=0
if cpp_files | xargs clang-format --dry-run -Werror; then
  echo "clang-format: clean"
else
  echo "clang-format: 'clang-format -i' on the files above mends them" >&2
  status=1
fi

tools/check_layers.py || status=1

if [ "$mode" != --fast ]; then
  files=()
  if [ "$mode" = --changed ]; then
    mapfile -t files < <(git diff --name-only --diff-filter=d HEAD -- '*.cpp'
                         git ls-files --others --exclude-standard -- '*.cpp')
  fi
  if [ "$mode" = all ] || [ ${#files[@]} -gt 0 ]; then
    tools/run_clang_tidy.py --build build/dev "${files[@]}" || status=1
  fi
fi
exit $status
