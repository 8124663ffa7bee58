#!/usr/bin/env bash
# Trains on this machine's GPUs, and restarts after a preemption.
#
#   launch/gpus.sh [flags] -- --config=FILE --workdir=DIR [--config.KEY=VALUE ...]
#
# Arguments after -- go to python -m owl_jax.train unchanged. The exit status is the run's, but
# after 75 (preempted, and saved) the run is restarted. SIGTERM and Ctrl-C are forwarded: the
# run saves, and this script ends with 75.
#
#   --processes=N         1 (default): one process for all GPUs. N: the GPUs divided among N
#                         processes. gpus: one process for each
#   --gpus=N              with --processes: use the first N GPUs (default: all that nvidia-smi
#                         lists)
#   --port=PORT           where process 0 waits for the others, if there are any (default 8476)
#   --logs=DIR            for the output of processes 1, 2, ... (default: logs); 0 prints here
#   --python=FILE         the Python that owl_jax is installed in (default: .venv/bin/python)
#   --quick-seconds=N     an end within N seconds of the start is a quick one (default 300)
#   --max-quick-ends=N    give up after N preemptions in a row with quick ends (default 5)
#   --dry-run             print the commands, and run none
#   --help                this text

# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

processes=1 gpus='' port=8476 logs=logs python=.venv/bin/python
while (($#)); do
    case $1 in
        --processes=?*) processes=${1#*=} ;;
        --gpus=?*) gpus=${1#*=} ;;
        --port=?*) port=${1#*=} ;;
        --logs=?*) logs=${1#*=} ;;
        --python=?*) python=${1#*=} ;;
        --quick-seconds=?*) quick_seconds=${1#*=} ;;
        --max-quick-ends=?*) max_quick_ends=${1#*=} ;;
        --dry-run) dry_run=yes ;;
        --help) help_text && exit ;;
        --) shift && training=("$@") && break ;;
        *) refuse "$1" ;;
    esac
    shift
done
needs_training
config_is_here
needs_python "$python"
numbers 0 --quick-seconds --max-quick-ends
numbers 1 --port
((port < 65536)) || wrong "--port=$port: 65535 is the highest port"
[[ $gpus ]] && numbers 1 --gpus
[[ $processes == gpus && $gpus ]] && processes=$gpus
[[ $processes == gpus ]] || numbers 1 --processes

if [[ $processes == 1 ]]; then
    [[ ! $gpus ]] ||
        wrong "--gpus=$gpus is for several --processes; one takes all, or those of CUDA_VISIBLE_DEVICES=0,1"
else
    if [[ ! $gpus ]]; then
        gpus=$(run nvidia-smi --list-gpus | wc -l) || fail "nvidia-smi finds no GPUs; give --gpus=N"
        [[ $dry_run ]] && gpus=8 && echo "# assuming that it lists 8"
    fi
    ((gpus > 0)) || fail "nvidia-smi lists no GPUs; give --gpus=N"
    [[ $processes == gpus ]] && processes=$gpus
    ((gpus % processes == 0)) ||
        wrong "--processes=$processes does not divide $gpus GPUs evenly; choose a divisor"
fi

# command_of PROCESS: sets `command`.
command_of() {
    command=("$python" -m owl_jax.train)
    if ((processes > 1)); then
        local own=$((gpus / processes))
        local first=$(($1 * own))
        # JAX uses only these devices. Hiding the others instead would keep NCCL from using NVLink.
        command=(env "JAX_LOCAL_DEVICE_IDS=$(seq -s , "$first" $((first + own - 1)))" "${command[@]}"
            --multihost "--coordinator_address=localhost:$port" "--num_processes=$processes"
            "--process_id=$1")
    fi
    command+=("${training[@]}")
}

cd "$REPOSITORY" || exit
if [[ $dry_run ]]; then
    quoted cd "$REPOSITORY"
    flags_line XLA_FLAGS "$python" gpu
    for ((i = 0; i < processes; ++i)); do
        command_of "$i"
        if ((i + 1 < processes)); then echo "$(quoted "${command[@]}") &"; else run "${command[@]}"; fi
    done
    exit
fi

signals=0 children=()
# shellcheck disable=SC2329  # the trap calls it
pass_on() {
    signals=$((signals + 1))
    kill -TERM "${children[@]}" 2>/dev/null || true
}
trap pass_on TERM INT

eval "$(flags_line XLA_FLAGS "$python" gpu)"
if ((processes > 1)); then mkdir -p "$logs"; fi
status=$AGAIN
while ((signals == 0)); do
    started=$SECONDS children=() statuses=()
    for ((i = 0; i < processes; ++i)); do
        command_of "$i"
        say "+ $(quoted "${command[@]}")"
        if ((i == 0)); then
            "${command[@]}" &
        else
            "${command[@]}" >>"$logs/process-$i.log" 2>&1 &
        fi
        children+=($!)
    done
    for child in "${children[@]}"; do
        # A signal to this shell ends `wait` early; the next `wait` has the child's status.
        before=-1 status=0
        while ((before != signals)); do
            before=$signals status=0
            wait "$child" || status=$?
        done
        statuses+=("$status")
    done
    status=$(verdict "${statuses[@]}")
    ((signals == 0)) || break
    start_again "$status" $((SECONDS - started)) || break
done
exit "$status"
