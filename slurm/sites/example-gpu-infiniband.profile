# shellcheck shell=bash disable=SC2034  # read by slurm/aq-dist.sbatch
# Example: nodes with four GPUs and InfiniBand, Slurm with PMIx. Nothing in it fits your site unseen.
#
#   AQ_SITE=example-gpu-infiniband sbatch --partition=gpu --nodes=8 --ntasks-per-node=4 \
#     --gpus-per-node=4 --cpus-per-task=16 slurm/aq-dist.sbatch --model DIR --config RECIPE ...

# Modules that the program was built with. The MPI library must know the network (UCX here).
# module load gcc/13 openmpi/4.1-ucx hdf5 openblas

AQ_DIST=${AQ_DIST:-$home/build/release/bin/aq-dist}
AQ_LAUNCHER=${AQ_LAUNCHER:-srun}
AQ_SRUN_MPI=${AQ_SRUN_MPI:-pmix}
# One rank a GPU and its share of the cores. A step does not inherit --cpus-per-task of the job.
AQ_SRUN_OPTIONS=(--cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" --cpu-bind=cores)
# Used when AQ_LAUNCHER=mpirun is set.
AQ_MPIRUN_OPTIONS=(--map-by "ppr:4:node:PE=${SLURM_CPUS_PER_TASK:-1}" --bind-to core)
AQ_MAX_RESTARTS=${AQ_MAX_RESTARTS:-20}
AQ_STOP_SECONDS=${AQ_STOP_SECONDS:-5}
AQ_GUARD_SECONDS=${AQ_GUARD_SECONDS:-30}

# Messages over InfiniBand: UCX alone. Without the exclusion of the old transport Open MPI warns.
export OMPI_MCA_pml=ucx OMPI_MCA_btl=^openib
# Which device and port carries the messages (`ibv_devinfo`); leave out to let UCX choose.
# export UCX_NET_DEVICES=mlx5_0:1
# mpirun's own connections run over TCP; name the network that connects the nodes.
# export OMPI_MCA_oob_tcp_if_include=ib0

export OMP_WAIT_POLICY=passive
# Ranks of a node share its memory: the program divides what is free by the ranks it finds there.
# A limit that Slurm sets by control groups (--mem) is seen too; give --memory where it is set otherwise.
