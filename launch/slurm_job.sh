#!/usr/bin/env bash
# The batch script that launch/slurm.sh submits. Slurm runs it on a job's first node, in the
# repository, at each start. Five minutes before the time limit the run gets SIGTERM, saves and
# ends with 75.
#
#   sbatch [flags] launch/slurm_job.sh PYTHON FILES QUICK_SECONDS MAX_QUICK_ENDS ARG...
#
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=TERM@300

# Not relative to this script: Slurm runs a copy of it.
# shellcheck source=launch/common.sh
source launch/common.sh

python=$1 files=$2-$SLURM_JOB_ID quick_seconds=$3 max_quick_ends=$4 training=("${@:5}")
# Slurm also signals this shell when it preempts. An empty trap, since srun would inherit an ignored
# signal.
trap : TERM

eval "$(flags_line XLA_FLAGS "$python" gpu)"
# After a preemption the first process to end must not kill others that still save, but one that
# hangs after the others have ended must not hold the nodes for ever.
status=0
run srun --kill-on-bad-exit=0 --wait=600 "$python" -m owl_jax.train --multihost "${training[@]}" ||
    status=$?

if [[ -e $files.stopped ]]; then
    rm "$files.stopped"
    say "stopped after saving; the same command resumes from there"
    exit "$status"
fi
# Quick ends count over all starts of the job.
[[ -e $files.quick_ends ]] && quick_ends=$(<"$files.quick_ends")
if start_again "$status" "$SECONDS"; then
    echo "$quick_ends" >"$files.quick_ends"
    # Fails if Slurm preempted the job and has requeued it.
    run scontrol requeue "$SLURM_JOB_ID" || true
fi
exit "$status"
