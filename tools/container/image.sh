#!/usr/bin/env bash
# image.sh build DIR | install DIR | run COMMAND...: what Dockerfile and aq-dist.def do, on any Debian 12.
#   build    makes the Debian packages of this source tree in DIR (as root; installs what building needs)
#   install  installs the package in DIR, with what it depends on and what its tools need
#   run      a command with settings for MPI in a container
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
action=${1:?build, install or run}
shift
# shellcheck source=tools/common.sh
source "$here/../common.sh"

case $action in
  build)
    mkdir -p "$1"
    packages=$(realpath "$1")
    cd "$here/../.."
    install_packages "${AQ_PACKAGES[@]}" "${AQ_DEB_PACKAGES[@]}"
    step "Building build/release"
    build release all -DAQ_BUILD_TESTS=OFF
    cpack --config build/release/CPackConfig.cmake -B "$packages"
    rm -rf "$packages/_CPack_Packages"
    ;;
  install)
    packages=$(realpath "$1")
    apt-get update
    DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$packages"/aq-dist_*.deb \
      python3-h5py python3-numpy python3-venv
    rm -rf /var/lib/apt/lists/*
    ;;
  run)
    container=${container:-image}
    set_up_mpi
    exec "$@"
    ;;
  *)
    sed -n '2,5s/^# //p' "${BASH_SOURCE[0]}" >&2
    exit 2
    ;;
esac
