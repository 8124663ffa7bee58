#!/usr/bin/env bash
# Trains on GPUs of a Slurm cluster; a preempted or timed-out run goes back into the queue.
#
#   launch/slurm.sh train --nodes=N --gpus=N [flags] -- --config=FILE --workdir=DIR [--config.KEY=VALUE ...]
#   launch/slurm.sh status | logs | stop | delete  --job=ID [--logs=DIR]
#
# train submits launch/slurm_job.sh, which runs python -m owl_jax.train --multihost with the arguments
# after --, one process for each GPU, from this repository, which all nodes must see. On status 75
# (preempted, or near its time limit, and saved) the job is requeued; any other status is final.
#
#   status                the job in the queue
#   logs                  print the output of all processes
#   stop                  SIGTERM: the run saves and ends, and is not requeued
#   delete                remove the job from the queue, or kill it
#
#   --nodes=N             nodes
#   --gpus=N              GPUs of each node
#   --time=TIME           the limit of each run, such as 1-00:00:00 (default: the partition's)
#   --name=NAME           the job's name (default: owl_jax)
#   --sbatch=FLAG         goes to sbatch, as --sbatch=--partition=h100; repeatable
#   --logs=DIR            for NAME-ID.log (default: logs)
#   --python=FILE         the Python that owl_jax is installed in (default: .venv/bin/python)
#   --job=ID              the number that train printed
#   --quick-seconds=N     an end within N seconds of the start is a quick one (default 300)
#   --max-quick-ends=N    give up after N preemptions in a row with quick ends (default 5)
#   --dry-run             print the commands, and run none
#   --help                this text

# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

action=${1-} nodes='' gpus='' time='' name=owl_jax logs=logs python=.venv/bin/python job='' sbatch=()
case $action in
    --help) help_text && exit ;;
    train | status | logs | stop | delete) shift ;;
    *) wrong "train, status, logs, stop or delete has to come first; --help explains them" ;;
esac
while (($#)); do
    case $1 in
        --nodes=?*) nodes=${1#*=} ;;
        --gpus=?*) gpus=${1#*=} ;;
        --time=?*) time=${1#*=} ;;
        --name=?*) name=${1#*=} ;;
        --sbatch=?*) sbatch+=("${1#*=}") ;;
        --logs=?*) logs=${1#*=} ;;
        --python=?*) python=${1#*=} ;;
        --job=?*) job=${1#*=} ;;
        --quick-seconds=?*) quick_seconds=${1#*=} ;;
        --max-quick-ends=?*) max_quick_ends=${1#*=} ;;
        --dry-run) dry_run=yes ;;
        --help) help_text && exit ;;
        --) shift && training=("$@") && break ;;
        *) refuse "$1" ;;
    esac
    shift
done

train() {
    needs --nodes --gpus
    numbers 1 --nodes --gpus
    numbers 0 --quick-seconds --max-quick-ends
    needs_training
    config_is_here
    needs_python "$python"
    run cd "$REPOSITORY"
    run mkdir -p "$logs"
    # Processes see all GPUs of their node; JAX assigns each its own.
    run sbatch --job-name="$name" --nodes="$nodes" --ntasks-per-node="$gpus" \
        --gpus-per-node="$gpus" --gpu-bind=none --output="$logs/$name-%j.log" \
        ${time:+--time="$time"} "${sbatch[@]}" \
        launch/slurm_job.sh "$python" "$logs/$name" "$quick_seconds" "$max_quick_ends" "${training[@]}"
}

if [[ $action != train ]]; then
    needs --job
    numbers 1 --job
    run cd "$REPOSITORY"
fi
case $action in
    train) train ;;
    status) run squeue --jobs="$job" ;;
    logs) run tail --lines=+1 --follow=name --retry "$logs/$name-$job.log" ;;
    stop)
        run touch "$logs/$name-$job.stopped"
        run scancel --signal=TERM "$job"
        ;;
    delete) run scancel "$job" ;;
esac
