#!/bin/sh
# Starts syncd on a rented pod without systemd and supervisord: docs/install.md, "Rented pod".
# To be called by the pod's start hook (/pre_start.sh, onstart, ...). It comes back at once and never
# fails, so that ComfyUI starts whatever becomes of syncd. On the volume, in $VOLUME, lie
#   config.toml   at least models_dir
#   api_token     the device key
#   syncd-*.whl   the program; of several the newest version is started
set -u

VOLUME=${VOLUME:-/workspace/syncd}
# On the disk of the container, which is lost with it: the volume is a network file system, which
# syncd refuses for its state. A new state costs a read of the models, and no upload.
HERE=${HERE:-/var/lib/syncd}
PROGRAM=$HERE/venv/bin/syncd

# Wheel by wheel, newest version first (0.10 is newer than 0.9, and than 0.10rc1).
newest_first() {
    "$HERE/venv/bin/python" - "$@" <<'END'
import sys
from pip._vendor.packaging.utils import InvalidWheelFilename, parse_wheel_filename

wheels = []
for path in sys.argv[1:]:
    try:
        wheels.append((parse_wheel_filename(path.rpartition("/")[2])[1], path))
    except InvalidWheelFilename as error:
        print(f"syncd: {path} is left out: {error}", file=sys.stderr)
for _, path in sorted(wheels, reverse=True):
    print(path)
END
}

# Leaves the newest program that can be installed in $PROGRAM, and says which ones cannot.
install_program() {
    set -- "$VOLUME"/syncd-*.whl
    if [ -e "$1" ]; then
        [ -x "$HERE/venv/bin/python" ] || python3 -m venv "$HERE/venv" || return
        newest_first "$@" >"$HERE/wheels"
        while read -r wheel; do
            [ -x "$PROGRAM" ] && [ "$wheel" = "$(cat "$HERE/installed")" ] && return
            if "$HERE/venv/bin/pip" install --quiet "$wheel"; then
                echo "$wheel" >"$HERE/installed"
                echo "syncd: $wheel is installed"
                return
            fi
            echo "syncd: $wheel could not be installed"
        done <"$HERE/wheels"
    fi
    [ -x "$PROGRAM" ] || { echo "syncd: there is no wheel in $VOLUME that can be installed"; return 1; }
    echo "syncd: no wheel in $VOLUME could be installed, the program of before is started"
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
    start || echo "syncd: not started"
) &
echo "syncd: starting, its log is $HERE/syncd.log"
