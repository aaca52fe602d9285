#!/usr/bin/env bash
# Training on the TPU slices of a cluster made by xpk (https://github.com/AI-Hypercomputer/xpk).
#
#   CLUSTER=tpus PROJECT=p ZONE=us-east5-b TPU_TYPE=v5litepod-16 NAME=ade20k IMAGE=us-docker.pkg.dev/p/r/vlseg:1 \
#     STORAGE=data launch/xpk.sh lseg_jax.train --config=configs/lseg_ade20k.py --workdir=/data/runs/ade20k \
#     [--config.x=y ...]
#
# SLICES: how many, by default 1. IMAGE: see Dockerfile. STORAGE: attached with `xpk storage attach`, all hosts see it;
# WORKDIR is below its mount point. xpk makes the pods again after exit codes above 126, so after 143, but not after 2.
# End: xpk workload delete --workload=NAME --cluster=CLUSTER. The same command then goes on.
set -euo pipefail

if [ $# -lt 3 ]; then
  echo "error: say launch/xpk.sh MODULE --config=FILE --workdir=FOLDER [FLAGS]" >&2
  exit 2
fi
for setting in CLUSTER PROJECT ZONE TPU_TYPE NAME IMAGE STORAGE; do
  if [ -z "${!setting-}" ]; then
    echo "error: $setting is not set: see the top of $0" >&2
    exit 2
  fi
done

# With `exec`, the SIGTERM that xpk passes on reaches the script and not a shell around it.
xpk workload create \
  --cluster="$CLUSTER" \
  --project="$PROJECT" \
  --zone="$ZONE" \
  --workload="$NAME" \
  --tpu-type="$TPU_TYPE" \
  --num-slices="${SLICES:-1}" \
  --docker-image="$IMAGE" \
  --storage="$STORAGE" \
  --max-restarts=100 \
  --env="VLSEG_JOB=$NAME" \
  --termination-grace-period-seconds=300 \
  --command="exec launch/run.sh tpu$(printf ' %q' "$@")"
