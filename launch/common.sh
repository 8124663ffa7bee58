# What the launchers share: how they take flags, print and run commands, and when they start again.
# Sourced by them, never run.
# shellcheck shell=bash disable=SC2034  # what is set here is used there

if ((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] < 404)); then
    echo "error: bash 4.4 or later is needed, this is $BASH_VERSION" >&2
    exit 2
fi
set -euo pipefail

# The exit status of a training that was preempted and has saved (EX_TEMPFAIL of sysexits.h).
# It is started again, and so is one whose machine vanished; any other status is final.
AGAIN=75

# The repository, and what of it a training needs on another machine.
REPOSITORY=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
SOURCE=(owl_jax configs launch setup.py pyproject.toml README.md)

# Set by the flags of each launcher.
dry_run=
training=()
config='' workdir='' # of the training; needs_training sets them
quick_seconds=300
max_quick_ends=5

exec 3>&1 # where --dry-run prints, also from inside $(...)

say() { echo "$*" >&2; }
fail() { say "error: $*" && exit 1; }
wrong() { say "error: $*" && exit 2; }

# The comment at a launcher's head is its --help; there a flag stands with the form of its value.
help_text() { sed -n '2,/^$/s/^# \{0,1\}//p' "$0"; }
form_of() {
    local form
    # Not what stands in the value of another flag, as in --sbatch=--partition=h100.
    form=$(help_text | grep -o -e "[[ ]$1=[^] ,]*" | head -n 1) || true
    echo "${form:1}"
}

# An argument that no case took: a flag without its value, one of the training's, or none at all.
refuse() {
    local flag=${1%%=*} form='' hint='--help lists what there is'
    case $flag in
        --config | --config.* | --workdir) wrong "$flag is the training's: it comes after --" ;;
    esac
    [[ $flag =~ ^--[a-z-]+$ ]] && form=$(form_of "$flag")
    [[ $form ]] && wrong "$flag needs a value: $form"
    [[ $1 == --* && $(form_of --sbatch) ]] && hint+="; for sbatch it is $(quoted "--sbatch=$1")"
    wrong "unknown argument $(quoted "$1"); $hint"
}

# needs FLAG...: each of them has been given. --some-flag sets $some_flag.
needs() {
    local flag variable
    for flag; do
        variable=${flag#--}
        variable=${variable//-/_}
        [[ ${!variable:-} ]] || wrong "$(form_of "$flag") is missing"
    done
}

# numbers LOWEST FLAG...: each of them has such a whole number as its value. To bash, 08 is a wrong
# octal number, and 19 digits may be too many.
numbers() {
    local lowest=$1 flag variable
    for flag in "${@:2}"; do
        variable=${flag#--}
        variable=${variable//-/_}
        [[ ${!variable} =~ ^(0|[1-9][0-9]{0,17})$ ]] && ((${!variable} >= lowest)) && continue
        wrong "$flag=${!variable}: a whole number from $lowest on is expected, without leading zeros"
    done
}

# chip_of TYPE: prints the chip of a TPU slice. Which sizes there are, Google's tools tell.
chip_of() {
    local chip=${1%%-*}
    [[ $1 =~ ^(v4|v5litepod|v5p|v6e)-[1-9][0-9]*$ ]] ||
        wrong "--type=$1 is none of v4-N, v5litepod-N, v5p-N, v6e-N with a number N"
    echo "${chip/litepod/e}"
}

# needs_python FILE: it can be run; a path that is not absolute begins in the repository.
needs_python() {
    (cd "$REPOSITORY" && type -P -- "$1" >/dev/null) ||
        wrong "--python=$1 is not there, or cannot be run; to install one, in $REPOSITORY:" \
            "python3 -m venv .venv && .venv/bin/pip install --editable '.[gpu]'"
}

# Before anything is rented or queued: what follows -- describes a training. Sets $config and $workdir.
needs_training() {
    local i mount='mount the bucket as one, and give that'
    for ((i = 0; i < ${#training[@]}; ++i)); do
        case ${training[i]} in
            --config=*) config=${training[i]#*=} ;;
            --workdir=*) workdir=${training[i]#*=} ;;
            --config) config=${training[++i]-} ;;
            --workdir) workdir=${training[++i]-} ;;
        esac
    done
    [[ $config ]] || wrong "-- --config=FILE is missing: what to train"
    [[ $workdir ]] || wrong "-- --workdir=DIR is missing: where checkpoints go"
    [[ $(form_of --bucket) ]] && mount='--bucket=BUCKET mounts one: --workdir=/bucket/...'
    [[ $workdir != *://* ]] || wrong "--workdir=$workdir: a folder is expected; $mount"
}

# The training's config file is there.
config_is_here() {
    local file=${config%%:*} # what follows the colon is for get_config
    (cd "$REPOSITORY" && [[ -f $file ]]) ||
        wrong "--config=$file: no such file; a path that is not absolute begins in $REPOSITORY"
}

# The same where the training runs on a copy of this folder. Of its own files nothing is known here.
config_is_copied() {
    [[ $config != /* ]] || return 0
    [[ $config =~ ^(\./)?(owl_jax|configs)/ ]] ||
        wrong "--config=$config: put it into configs/, which is copied, or give a path of the hosts"
    config_is_here
}

# The words as a shell reads them back.
quoted() {
    local word words=()
    for word; do
        [[ $word =~ ^[A-Za-z0-9_./:=,@%+-]+$ ]] || word=${word@Q}
        words+=("$word")
    done
    echo "${words[*]}"
}

# Runs a command and tells so; with --dry-run it only prints it.
run() {
    if [[ $dry_run ]]; then
        quoted "$@" >&3
    else
        say "+ $(quoted "$@")"
        "$@"
    fi
}

# flags_line VARIABLE PYTHON CHIP: the line of shell that sets XLA's flags for a chip
# (owl_jax/parallel/xla_flags.py). What the variable holds already comes last, and wins. `export` in
# one with the assignment would hide that they could not be told.
flags_line() {
    echo "$1=\"\$($(quoted "$2") -m owl_jax.parallel.xla_flags --chip=$3)\${$1:+ \$$1}\" && export $1"
}

# verdict STATUS...: what the statuses of all processes come to. `lost` is a process that ended
# with its machine. A signal (128 and above) is mostly what a process gets when another one is gone,
# so it says least.
verdict() {
    local status error=0 signal=0 again=0
    for status; do
        if [[ $status == lost ]]; then
            echo "$AGAIN"
            return
        elif ((status == AGAIN)); then
            again=$AGAIN
        elif ((status >= 128)); then
            signal=$((signal == 0 || status < signal ? status : signal))
        elif ((status > 0)); then
            error=$((error == 0 || status < error ? status : error))
        fi
    done
    echo $((error ? error : again ? again : signal))
}

# start_again STATUS SECONDS: whether a training that ended so, after so long, is started again.
# A few quick ends in a row are the last, since they would go on for ever.
quick_ends=0
start_again() {
    (($1 == AGAIN)) || return 1
    quick_ends=$(($2 < quick_seconds ? quick_ends + 1 : 0))
    if ((quick_ends >= max_quick_ends)); then
        say "given up: ended $quick_ends times in a row within $quick_seconds seconds of its start"
        return 1
    fi
    say "preempted after $2 seconds; starting again from the newest checkpoint"
}
