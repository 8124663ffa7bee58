#!/usr/bin/env bash
# Trains on TPU slices (v4, v5e, v5p, v6e) of a GKE cluster, with XPK (pip install xpk).
#
#   launch/gke.sh create-cluster --cluster=CLUSTER --zone=ZONE --project=PROJECT --type=TYPE [flags]
#   launch/gke.sh train          --cluster=CLUSTER --zone=ZONE --project=PROJECT --type=TYPE --name=NAME
#                                [flags] -- --config=FILE --workdir=DIR [--config.KEY=VALUE ...]
#   launch/gke.sh status | logs | wait | delete  --cluster=CLUSTER --zone=ZONE --project=PROJECT --name=NAME
#   launch/gke.sh delete-cluster --cluster=CLUSTER --zone=ZONE --project=PROJECT
#
# train submits python -m owl_jax.train --multihost and what follows --, for every host of every
# slice, and returns. The cluster starts it again when it was preempted (75), when a node vanished,
# and, as XPK always does, on status 42 and from 127 on; any other status is final.
#
#   create-cluster        make a cluster with slices, and mount a bucket in it
#   status                the workload in the queue
#   logs                  print what host 0 of slice 0 prints, from its newest start on
#   wait                  until the training has ended; ends with 0 if it succeeded, else with 1
#   delete                stop the training: the slices stay, and so does their price
#   delete-cluster        delete the cluster with its slices; the bucket stays
#
#   --cluster=CLUSTER     the cluster's name
#   --zone=ZONE           such as us-west4-a
#   --project=PROJECT     the project's name
#   --name=NAME           the training's
#   --type=TYPE           v4-N or v5p-N (N: two for each chip), v5litepod-N or v6e-N (N: chips)
#   --slices=N            slices in the cluster, and of them for the training (default 1)
#   --bucket=BUCKET       with create-cluster: mounted as /bucket for every training, for workdirs,
#                         data and weights
#   --spot                with create-cluster: preemptible slices, at a lower price
#   --reservation=NAME    with create-cluster: slices of your reservation
#   --image=IMAGE         an image with owl_jax[tpu] in it (default: a plain Python image to which this
#                         code is added, and that installs it at each start)
#   --prepare=COMMAND     run in each container before each start
#   --max-restarts=N      the cluster starts a training again so often at most (default 50)
#   --dry-run             print each command as it would run, and run none
#   --help                this text

# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

action=${1-} cluster='' zone='' project='' name='' type='' bucket='' image='' prepare=''
slices=1 price=() max_restarts=50
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
        --bucket=*/*) wrong "$1: the bucket's name alone is expected" ;;
        --bucket=?*) bucket=${1#*=} ;;
        --spot) price+=("$1") ;;
        --reservation=?*) price+=("$1") ;;
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
((${#price[@]} < 2)) || wrong "${price[*]}: give one of them, once"
for_cluster=("${price[@]}" ${bucket:+--bucket="$bucket"})
[[ $action == create-cluster || ! ${for_cluster[*]} ]] ||
    wrong "${for_cluster[*]} is for create-cluster alone; $action takes the cluster as it was made"
[[ $action == train || ! $image$prepare && ! ${training[*]} ]] ||
    wrong "--image, --prepare and what follows -- are for train alone"
case $action in
    train | status | logs | wait | delete)
        needs --name
        [[ $name =~ ^[a-z][a-z0-9-]*$ ]] || wrong "--name=$name: small letters, digits and hyphens only"
        ;;
esac
if [[ $action == create-cluster || $action == train ]]; then
    needs --type
    chip=$(chip_of "$type")
fi
where=(--cluster="$cluster" --project="$project" --zone="$zone")

create_cluster() {
    run xpk cluster create "${where[@]}" --tpu-type="$type" --num-slices="$slices" \
        "${price[@]:---on-demand}" ${bucket:+--enable-gcsfuse-csi-driver}
    if [[ $bucket ]]; then
        # The size is a formality that Kubernetes asks for; a bucket has none.
        run xpk storage attach "$bucket" "${where[@]}" --type=gcsfuse --bucket="$bucket" \
            --mount-point=/bucket --auto-mount=true --readonly=false --size=1000
    fi
}

train() {
    needs_training
    [[ $image || $prepare ]] || config_is_copied
    local command source
    command="${prepare:+$prepare && }$(flags_line LIBTPU_INIT_ARGS python "$chip")"
    # With exec, the SIGTERM of a preemption reaches the training and no shell before it.
    command+=" && exec $(quoted python -m owl_jax.train --multihost "${training[@]}")"
    if [[ $image ]]; then
        source=(--docker-image="$image")
    else
        # XPK adds a whole folder to the image, so it gets one without .venv, runs and weights.
        local stage=${TMPDIR:-/tmp}/owl_jax-$name
        run rm -rf "$stage"
        run mkdir -p "$stage"
        run cp -r "${SOURCE[@]/#/$REPOSITORY/}" "$stage"
        source=(--base-docker-image=python:3.12 --script-dir="$stage")
        command="pip install --quiet --editable '.[tpu]' && $command"
    fi
    # Kubernetes takes $$ for a dollar, and $(NAME) for a variable of its own.
    run xpk workload create "${where[@]}" --workload="$name" --tpu-type="$type" \
        --num-slices="$slices" "${source[@]}" --max-restarts="$max_restarts" \
        --restart-on-exit-codes="$AGAIN" --termination-grace-period-seconds=300 \
        --command="${command//\$/\$\$}"
}

logs() {
    # XPK makes regional clusters: us-west4-a is in us-west4.
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
