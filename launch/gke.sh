#!/usr/bin/env bash
# Trains on TPU slices (v4, v5e, v5p, v6e) of a GKE cluster, with XPK (pip install xpk).
#
#   launch/gke.sh create-cluster --cluster=CLUSTER --zone=ZONE --project=PROJECT --type=TYPE [flags]
#   launch/gke.sh train          --cluster=CLUSTER --zone=ZONE --project=PROJECT --type=TYPE --name=NAME
#                                [flags] -- --config=FILE --workdir=DIR [--config.KEY=VALUE ...]
#   launch/gke.sh status | logs | wait | delete  --cluster=CLUSTER --zone=ZONE --project=PROJECT --name=NAME
#   launch/gke.sh delete-cluster --cluster=CLUSTER --zone=ZONE --project=PROJECT
#
# train submits python -m owl_jax.train --multihost with the arguments after --, for every host of
# every slice, and returns. The cluster restarts the run after a preemption (status 75) and after
# the loss of a node. XPK also restarts it after status 42 and after any status of 127 or above. Any
# other status is final.
#
#   create-cluster        create a cluster with slices, and mount a bucket in it
#   status                show the workload in the queue
#   logs                  print the output of host 0 of slice 0 since its latest start
#   wait                  wait for the run to end; exit with 0 if it succeeded, else with 1
#   delete                stop the run; the slices stay, and still cost money
#   delete-cluster        delete the cluster with its slices; the bucket stays
#
#   --cluster=CLUSTER     the cluster's name
#   --zone=ZONE           such as us-west4-a
#   --project=PROJECT     the project's name
#   --name=NAME           a name for the run
#   --type=TYPE           v4-N or v5p-N (N: twice the number of chips), v5litepod-N or v6e-N (N: chips)
#   --slices=N            number of slices in the cluster, or for the run (default 1)
#   --bucket=BUCKET       with create-cluster: a bucket for workdirs, data and weights; every
#                         training run sees it mounted at /bucket
#   --spot                with create-cluster: preemptible slices, at a lower price
#   --reservation=NAME    with create-cluster: slices of your reservation
#   --image=IMAGE         an image with owl_jax[tpu] (default: a plain Python image with a copy of
#                         this code, which is installed at each start)
#   --prepare=COMMAND     run in each container before each start
#   --max-restarts=N      how many times the cluster may restart the run (default 50)
#   --dry-run             print the commands, and run none
#   --help                this text

# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

action=${1-} cluster='' zone='' project='' name='' type='' bucket='' image='' prepare=''
slices=1 capacity=() max_restarts=50
case $action in
    --help) help_text && exit ;;
    create-cluster | train | status | logs | wait | delete | delete-cluster) shift ;;
    *) wrong "create-cluster, train, status, logs, wait, delete or delete-cluster has to come first" ;;
esac
while (($#)); do
    case $1 in
        --cluster=?*) cluster=${1#*=} ;;
        --zone=?*) zone=${1#*=} ;;
        --project=?*) project=${1#*=} ;;
        --name=?*) name=${1#*=} ;;
        --type=?*) type=${1#*=} ;;
        --slices=?*) slices=${1#*=} ;;
        --bucket=*/*) wrong "$1: expected only the bucket's name" ;;
        --bucket=?*) bucket=${1#*=} ;;
        --spot) capacity+=("$1") ;;
        --reservation=?*) capacity+=("$1") ;;
        --image=?*) image=${1#*=} ;;
        --prepare=?*) prepare=${1#*=} ;;
        --max-restarts=?*) max_restarts=${1#*=} ;;
        --dry-run) dry_run=yes ;;
        --help) help_text && exit ;;
        --) shift && training=("$@") && break ;;
        *) refuse "$1" ;;
    esac
    shift
done
needs --cluster --zone --project
numbers 1 --slices
numbers 0 --max-restarts
((${#capacity[@]} < 2)) || wrong "${capacity[*]}: give one of them, once"
cluster_flags=("${capacity[@]}" ${bucket:+--bucket="$bucket"})
[[ $action == create-cluster || ! ${cluster_flags[*]} ]] ||
    wrong "${cluster_flags[*]} is for create-cluster only; $action uses the cluster as it is"
[[ $action == train || ! $image$prepare && ! ${training[*]} ]] ||
    wrong "--image, --prepare and arguments after -- are for train only"
case $action in
    train | status | logs | wait | delete)
        needs --name
        [[ $name =~ ^[a-z][a-z0-9-]*$ ]] || wrong "--name=$name: lowercase letters, digits and hyphens only"
        ;;
esac
if [[ $action == create-cluster || $action == train ]]; then
    needs --type
    chip=$(chip_of "$type")
fi
where=(--cluster="$cluster" --project="$project" --zone="$zone")

create_cluster() {
    run xpk cluster create "${where[@]}" --tpu-type="$type" --num-slices="$slices" \
        "${capacity[@]:---on-demand}" ${bucket:+--enable-gcsfuse-csi-driver}
    if [[ $bucket ]]; then
        # Kubernetes requires a size, though a bucket has none.
        run xpk storage attach "$bucket" "${where[@]}" --type=gcsfuse --bucket="$bucket" \
            --mount-point=/bucket --auto-mount=true --readonly=false --size=1000
    fi
}

train() {
    needs_training
    [[ $image || $prepare ]] || config_is_copied
    local command source
    command="${prepare:+$prepare && }$(flags_line LIBTPU_INIT_ARGS python "$chip")"
    # exec, so that the SIGTERM of a preemption goes to the run instead of a shell.
    command+=" && exec $(quoted python -m owl_jax.train --multihost "${training[@]}")"
    if [[ $image ]]; then
        source=(--docker-image="$image")
    else
        # XPK adds a whole folder to the image, so use a copy without .venv, runs and weights.
        local copy=${TMPDIR:-/tmp}/owl_jax-$name
        run rm -rf "$copy"
        run mkdir -p "$copy"
        run cp -r "${SOURCE[@]/#/$REPOSITORY/}" "$copy"
        source=(--base-docker-image=python:3.12 --script-dir="$copy")
        command="pip install --quiet --editable '.[tpu]' && $command"
    fi
    # Kubernetes reads $$ as a dollar sign, and expands $(NAME) itself.
    run xpk workload create "${where[@]}" --workload="$name" --tpu-type="$type" \
        --num-slices="$slices" "${source[@]}" --max-restarts="$max_restarts" \
        --restart-on-exit-codes="$AGAIN" --termination-grace-period-seconds=300 \
        --command="${command//\$/\$\$}"
}

logs() {
    # XPK creates regional clusters: us-west4-a is in us-west4.
    run gcloud container clusters get-credentials "$cluster" --location="${zone%-*}" --project="$project"
    local job=jobset.sigs.k8s.io
    run kubectl logs --follow --tail=-1 --container=jax-tpu \
        --selector="$job/jobset-name=$name,$job/job-index=0,batch.kubernetes.io/job-completion-index=0"
}

case $action in
    create-cluster) create_cluster ;;
    train) train ;;
    status) run xpk workload list "${where[@]}" --filter-by-job="$name" ;;
    logs) logs ;;
    wait) run xpk workload list "${where[@]}" --wait-for-job-completion="$name" || exit 1 ;;
    delete) run xpk workload delete "${where[@]}" --workload="$name" --force ;;
    delete-cluster) run xpk cluster delete "${where[@]}" --force ;;
esac
