#!/bin/bash
# Runs the tests of this machine, or those that its first word names (see `usage`). Makes the
# environment they need, says what it had to leave out, and ends with pytest's summary.
set -uo pipefail
cd "$(dirname "$0")"

usage() {
    cat <<'END'
./test.sh alone is the tests of this machine, on one Python. Further arguments go to pytest. The rest:
  ./test.sh pythons | clients            the other Pythons found here | libraries that take an executor
  ./test.sh slurm | kubernetes           a real Slurm | a Kubernetes (KUBECONFIG's, or its own)
  ./test.sh gridengine | all             a real Grid Engine of its own | everything
END
}

what=machine
case ${1-} in
pythons | clients | slurm | gridengine | kubernetes | all)
    what=$1
    shift
    ;;
-h | --help)
    usage
    exit
    ;;
[!-]*)
    if [ ! -e "${1%%::*}" ]; then # a test's path is for pytest
        echo "test.sh: there is no part '$1'" >&2
        usage >&2
        exit 2
    fi
    ;;
esac

# Limits of stages; each test has one of its own (pyproject.toml).
PYTHONS_LIMIT=14m
CLIENTS_LIMIT=15m
HOST_LIMIT=20m # also beside Kubernetes, on a slow machine
KUBERNETES_PREPARE_LIMIT=6m
KUBERNETES_BUILD_LIMIT=20m
KUBERNETES_UP_LIMIT=10m
KUBERNETES_LIMIT=55m
OLD_KUBERNETES_LIMIT=8m
PREPARE_LIMIT=6m
UP_LIMIT=6m
SLURM_LIMIT=55m
GRIDENGINE_PREPARE_LIMIT=6m
GRIDENGINE_UP_LIMIT=4m
GRIDENGINE_LIMIT=20m

NO_TESTS_SELECTED=5 # exit status of pytest
MAY_NOT_INSTALL=3   # exit status of what prepares clusters
KUBERNETES=tests/kubernetes/cluster
GRIDENGINE=tests/gridengine/cluster
# With its configuration, and the directories of its jobs. Not below /tmp, which nodes mostly do not
# share: there would be a warning of each executor.
case $(pwd -P)/ in
/tmp/* | /dev/shm/*) GRIDENGINE_DIRECTORY=/var/tmp/cluster_tools-gridengine.$$ ;;
*) GRIDENGINE_DIRECTORY=$PWD/.gridengine ;;
esac
KUBERNETES_DIRECTORY=$PWD/.kubernetes # with what was built

pytest_args=("$@")
# Files, as what runs side by side has no variables in common: the stages' results, what was left out.
notes=$(mktemp -d)
others=        # the process of the stages on Kubernetes and Grid Engine
machine=       # the process of the tests of this machine, where they run beside those
brought_up=0   # dockered-slurm, by us
is_up=0        # dockered-slurm
trap clean_up EXIT
touch "$notes/results" "$notes/left_out"

clean_up() {
    local process
    for process in $others $machine; do
        { kill "$process" && wait "$process"; } 2>/dev/null
    done
    [ -z "$others" ] || gridengine_down # its stages are in a shell of their own
    [ "$brought_up" = 0 ] || take_down
    rm -rf "$notes"
}

leave_out() { echo "$*" >>"$notes/left_out"; }

say() { printf '\n=== %s\n' "$*"; }

# Runs a stage, notes its outcome, and goes on with the next one in any case.
stage() { # name, command...
    local name=$1 start=$SECONDS status=0 outcome=passed
    shift
    say "$name"
    "$@" || status=$?
    if [ "$status" = "$NO_TESTS_SELECTED" ] && [ ${#pytest_args[@]} -gt 0 ]; then
        outcome="no test selected"
    elif [ "$status" = "$MAY_NOT_INSTALL" ] && [[ "$1" = prepare* ]]; then
        outcome="left out"
    elif [ "$status" = 124 ]; then
        outcome="FAILED (took longer than its limit)"
    elif [ "$status" != 0 ]; then
        outcome="FAILED (exit status $status)"
    fi
    echo "$name: $outcome, $((SECONDS - start)) s" >>"$notes/results"
    return "$status"
}

# Comes before the last stage, so that the output ends with pytest's summary.
report() {
    say "stages until here"
    cat "$notes/results"
    say "left out"
    [ -s "$notes/left_out" ] || echo nothing
    cat "$notes/left_out"
}

# nox leaves out what it does not find here; its report says what that was.
nox_session() { # name, limit
    local name=$1 limit=$2 found=.nox/$1.json skipped status=0
    mkdir -p .nox
    rm -f "$found"
    timeout --kill-after=30 "$limit" \
        .venv/bin/nox --session "$name" --report "$found" -- "${pytest_args[@]}" || status=$?
    skipped=$(.venv/bin/python -c '
import json, sys
sessions = json.load(open(sys.argv[1]))["sessions"]
skipped = [session for session in sessions if session["result"] == "skipped"]
print(*[session["signatures"][0].rpartition("-")[2] for session in skipped], sep=", ")
' "$found") && [ -z "$skipped" ] ||
        leave_out "$name on Python ${skipped:-versions that nox did not report}: no such interpreter on this machine"
    return "$status"
}

pythons() { nox_session conformance "$PYTHONS_LIMIT"; }

clients() { nox_session clients "$CLIENTS_LIMIT"; }

# Most of their time they wait for processes: a few files at a time.
host_tests() {
    timeout --kill-after=30 "$HOST_LIMIT" .venv/bin/pytest -n 3 --dist loadfile \
        -m "not slurm and not gridengine and not kubernetes" --ignore=tests/clients "${pytest_args[@]}"
}

prepare_kubernetes() {
    local status=0
    prepared=$(timeout --kill-after=30 "$KUBERNETES_PREPARE_LIMIT" "$KUBERNETES/prepare" 2>&1) || status=$?
    [ -z "$prepared" ] || echo "$prepared"
    return "$status"
}

# Before the suites begin, which wait for things with limits: it takes all processors for minutes.
build_kubernetes() { timeout --kill-after=30 "$KUBERNETES_BUILD_LIMIT" "$KUBERNETES/build" "$KUBERNETES_DIRECTORY"; }

kubernetes_up() { nice timeout --kill-after=30 "$KUBERNETES_UP_LIMIT" "$KUBERNETES/up" "$KUBERNETES_DIRECTORY"; }

kubernetes_down() { "$KUBERNETES/down" "$KUBERNETES_DIRECTORY" >/dev/null 2>&1; }

kubernetes_tests() { # limit, further arguments of pytest...
    local limit=$1
    shift
    KUBECONFIG=${KUBECONFIG:-$KUBERNETES_DIRECTORY/kubeconfig} timeout --kill-after=60 "$limit" \
        .venv/bin/pytest -m kubernetes "$@" "${pytest_args[@]}"
}

# A server from before 1.29, which replaces pods that fail: the same promises, told otherwise.
old_kubernetes_tests() {
    # Not those of what goes in again: here the server itself tries three pods.
    kubernetes_tests "$OLD_KUBERNETES_LIMIT" tests/kubernetes/test_at_most_once.py \
        tests/kubernetes/test_older_servers.py tests/conformance/test_calls.py -k "not three"
}

# Each stage is tried where the one before it went well; a cluster that KUBECONFIG names is left as it is.
on_kubernetes() {
    if [ -n "${KUBECONFIG-}" ]; then
        stage "on Kubernetes, KUBECONFIG's" kubernetes_tests "$KUBERNETES_LIMIT"
        leave_out "an older Kubernetes: KUBECONFIG names the one to use"
        return
    fi
    trap kubernetes_down EXIT
    if stage "Kubernetes up" kubernetes_up; then
        stage "on Kubernetes" kubernetes_tests "$KUBERNETES_LIMIT"
        kubernetes_down
        export EMULATE=1.32
        if stage "an older Kubernetes up" kubernetes_up; then
            stage "on an older Kubernetes" old_kubernetes_tests
        else
            leave_out "everything on an older Kubernetes: it did not come up, see above"
        fi
        unset EMULATE
    else
        leave_out "everything on Kubernetes: it did not come up, see above"
    fi
    kubernetes_down
    trap - EXIT
}

prepare_gridengine() {
    local status=0
    prepared=$(timeout --kill-after=30 "$GRIDENGINE_PREPARE_LIMIT" "$GRIDENGINE/prepare" 2>&1) || status=$?
    [ -z "$prepared" ] || echo "$prepared"
    return "$status"
}

gridengine_up() { timeout --kill-after=30 "$GRIDENGINE_UP_LIMIT" "$GRIDENGINE/up" "$GRIDENGINE_DIRECTORY"; }

gridengine_down() { "$GRIDENGINE/down" "$GRIDENGINE_DIRECTORY" --all >/dev/null 2>&1; }

gridengine_pytest() {
    # shellcheck disable=SC1091
    . "$GRIDENGINE_DIRECTORY/settings.sh"
    mkdir -p "$GRIDENGINE_DIRECTORY/tmp"
    PYTEST_DEBUG_TEMPROOT=$GRIDENGINE_DIRECTORY/tmp timeout --kill-after=60 "$GRIDENGINE_LIMIT" \
        .venv/bin/pytest -m gridengine "$@"
}

# Most of their time they wait for jobs: a few files at a time. What changes the configuration, or takes the
# node away, is alone.
gridengine_tests() {
    if [ ${#pytest_args[@]} -gt 0 ]; then
        gridengine_pytest --ignore=tests/clients "${pytest_args[@]}"
        return
    fi
    local status=0
    local alone=(tests/gridengine/test_faults_of_gridengine.py tests/gridengine/test_limits_of_gridengine.py)
    gridengine_pytest -n 4 --dist loadfile tests/conformance tests/cluster tests/gridengine \
        "${alone[@]/#/--ignore=}" || status=$?
    gridengine_pytest "${alone[@]}" || status=$?
    return "$status"
}

# In a shell of its own, whose variables are for these tests.
on_gridengine() (
    trap gridengine_down EXIT
    if stage "Grid Engine up" gridengine_up; then
        stage "on Grid Engine" gridengine_tests
    else
        leave_out "everything on Grid Engine: it did not come up, see above"
    fi
)

take_down() { "${compose[@]}" down --volumes >/dev/null 2>&1; }

# A cluster that runs already is used and left as it is.
bring_up() {
    if [ "$(docker inspect slurmctld --format '{{.State.Running}}' 2>/dev/null)" = true ]; then
        local checkout
        checkout=$(docker inspect slurmctld --format \
            '{{range .Mounts}}{{if eq .Destination "/cluster_tools"}}{{.Source}}{{end}}{{end}}')
        if [ "$checkout" != "$(pwd -P)" ]; then
            echo "dockered-slurm runs already, with another checkout: $checkout"
            return 1
        fi
        echo "dockered-slurm runs already, it is used and left running"
    else
        brought_up=1
        take_down # what a run that was killed has left
        timeout --kill-after=30 "$UP_LIMIT" "${compose[@]}" up -d --build ||
            { "${compose[@]}" logs --tail 30; return 1; }
    fi
    timeout 120 docker exec slurmctld ready
}

slurm_tests() {
    # The inner time limit ends what runs in the container, the outer one a docker that hangs.
    timeout --kill-after=60 "$SLURM_LIMIT" docker exec slurmctld \
        timeout --kill-after=30 "$SLURM_LIMIT" pytest -m slurm --ignore=tests/clients "${pytest_args[@]}"
}

# With the libraries of nox's environment, which have to be for the Python of the nodes.
clients_on_slurm() {
    local version libraries
    version=$(docker exec slurmctld python3 -c 'import sys; print("python%d.%d" % sys.version_info[:2])')
    libraries=.nox/clients/lib/$version/site-packages
    if [ ! -d "$libraries" ]; then
        leave_out "libraries that take an executor, on Slurm: they are not installed for the nodes' $version"
        return
    fi
    timeout --kill-after=60 "$CLIENTS_LIMIT" docker exec -e PYTHONPATH="/cluster_tools/$libraries" slurmctld \
        timeout --kill-after=30 "$CLIENTS_LIMIT" python3 -m pytest -m slurm tests/clients "${pytest_args[@]}"
}

prepare() {
    local status=0
    prepared=$(timeout --kill-after=30 "$PREPARE_LIMIT" dockered-slurm/prepare.sh 2>&1) || status=$?
    [ -z "$prepared" ] || echo "$prepared"
    return "$status"
}

# Notes what has to be left out where a cluster can't be had here.
can_have() { # what, its stage, the command
    stage "$2" "$3" || { leave_out "everything on $1: ${prepared##*$'\n'}"; return 1; }
}

on_slurm() {
    compose=(docker-compose)
    ! docker compose version >/dev/null 2>&1 || compose=(docker compose)
    compose+=(-f dockered-slurm/docker-compose.yml)
    if stage "dockered-slurm up" bring_up; then
        is_up=1
        stage "on Slurm" slurm_tests
    else
        leave_out "everything on Slurm: dockered-slurm did not come up, see above"
    fi
}

# Each waits for its cluster most of the time: beside those on Slurm.
on_other_clusters() {
    [ "$has_kubernetes" = 0 ] || on_kubernetes
    [ "$has_gridengine" = 0 ] || on_gridengine
    touch "$notes/others.over"
}

all() {
    stage "other Pythons" pythons
    stage "libraries that take an executor" clients
    # All of them install packages: one after the other.
    local has_kubernetes=0 has_slurm=0 has_gridengine=0
    [ -z "${KUBECONFIG-}" ] && ! can_have Kubernetes "what Kubernetes needs" prepare_kubernetes || has_kubernetes=1
    ! can_have Slurm "what dockered-slurm needs" prepare || has_slurm=1
    ! can_have "Grid Engine" "what Grid Engine needs" prepare_gridengine || has_gridengine=1
    if [ "$has_kubernetes" = 1 ] && [ -z "${KUBECONFIG-}" ]; then
        stage "Kubernetes built" build_kubernetes
    fi
    on_other_clusters >"$notes/others" 2>&1 &
    others=$!
    [ "$has_slurm" = 0 ] || on_slurm
    # Beside the last tests on clusters, which mostly wait. Shown last.
    stage "this machine" host_tests >"$notes/machine" 2>&1 &
    machine=$!
    [ "$is_up" = 0 ] || stage "libraries that take an executor, on Slurm" clients_on_slurm
    say "on the other clusters, meanwhile"
    wait "$others"
    others=
    cat "$notes/others"
    [ -e "$notes/others.over" ] || echo "on other clusters: FAILED (their shell was ended)" >>"$notes/results"
    report
    wait "$machine"
    machine=
    grep -q "^this machine: " "$notes/results" || echo "this machine: FAILED (its shell was ended)" >>"$notes/results"
    cat "$notes/machine"
}

prepared=
stage environment scripts/environment test || { report; exit 1; }
case $what in
machine)
    usage
    stage "this machine" host_tests
    ;;
pythons) stage "other Pythons" pythons ;;
clients) stage "libraries that take an executor" clients ;;
slurm)
    can_have Slurm "what dockered-slurm needs" prepare || { report; exit 1; }
    on_slurm
    ;;
gridengine)
    can_have "Grid Engine" "what Grid Engine needs" prepare_gridengine || { report; exit 1; }
    on_gridengine
    ;;
kubernetes)
    if [ -n "${KUBECONFIG-}" ]; then
        on_kubernetes
    else
        can_have Kubernetes "what Kubernetes needs" prepare_kubernetes || { report; exit 1; }
        stage "Kubernetes built" build_kubernetes && on_kubernetes
    fi
    ;;
all) all ;;
esac
[ "$what" = all ] || [ ! -s "$notes/left_out" ] || report
grep -q FAILED "$notes/results"
[ $? = 1 ] # neither a failure nor no file
