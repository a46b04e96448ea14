# What depends on the site and on nothing else. Copy to <name>.profile and submit with AQ_SITE=<name>.

# module load openmpi hdf5 openblas

AQ_DIST=${AQ_DIST:-$home/build/release/bin/aq-dist}
AQ_LAUNCHER=${AQ_LAUNCHER:-mpirun}     # or srun, where Slurm has a PMI that Open MPI speaks
AQ_SRUN_MPI=${AQ_SRUN_MPI:-pmix}       # `srun --mpi=list` shows what there is
AQ_MPIRUN_OPTIONS=(--bind-to none)     # every rank has threads of its own
AQ_MAX_RESTARTS=${AQ_MAX_RESTARTS:-20}

# Threads of a waiting OpenMP team sleep instead of spinning.
export OMP_WAIT_POLICY=passive
# `aq-dist doctor` on a compute node says whether OpenBLAS chose a kernel that fits the CPU.
# export OPENBLAS_CORETYPE=Zen
