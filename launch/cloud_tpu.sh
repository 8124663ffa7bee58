#!/usr/bin/env bash
# Trains on a slice of Cloud TPU VMs (v4, v5e, v5p, v6e), one host or a pod.
#
#   launch/cloud_tpu.sh train  --name=NAME --zone=ZONE --type=TYPE [flags] -- --config=FILE --workdir=DIR ...
#   launch/cloud_tpu.sh create --name=NAME --zone=ZONE --type=TYPE [flags]
#   launch/cloud_tpu.sh status | logs | stop | delete  --name=NAME --zone=ZONE [flags]
#
# train creates the slice if it is missing, copies and installs the code, runs python -m owl_jax.train
# --multihost with the arguments after -- on every host, and prints the output of host 0. It ends with
# the run's status, but restarts a training run that was preempted (75) or whose slice vanished. If
# you interrupt it, or the connection breaks, the run continues: the same command joins it.
#
#   create                create the slice, and wait until it is ready
#   status                the state of the slice, and of the run on each host
#   logs                  print the output of host 0, until the run ends
#   stop                  let the run save and end; the slice stays, and still costs
#   delete                delete the slice and everything on its disks
#
#   --name=NAME           the slice's name
#   --zone=ZONE           such as us-west4-a
#   --project=PROJECT     (default: gcloud's)
#   --type=TYPE           v4-N or v5p-N (N: twice the number of chips), v5litepod-N or v6e-N (N: chips)
#   --runtime=VERSION     the hosts' image (default: Google's for JAX on this type)
#   --spot                preemptible, at a lower price
#   --reserved            from your reservation
#   --valid-for=DURATION  give up if the slice is not available within, say, 6h
#   --no-queue            fail if no slice is available now; give it to delete, too
#   --bucket=BUCKET       mounted on each host as /bucket, for workdirs, data and weights
#   --prepare=COMMAND     run on each host in ~/owl_jax before each start
#   --delete-when-done    delete the slice when the run has ended with status 0
#   --poll-seconds=N      between two polls of a pending slice (default 30)
#   --quick-seconds=N     an end within N seconds of the start is a quick one (default 300)
#   --max-quick-ends=N    give up after N preemptions in a row with quick ends (default 5)
#   --dry-run             print the commands, and run none
#   --help                this text

# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

action=${1-} name='' zone='' project='' type='' runtime='' valid_for='' bucket='' prepare=''
price=() no_queue='' delete_when_done='' poll_seconds=30
case $action in
    --help) help_text && exit ;;
    create | train | status | logs | stop | delete) shift ;;
    *) wrong "train, create, status, logs, stop or delete has to come first; --help explains them" ;;
esac
while (($#)); do
    case $1 in
        --name=?*) name=${1#*=} ;;
        --zone=?*) zone=${1#*=} ;;
        --project=?*) project=${1#*=} ;;
        --type=?*) type=${1#*=} ;;
        --runtime=?*) runtime=${1#*=} ;;
        --spot | --reserved) price+=("$1") ;;
        --valid-for=?*) valid_for=${1#*=} ;;
        --no-queue) no_queue=yes ;;
        --bucket=*/*) wrong "$1: expected only the bucket's name" ;;
        --bucket=?*) bucket=${1#*=} ;;
        --prepare=?*) prepare=${1#*=} ;;
        --delete-when-done) delete_when_done=yes ;;
        --poll-seconds=?*) poll_seconds=${1#*=} ;;
        --quick-seconds=?*) quick_seconds=${1#*=} ;;
        --max-quick-ends=?*) max_quick_ends=${1#*=} ;;
        --dry-run) dry_run=yes ;;
        --help) help_text && exit ;;
        --) shift && training=("$@") && break ;;
        *) refuse "$1" ;;
    esac
    shift
done
needs --name --zone
[[ $name =~ ^[a-z][a-z0-9-]*$ ]] || wrong "--name=$name: lowercase letters, digits and hyphens only"
numbers 1 --poll-seconds
numbers 0 --quick-seconds --max-quick-ends
((${#price[@]} < 2)) || wrong "${price[*]}: give one of them, once"
[[ ! $valid_for || $valid_for =~ ^([1-9][0-9]*[dhms])+$ ]] ||
    wrong "--valid-for=$valid_for: expected a duration such as 6h or 1d12h"
if [[ $action == create || $action == train ]]; then
    needs --type
    chip=$(chip_of "$type")
    # https://cloud.google.com/tpu/docs/runtimes
    case $chip in
        v4) image=tpu-ubuntu2204-base ;;
        v5e) image=v2-alpha-tpuv5-lite ;;
        v5p) image=v2-alpha-tpuv5 ;;
        v6e) image=v2-alpha-tpuv6e ;;
    esac
    runtime=${runtime:-$image}
fi
if [[ $action == train ]]; then
    needs_training
    [[ $prepare ]] || config_is_copied
    [[ $bucket || $prepare || $config$workdir != */bucket/* ]] ||
        wrong "/bucket exists only with --bucket=BUCKET, or if --prepare=COMMAND mounts something there"
else
    [[ ! $bucket$prepare$delete_when_done && ! ${training[*]} ]] ||
        wrong "--bucket, --prepare, --delete-when-done and arguments after -- are for train only"
fi
where=(--zone="$zone" ${project:+--project="$project"})
tpu_vm=(gcloud compute tpus tpu-vm)
queue=(gcloud compute tpus queued-resources)

# Uses list, not describe, to distinguish a missing slice from a failed call.
state_in_list() { # WHAT FIELD
    run gcloud compute tpus "$1" list "${where[@]}" --filter="name ~ /$name\$" --format="value($2)"
}

# Prints ready, coming, gone (preempted: its remains must be deleted), failed or absent.
slice_state() {
    local node request=''
    node=$(state_in_list tpu-vm state) || return
    [[ $no_queue || $node ]] || request=$(state_in_list queued-resources state.state) || return
    case $node/$request in
        READY/*) echo ready ;;
        PREEMPTED/* | TERMINATED/* | STOPPED/* | HIDDEN/* | UNKNOWN/* | /SUSPENDED) echo gone ;;
        /FAILED) echo failed ;;
        /) echo absent ;;
        *) echo coming ;;
    esac
}

delete_slice() {
    if [[ $no_queue ]]; then
        run "${tpu_vm[@]}" delete "$name" "${where[@]}" --quiet
    else
        run "${queue[@]}" delete "$name" "${where[@]}" --force --quiet
    fi
}

create_slice() {
    if [[ $no_queue ]]; then
        run "${tpu_vm[@]}" create "$name" "${where[@]}" --accelerator-type="$type" \
            --version="$runtime" "${price[@]}"
    else
        run "${queue[@]}" create "$name" --node-id="$name" "${where[@]}" \
            --accelerator-type="$type" --runtime-version="$runtime" "${price[@]}" \
            ${valid_for:+--valid-until-duration="$valid_for"}
    fi
}

# Returns when the slice is ready.
await_slice() {
    local state
    while true; do
        state=$(slice_state) || state=unknown # gcloud has printed why; the next poll may succeed
        case $state in
            ready) return ;;
            absent) create_slice ;;
            gone) delete_slice && create_slice ;;
            failed) fail "the request for $name has failed; delete it and request something else" ;;
        esac
        [[ $dry_run ]] && return
        say "$name is $state; looking again in $poll_seconds seconds"
        sleep "$poll_seconds"
    done
}

on_hosts() { # all|NUMBER COMMAND
    run "${tpu_vm[@]}" ssh "$name" "${where[@]}" --worker="$1" --command="$2"
}

# Packs the current code, for this start and every restart.
pack() {
    archive=${TMPDIR:-/tmp}/owl_jax-$name.tar.gz
    run tar --create --gzip --file="$archive" --directory="$REPOSITORY" --exclude=__pycache__ "${SOURCE[@]}"
}

# ~/owl_jax is the working directory. Removes only what the archive replaces, since weights, data or
# a bucket may be beside it.
start_training() {
    local unpack="mkdir -p owl_jax && cd owl_jax && rm -rf owl_jax configs launch"
    unpack+=" && tar -xzf ../owl_jax.tar.gz && bash launch/on_worker.sh install"
    run "${tpu_vm[@]}" scp "$archive" "$name:owl_jax.tar.gz" "${where[@]}" --worker=all || return
    [[ $bucket ]] && unpack+=" && bash launch/on_worker.sh mount $(quoted "$bucket")"
    [[ $prepare ]] && unpack+=" && $prepare"
    on_hosts all "$unpack" || return
    on_hosts all "bash owl_jax/launch/on_worker.sh start $(quoted "$chip" "${training[@]}")"
}

# Prints the state of the run on each host, one a line; fails if a host does not answer. Hosts
# without a training run print none.
print_states='if [ -d owl_jax/run ]; then bash owl_jax/launch/on_worker.sh state; fi'
host_states() { on_hosts all "$print_states" | sed -n 's/^owl_jax on .*: //p'; }

# Follows the run until it has ended on every host, and sets `status`.
follow_training() {
    local states
    while true; do
        on_hosts 0 'bash owl_jax/launch/on_worker.sh follow' || true
        # gcloud cannot distinguish a broken connection from a slice that is gone.
        if states=$(host_states) && [[ $states ]]; then
            [[ $states == *running* ]] || break
        elif [[ $dry_run ]]; then
            return
        elif [[ $(slice_state) =~ ^(gone|absent|coming)$ ]]; then
            states=lost
            break
        fi
        say "$name does not answer, or has not ended on every host; trying again in $poll_seconds seconds"
        sleep "$poll_seconds"
    done
    if [[ $states == *stopped* ]]; then
        say "stopped after saving; the same command resumes from there"
        exit "$AGAIN"
    fi
    # shellcheck disable=SC2086  # one word for each host
    status=$(verdict ${states//none/lost})
    # Other hosts may be gone while the slice is still reported as ready.
    if ((status >= 128)); then
        sleep "$poll_seconds"
        [[ $(slice_state) == ready ]] || status=$AGAIN
    fi
}

train() {
    trap 'say "interrupted here, but not on $name: the same command joins the run, stop ends it, delete ends the costs"; exit 130' INT
    local started
    pack
    while true; do
        await_slice
        started=$SECONDS status=$AGAIN
        if [[ $(host_states) == *running* ]]; then
            say "joining the run on $name"
            follow_training
        elif start_training; then
            follow_training
        elif [[ $(slice_state) == ready ]]; then
            fail "the run could not be started on every host of $name"
        fi
        if [[ $dry_run ]]; then
            # As a comment: a pasted command would delete the slice whatever the run's status was.
            [[ $delete_when_done ]] && delete_slice 3>&1 | sed 's/^/# when it has ended with status 0: /'
            return 0
        fi
        start_again "$status" $((SECONDS - started)) || break
    done
    if [[ $status == 0 && $delete_when_done ]]; then
        delete_slice
    else
        say "$name still exists and costs, until you run: $(quoted "$0" delete --name="$name" "${where[@]}" ${no_queue:+--no-queue})"
    fi
    exit "$status"
}

case $action in
    create) await_slice ;;
    train) train ;;
    status)
        run "${queue[@]}" list "${where[@]}" --filter="name ~ /$name\$"
        run "${tpu_vm[@]}" list "${where[@]}" --filter="name ~ /$name\$"
        on_hosts all "$print_states"
        ;;
    logs) on_hosts 0 'bash owl_jax/launch/on_worker.sh follow' ;;
    stop) on_hosts all 'bash owl_jax/launch/on_worker.sh stop' ;;
    delete) delete_slice ;;
esac
