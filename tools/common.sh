# shellcheck shell=bash
# What tools/quickstart.sh, tools/test.sh and tools/container/image.sh share. Sourced, from the repository's root.

# Debian packages to build and run, and those that only the tests need.
# shellcheck disable=SC2034  # used by the scripts that source this
AQ_PACKAGES=(
  g++ cmake ninja-build ccache pkg-config
  libopenmpi-dev openmpi-bin libhdf5-dev libopenblas-dev libopenblas-pthread-dev libtorch-dev
  libxxhash-dev nlohmann-json3-dev libcli11-dev libgtest-dev libgmock-dev
  python3 python3-numpy python3-h5py
)
# What cpack needs to make a Debian package.
AQ_DEB_PACKAGES=(dpkg-dev file)
# shellcheck disable=SC2034
AQ_TEST_PACKAGES=(clang-format clang-tidy procps iproute2 python3-jinja2 "${AQ_DEB_PACKAGES[@]}")

# Objects of one clone serve another one.
export CCACHE_BASEDIR=$PWD CCACHE_NOHASHDIR=1

# step TEXT: a heading with the time since the start of the script.
step() {
  printf '\n== %s  [%d:%02d]\n' "$*" $((SECONDS / 60)) $((SECONDS % 60))
}

# missing_packages NAME...: those that are not installed, one a line.
missing_packages() {
  local name
  for name in "$@"; do
    if [ "$(dpkg-query -W -f='${db:Status-Status}' "$name" 2>/dev/null)" != installed ]; then
      echo "$name"
    fi
  done
}

# as_root COMMAND...: runs it as root; fails when there is no way to.
as_root() {
  if [ "$(id -u)" -eq 0 ]; then
    "$@"
  elif command -v sudo >/dev/null && { sudo -n true 2>/dev/null || [ -t 0 ]; }; then
    sudo "$@"
  else
    return 1
  fi
}

# install_packages NAME...: installs what is missing, and nothing when all is there.
install_packages() {
  if ! command -v dpkg-query >/dev/null; then
    echo "This is no Debian; needed are the equivalents of: $*" >&2
    return
  fi
  local missing log
  mapfile -t missing < <(missing_packages "$@")
  if [ ${#missing[@]} -eq 0 ]; then return; fi
  step "Installing ${#missing[@]} Debian packages: ${missing[*]}"
  local install=(apt-get install -y --no-install-recommends "${missing[@]}")
  if ! as_root true; then
    printf 'These packages are missing and need root to install. Run this, then start again:\n\n  %s\n\n' \
      "sudo apt-get update && sudo ${install[*]}" >&2
    exit 2
  fi
  # The package lists are fetched only when installing from those at hand does not work.
  log=$(mktemp)
  if ! as_root env DEBIAN_FRONTEND=noninteractive "${install[@]}" >"$log" 2>&1; then
    as_root apt-get update >>"$log" 2>&1 || true
    if ! as_root env DEBIAN_FRONTEND=noninteractive "${install[@]}" >>"$log" 2>&1; then
      tail -n 30 "$log" >&2
      printf 'Installing failed (%s). The command was:\n\n  %s\n\n' "$log" "${install[*]}" >&2
      exit 2
    fi
  fi
  rm -f "$log"
}

# build PRESET TARGET [CMAKE OPTION...]: configures when the options are new, and builds.
build() {
  local preset=$1 target=$2 directory=build/$1
  shift 2
  local stamp=$directory/.configured-with
  if [ ! -f "$directory/build.ninja" ] || [ "$(cat "$stamp" 2>/dev/null)" != "$preset $*" ]; then
    rm -f "$stamp"
    cmake --preset "$preset" "$@"
    echo "$preset $*" >"$stamp"
  fi
  cmake --build --preset "$preset" --target "$target"
}

in_container() {
  [ -e /.dockerenv ] || [ -e /run/.containerenv ] || [ -n "${container:-}" ]
}

# Settings for ranks on this one machine. What the caller has set stays.
set_up_mpi() {
  if [ "$(id -u)" -eq 0 ]; then
    export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
  fi
  # Without the right to read another process's memory Open MPI warns at every message.
  if in_container; then
    export OMPI_MCA_btl_vader_single_copy_mechanism=${OMPI_MCA_btl_vader_single_copy_mechanism:-none}
  fi
  # More ranks than cores are allowed, a rank's threads may use every core, and waiting ranks and
  # threads give way.
  export OMPI_MCA_rmaps_base_oversubscribe=${OMPI_MCA_rmaps_base_oversubscribe:-1}
  export OMPI_MCA_hwloc_base_binding_policy=${OMPI_MCA_hwloc_base_binding_policy:-none}
  export OMPI_MCA_mpi_yield_when_idle=${OMPI_MCA_mpi_yield_when_idle:-1}
  export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}
}
