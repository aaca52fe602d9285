#!/usr/bin/env bash
# Training on TPUs that are waited for: makes a queued resource, trains when it is there, makes it again when it was
# taken away, and deletes it when the training has ended.
#
#   NAME=ade20k ZONE=us-central2-b ACCELERATOR_TYPE=v4-32 RUNTIME=tpu-ubuntu2204-base SPOT=1 \
#     SETUP="mountpoint -q /data || sudo mount -t nfs SERVER:/data /data" \
#     launch/queued_resources.sh lseg_jax.train --config=configs/lseg_ade20k.py --workdir=/data/runs/ade20k \
#     [--config.x=y ...]
#
# Stays in the foreground, so start it in tmux. SPOT, SETUP (see tpu_vm.sh) and INTERVAL (seconds between looks, 60) may
# be left out. RUNTIME: v2-alpha-tpuv5-lite for v5e, v2-alpha-tpuv5 for v5p, v2-alpha-tpuv6e for v6e. Exits as the
# training did; NAME.log is what its first host has printed.
# End: Ctrl-C here, then gcloud compute tpus queued-resources delete NAME --zone=ZONE --force. The same command goes on.
set -euo pipefail

if [ $# -lt 3 ]; then
  echo "error: say launch/queued_resources.sh MODULE --config=FILE --workdir=FOLDER [FLAGS]" >&2
  exit 2
fi
for setting in NAME ZONE ACCELERATOR_TYPE RUNTIME; do
  if [ -z "${!setting-}" ]; then
    echo "error: $setting is not set: see the top of $0" >&2
    exit 2
  fi
done

queue() {
  gcloud compute tpus queued-resources "$1" "$NAME" --zone="$ZONE" "${@:2}"
}

first_host() {
  gcloud compute tpus tpu-vm ssh "$NAME" --zone="$ZONE" --worker=0 --command="$1"
}

pause() {
  sleep "${INTERVAL:-60}"
}

# Prints "ended CODE", "running", or nothing where a reboot has left no run.
progress() {
  first_host "cd vlseg; if [ -f exit_code ]; then echo ended \$(cat exit_code);
    elif kill -0 \$(cat pid); then echo running; fi" 2>/dev/null
}

# Fails, and says why, if it may still be there: an earlier call whose answer was lost may have deleted it.
remove() {
  queue delete --force --quiet 2>"$errors" || {
    cat "$errors" >&2
    grep -q NOT_FOUND "$errors"
  }
}

errors=$(mktemp)
trap 'rm -f "$errors"' EXIT
started=
restarts=0
while :; do
  # Standard error counts only where it fails: there may be warnings too.
  state=$(queue describe --format="value(state.state)" 2>"$errors") || state="no answer: $(<"$errors")"
  case $state in
  "no answer: "*NOT_FOUND*)
    # What fails here or below is tried again at the next look, unless it would fail for ever.
    if ! queue create --node-id="$NAME" --accelerator-type="$ACCELERATOR_TYPE" --runtime-version="$RUNTIME" \
      ${SPOT:+--spot} 2>"$errors"; then
      cat "$errors" >&2
      if grep -qE 'INVALID_ARGUMENT|PERMISSION_DENIED|UNAUTHENTICATED|NOT_FOUND' "$errors"; then
        echo "error: no queued resource $NAME was made: see what gcloud says above" >&2
        exit 1
      fi
    fi
    ;;
  SUSPENDED)
    remove || true
    started=
    ;;
  FAILED)
    echo "error: the queued resource $NAME failed: delete it, and ask for another zone or size" >&2
    exit 1
    ;;
  ACTIVE)
    if [ -z "$started" ]; then
      # May fail while hosts are still starting, or are already being taken away.
      TPU=$NAME "$(dirname "$0")/tpu_vm.sh" "$@" && started=1
    else
      now=$(progress) || now=unreachable
      case $now in
      "ended 143" | "ended 134" | "ended 137" | "") # this host or another is being taken away, or was started anew
        started=
        restarts=$((restarts + 1))
        if [ "$restarts" -gt 100 ]; then
          echo "error: ended 100 times: look into the log of every host; the resource $NAME is still there" >&2
          exit 1
        fi
        ;;
      "ended "[0-9]*)
        first_host "cat vlseg/run.log" >"$NAME.log" || true
        for _ in 1 2 3 4 5; do
          remove && exit "${now#ended }"
          pause
        done
        echo "error: the queued resource $NAME is still there and paid for: delete it as the top of $0 says" >&2
        exit "${now#ended }"
        ;;
      esac
    fi
    ;;
  *) echo "$NAME: $state" >&2 ;;
  esac
  pause
done
