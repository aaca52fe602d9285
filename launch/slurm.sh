#!/usr/bin/env bash
# Training on GPU nodes of a Slurm cluster, one process for each GPU.
#
#   sbatch --nodes=2 --gpus-per-node=8 --ntasks-per-node=8 --cpus-per-task=8 --time=24:00:00 launch/slurm.sh \
#     lseg_jax.train --config=configs/lseg_ade20k.py --workdir=runs/ade20k [--config.x=y ...]
#
# Submit it from the top folder, which all nodes must see. --ntasks-per-node must equal --gpus-per-node, and no
# --gpus-per-task: of the GPUs that a task sees JAX takes the one of the task's number on its node. Two minutes before
# the time is over, or when the job is preempted, it saves, is queued again, and goes on. When a process was lost it is
# queued again too, in all at most 100 times.
# CUDA=cuda13 in the environment for those drivers.
#SBATCH --job-name=vlseg
#SBATCH --output=%x-%j.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=TERM@120
set -euo pipefail

if [ $# -lt 3 ]; then
  echo "error: say sbatch launch/slurm.sh MODULE --config=FILE --workdir=FOLDER [FLAGS]" >&2
  exit 2
fi

launch/run.sh "${CUDA:-cuda12}" # once, not in every task at the same time
code=0
# When one task ends others may still be writing their share of the checkpoint.
srun --kill-on-bad-exit=0 ${SLURM_CPUS_PER_TASK:+--cpus-per-task="$SLURM_CPUS_PER_TASK"} \
  launch/run.sh "${CUDA:-cuda12}" "$@" || code=$?
# srun returns the highest code of its tasks: 143, all have saved after SIGTERM; else more than 128, one was lost: killed
# (137), crashed, or ended because another was (134).
if [ "$code" -gt 128 ] && [ "$code" != 130 ]; then
  if [ "${SLURM_RESTART_COUNT:-0}" -lt 100 ]; then
    scontrol requeue "$SLURM_JOB_ID"
  else
    echo "error: queued again 100 times: look into the log above for why it ends" >&2
  fi
fi
exit "$code"
