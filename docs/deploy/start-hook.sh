#!/bin/sh
# Starts syncd on a rented pod without systemd and supervisord: docs/install.md, "Rented pod".
# To be called by the pod's start hook (/pre_start.sh, onstart, ...). It comes back at once and never
# fails, so that ComfyUI starts whatever becomes of syncd. On the volume, in $VOLUME, lie
#   config.toml   at least models_dir
#   api_token     the device key
#   syncd-*.whl   the program
set -u

VOLUME=${VOLUME:-/workspace/syncd}
# On the disk of the container, which is lost with it: the volume is a network file system, which
# syncd refuses for its state. A new state costs a read of the models, and no upload.
HERE=${HERE:-/var/lib/syncd}
PROGRAM=$HERE/venv/bin/syncd

install_program() {
    [ -x "$PROGRAM" ] && return
    python3 -m venv "$HERE/venv" && "$HERE/venv/bin/pip" install --quiet "$VOLUME"/syncd-*.whl
}

run() {
    while :; do
        nice -n 10 "$PROGRAM" --config "$VOLUME/config.toml"
        code=$?
        # An orderly end, or one that the same start would have again: usage, a person needed,
        # configuration.
        case $code in 0 | 2 | 77 | 78 | 130 | 143) break ;; esac
        echo "syncd: exit code $code, started again in 15 seconds"
        sleep 15
    done
    echo "syncd: exit code $code, not started again"
}

start() {
    # A network file system may not keep a mode of 0600, and syncd takes no key that others can read.
    mkdir -p "$HERE/credentials" || return
    (umask 077 && cat "$VOLUME/api_token" >"$HERE/credentials/api_token") || return
    install_program || return
    # Few seconds pass here between TERM and KILL.
    export SYNCD_STATE_DIR="$HERE" SYNCD_UPLOAD__SHUTDOWN_GRACE_S=5
    run
}

mkdir -p "$HERE"
# exec, and no redirection of the call: that would keep the caller's output open, and it may wait for
# its end.
(
    exec >>"$HERE/syncd.log" 2>&1 </dev/null
    start
) &
echo "syncd: starting, its log is $HERE/syncd.log"
