#!/usr/bin/env bash
# Training on all hosts of a TPU VM that exists: copies the committed files there, installs, and starts.
#
#   TPU=my-tpu ZONE=us-central2-b launch/tpu_vm.sh lseg_jax.train --config=configs/lseg_ade20k.py \
#     --workdir=/data/runs/ade20k [--config.x=y ...]
#
# Returns when it is started; a run that is there is told to save and end first. SETUP: a command for each host before
# that, such as SETUP="mountpoint -q /data || sudo mount -t nfs SERVER:/data /data".
# Follow: gcloud compute tpus tpu-vm ssh TPU --zone=ZONE --worker=0 --command="tail -F vlseg/run.log"
# End: gcloud compute tpus tpu-vm ssh TPU --zone=ZONE --worker=all --command="kill \$(cat vlseg/pid)". It saves, and the
# same command then goes on, as it does after a host was lost.
set -euo pipefail

if [ $# -lt 3 ]; then
  echo "error: say launch/tpu_vm.sh MODULE --config=FILE --workdir=FOLDER [FLAGS]" >&2
  exit 2
fi
for setting in TPU ZONE; do
  if [ -z "${!setting-}" ]; then
    echo "error: $setting is not set: see the top of $0" >&2
    exit 2
  fi
done

cd "$(dirname "$0")/.."
archive=$(mktemp)
trap 'rm -f "$archive"' EXIT
git archive --format=tar.gz --output="$archive" HEAD

gcloud compute tpus tpu-vm scp "$archive" "$TPU:vlseg.tar.gz" --zone="$ZONE" --worker=all
gcloud compute tpus tpu-vm ssh "$TPU" --zone="$ZONE" --worker=all --command="set -e
${SETUP-}
mkdir -p vlseg
cd vlseg
if [ -f pid ] && kill \$(cat pid) 2>/dev/null; then
  while kill -0 \$(cat pid) 2>/dev/null; do sleep 1; done
fi
tar -xzf ../vlseg.tar.gz
rm -f exit_code pid
# By which a host that was replaced has its run's working directory at once.
export VLSEG_JOB=$(printf '%q' "$TPU")
nohup bash -c 'launch/run.sh \"\$@\" & echo \$! >pid; wait \$!; echo \$? >exit_code; rm pid' \
  run tpu$(printf ' %q' "$@") >>run.log 2>&1 </dev/null &
until [ -s pid ] || [ -s exit_code ]; do sleep 0.1; done"
