# Shared by the launchers: parsing flags, printing and running commands, restarting runs.
# Sourced by them, never run.
# shellcheck shell=bash disable=SC2034  # the launchers use these variables

if ((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] < 404)); then
    echo "error: bash 4.4 or later is needed, this is $BASH_VERSION" >&2
    exit 2
fi
set -euo pipefail

# The exit status of a training run that was preempted and has saved (EX_TEMPFAIL of sysexits.h).
# Such a run is restarted, as is one whose machine vanished; any other status is final.
AGAIN=75

# The repository, and the files of it that a training run needs on another machine.
REPOSITORY=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
SOURCE=(owl_jax configs launch setup.py pyproject.toml README.md)

# Set by the flags of each launcher.
dry_run=
training=()
config='' workdir='' # of the run; set by needs_training
quick_seconds=300
max_quick_ends=5

exec 3>&1 # where --dry-run prints, also from inside $(...)

say() { echo "$*" >&2; }
fail() { say "error: $*" && exit 1; }
wrong() { say "error: $*" && exit 2; }

# The comment at the top of a launcher is its --help, which has the form of each flag's value.
help_text() { sed -n '2,/^$/s/^# \{0,1\}//p' "$0"; }
form_of() {
    local form
    # Skips flags inside the value of another flag, as in --sbatch=--partition=h100.
    form=$(help_text | grep -o -e "[[ ]$1=[^] ,]*" | head -n 1) || true
    echo "${form:1}"
}

# Explains an unknown argument: a flag without its value, a flag of the training command, or
# anything else.
refuse() {
    local flag=${1%%=*} form='' hint='--help lists all flags'
    case $flag in
        --config | --config.* | --workdir) wrong "$flag is a flag of the training command: it comes after --" ;;
    esac
    [[ $flag =~ ^--[a-z-]+$ ]] && form=$(form_of "$flag")
    [[ $form ]] && wrong "$flag needs a value: $form"
    [[ $1 == --* && $(form_of --sbatch) ]] && hint+="; to pass it to sbatch: $(quoted "--sbatch=$1")"
    wrong "unknown argument $(quoted "$1"); $hint"
}

# needs FLAG...: checks that each flag was given. --some-flag sets $some_flag.
needs() {
    local flag variable
    for flag; do
        variable=${flag#--}
        variable=${variable//-/_}
        [[ ${!variable:-} ]] || wrong "$(form_of "$flag") is missing"
    done
}

# numbers LOWEST FLAG...: checks that each value is a whole number of at least LOWEST. Bash rejects 08
# as an octal number, and may overflow with 19 digits.
numbers() {
    local lowest=$1 flag variable
    for flag in "${@:2}"; do
        variable=${flag#--}
        variable=${variable//-/_}
        [[ ${!variable} =~ ^(0|[1-9][0-9]{0,17})$ ]] && ((${!variable} >= lowest)) && continue
        wrong "$flag=${!variable}: expected a whole number of at least $lowest, without leading zeros"
    done
}

# chip_of TYPE: prints the chip of a TPU slice. Google's tools check the size.
chip_of() {
    local chip=${1%%-*}
    [[ $1 =~ ^(v4|v5litepod|v5p|v6e)-[1-9][0-9]*$ ]] ||
        wrong "--type=$1: expected v4-N, v5litepod-N, v5p-N or v6e-N with a number N"
    echo "${chip/litepod/e}"
}

# needs_python FILE: checks that it is executable; relative paths start at the repository.
needs_python() {
    (cd "$REPOSITORY" && type -P -- "$1" >/dev/null) ||
        wrong "--python=$1 does not exist or cannot be run; to install one, in $REPOSITORY:" \
            "python3 -m venv .venv && .venv/bin/pip install --editable '.[gpu]'"
}

# Checks the arguments after -- before anything is rented or queued. Sets $config and $workdir.
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
    [[ $workdir != *://* ]] || wrong "--workdir=$workdir: expected a folder; $mount"
}

# Whether the run's config is the name of one that ships, such as stage2 (owl_jax/shipped.py).
config_ships() { [[ -f $REPOSITORY/configs/${config%%:*}.py ]]; }

# Checks that the run's config file exists.
config_is_here() {
    local file=${config%%:*} # the rest is get_config's argument
    (cd "$REPOSITORY" && [[ -f $file ]]) || config_ships ||
        wrong "--config=$file: no such file; relative paths start at $REPOSITORY"
}

# The same for a run on a copy of this folder. Absolute paths are on the hosts, so not checked.
config_is_copied() {
    if [[ $config == /* ]] || config_ships; then return; fi
    [[ $config =~ ^(\./)?(owl_jax|configs)/ ]] ||
        wrong "--config=$config: put it into configs/, which is copied, or give an absolute path on the hosts"
    config_is_here
}

# Quotes the words for a shell.
quoted() {
    local word words=()
    for word; do
        [[ $word =~ ^[A-Za-z0-9_./:=,@%+-]+$ ]] || word=${word@Q}
        words+=("$word")
    done
    echo "${words[*]}"
}

# Prints and runs a command; with --dry-run only prints it.
run() {
    if [[ $dry_run ]]; then
        quoted "$@" >&3
    else
        say "+ $(quoted "$@")"
        "$@"
    fi
}

# flags_line VARIABLE PYTHON CHIP: the shell line that sets XLA's flags for a chip
# (owl_jax/parallel/xla_flags.py). Flags that the variable already has come last, and win. `export`
# together with the assignment would hide a failure.
flags_line() {
    echo "$1=\"\$($(quoted "$2") -m owl_jax.parallel.xla_flags --chip=$3)\${$1:+ \$$1}\" && export $1"
}

# verdict STATUS...: the common status of all processes. `lost`: the process ended with its machine.
# Signals (128 and above) have the lowest priority: a process usually gets one because another died.
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

# start_again STATUS SECONDS: whether to restart a training run that ended with this status after so
# many seconds. Gives up after a few quick ends in a row.
quick_ends=0
start_again() {
    (($1 == AGAIN)) || return 1
    quick_ends=$(($2 < quick_seconds ? quick_ends + 1 : 0))
    if ((quick_ends >= max_quick_ends)); then
        say "gave up: the run ended $quick_ends times in a row within $quick_seconds seconds of its start"
        return 1
    fi
    say "preempted after $2 seconds; starting again from the newest checkpoint"
}
