#!/usr/bin/env bash
# Runs on each host of a TPU slice: launch/cloud_tpu.sh calls it over ssh. The run is not a child
# of the ssh connection, so it survives a broken connection.
#
#   launch/on_worker.sh install            Python and owl_jax into .venv
#   launch/on_worker.sh mount BUCKET       the bucket as /bucket
#   launch/on_worker.sh start CHIP ARG...  start a run with these arguments, unless one is going
#   launch/on_worker.sh follow             print its output, until it has ended
#   launch/on_worker.sh state              one line: running, its exit status, lost or none
#   launch/on_worker.sh stop               send SIGTERM; wait until it has saved and ended
#
# The run holds run/lock while it runs; a lock, unlike a file, does not survive a reboot.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
mkdir -p run

runs() {
    local status=0
    flock --nonblock --conflict-exit-code=9 run/lock true || status=$?
    ((status == 9))
}
until_ended() { flock run/lock true; }

case ${1-} in
    install)
        # TPU images come with Python 3.10, which JAX no longer supports.
        if [[ ! -x .venv/bin/python ]]; then
            python3 -m pip install --quiet --user uv
            python3 -m uv venv --quiet --python=3.12 .venv
        fi
        python3 -m uv pip install --quiet --python=.venv/bin/python --editable '.[tpu]'
        ;;
    mount)
        if ! mountpoint --quiet /bucket; then
            # https://cloud.google.com/storage/docs/cloud-storage-fuse/install
            if ! command -v gcsfuse >/dev/null; then
                key=/usr/share/keyrings/cloud.google.asc repository=https://packages.cloud.google.com/apt
                curl --fail --silent --show-error "$repository/doc/apt-key.gpg" | sudo tee "$key" >/dev/null
                echo "deb [signed-by=$key] $repository gcsfuse-$(lsb_release -cs) main" |
                    sudo tee /etc/apt/sources.list.d/gcsfuse.list >/dev/null
                sudo apt-get update --quiet --quiet
                sudo apt-get install --quiet --quiet --yes gcsfuse
            fi
            sudo install --directory --owner="$(id -un)" /bucket
            # --implicit-dirs shows folders that have no object of their own, as after an upload.
            gcsfuse --implicit-dirs "$2" /bucket
        fi
        ;;
    start)
        exec 9>>run/lock
        if ! flock --nonblock 9; then
            echo "a run is in progress here already"
            exit
        fi
        rm -f run/status run/stopped run/pid
        setsid bash launch/on_worker.sh hold "${@:2}" </dev/null >>run/train.log 2>&1 &
        ;;
    hold) # internal: this process inherits the lock from `start`, and ends with the run
        # shellcheck source=launch/common.sh
        source launch/common.sh
        status=0
        if eval "$(flags_line LIBTPU_INIT_ARGS .venv/bin/python "$2")"; then
            .venv/bin/python -m owl_jax.train --multihost "${@:3}" 9>&- &
            echo $! >run/pid
            wait $! || status=$?
        else
            status=1
        fi
        echo "$status" >run/status
        ;;
    follow)
        touch run/train.log
        # --pid: ends with this shell if that is interrupted.
        tail --lines=100 --follow --sleep-interval=0.5 --pid=$$ run/train.log &
        until_ended
        sleep 1 # for the last lines
        kill $!
        ;;
    state)
        state=none
        if runs; then
            state=running
        elif [[ -e run/stopped ]]; then
            state=stopped
        elif [[ -e run/status ]]; then
            state=$(cat run/status)
        elif [[ -e run/pid ]]; then
            state=lost
        fi
        echo "owl_jax on $(hostname): $state"
        ;;
    stop)
        if runs; then
            touch run/stopped
            # run/pid is missing until XLA's flags are determined, and for ever if that fails.
            until [[ -e run/pid ]] || ! runs; do sleep 0.2; done
            [[ -e run/pid ]] && kill -TERM "$(cat run/pid)"
            until_ended
        fi
        ;;
    *)
        echo "error: install, mount, start, follow, state or stop; launch/cloud_tpu.sh runs this" >&2
        exit 2
        ;;
esac
