#!/bin/sh
# Starts syncd on a rented pod without systemd and supervisord; see docs/install.md, "Rented pod".
# Call it from the pod's start hook (/pre_start.sh, onstart, ...). It returns at once and never fails,
# so ComfyUI starts even if syncd does not. $VOLUME must contain
#   config.toml   with at least models_dir
#   api_token     the device key
#   syncd-*.whl   the program; the newest version is started
set -u

VOLUME=${VOLUME:-/workspace/syncd}
# On the container's own disk: the volume is a network file system, which syncd refuses for its state.
# After the loss of the state, syncd reads all models once and uploads nothing again.
HERE=${HERE:-/var/lib/syncd}
PROGRAM=$HERE/venv/bin/syncd

# Print the wheels, newest version first (0.10 is newer than 0.9 and than 0.10rc1).
newest_first() {
    "$HERE/venv/bin/python" - "$@" <<'END'
import sys
from pip._vendor.packaging.utils import InvalidWheelFilename, parse_wheel_filename

wheels = []
for path in sys.argv[1:]:
    try:
        wheels.append((parse_wheel_filename(path.rpartition("/")[2])[1], path))
    except InvalidWheelFilename as error:
        print(f"syncd: {path} is ignored: {error}", file=sys.stderr)
for _, path in sorted(wheels, reverse=True):
    print(path)
END
}

# Install the newest wheel that can be installed, and print those that cannot.
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
    echo "syncd: no wheel in $VOLUME could be installed; starting the previous program"
}

run() {
    while :; do
        nice -n 10 "$PROGRAM" --config "$VOLUME/config.toml"
        code=$?
        # A clean exit, or one that another start would repeat: usage, operator must act,
        # configuration.
        case $code in 0 | 2 | 77 | 78 | 130 | 143) break ;; esac
        echo "syncd: exit code $code, restarting in 15 seconds"
        sleep 15
    done
    echo "syncd: exit code $code, not restarting"
}

start() {
    # A network file system may not support mode 0600, and syncd refuses a key that others can read.
    mkdir -p "$HERE/credentials" || return
    (umask 077 && cat "$VOLUME/api_token" >"$HERE/credentials/api_token") || return
    install_program || return
    # A pod gets only a few seconds between TERM and KILL.
    export SYNCD_STATE_DIR="$HERE" SYNCD_UPLOAD__SHUTDOWN_GRACE_S=5
    run
}

mkdir -p "$HERE"
# Redirect with exec inside the subshell. Otherwise the caller's output stays open, and the caller may
# wait for its end.
(
    exec >>"$HERE/syncd.log" 2>&1 </dev/null
    start || echo "syncd: not started"
) &
echo "syncd: starting, its log is $HERE/syncd.log"
