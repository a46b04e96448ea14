# shellcheck shell=bash disable=SC2034  # read by slurm/aq-dist.sbatch
# What depends on the site and on nothing else. Copy to <name>.profile and submit with AQ_SITE=<name>.
# Read by bash on the first node of a job; `$home` is the source tree. What the caller has set stays.

# Modules that the program was built with.
# module load openmpi hdf5 openblas

# The program, at a path that every node sees; the installed one where the source tree has none.
if [[ -x $home/build/release/bin/aq-dist ]]; then AQ_DIST=${AQ_DIST:-$home/build/release/bin/aq-dist}; fi
AQ_DIST=${AQ_DIST:-aq-dist}

# mpirun works wherever Open MPI does. srun needs a PMI that the MPI library speaks, and starts faster
# on hundreds of nodes.
AQ_LAUNCHER=${AQ_LAUNCHER:-mpirun}
# For srun; `srun --mpi=list` shows what there is. A wrong one is refused by the program.
AQ_SRUN_MPI=${AQ_SRUN_MPI:-pmix}
AQ_SRUN_OPTIONS=()
# For mpirun. Every rank has threads of its own, so it must not be bound to one core.
AQ_MPIRUN_OPTIONS=(--bind-to none)

# How often one job may be started again after a stop or a crash. Slurm's own restarts count too.
AQ_MAX_RESTARTS=${AQ_MAX_RESTARTS:-20}
# Seconds that ranks under mpirun get after SIGTERM to stop in order. mpirun also waits for so long, up
# to four times over, at each end that is not 0, so at every stop. Complete layers are safe without it.
AQ_STOP_SECONDS=${AQ_STOP_SECONDS:-5}
# The script looks this often whether the ranks have ended while the launcher has not; after three
# such looks it kills the launcher.
AQ_GUARD_SECONDS=${AQ_GUARD_SECONDS:-30}

# Threads of a waiting OpenMP team sleep instead of spinning.
export OMP_WAIT_POLICY=passive
# `aq-dist doctor` on a compute node says whether OpenBLAS chose a kernel that fits the CPU.
# export OPENBLAS_CORETYPE=Zen
