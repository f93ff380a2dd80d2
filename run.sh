#!/usr/bin/env bash
# ./run.sh [flags]      make .venv, install, start the service in debug mode (flags: ./run.sh --help)
# ./run.sh test [args]  install what the tests need and run the whole suite (args go to pytest)
# ./run.sh setup        only install what tests and tools need
# ./run.sh extras       only install every extra: other servers and providers, telemetry
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

fail() {
    printf 'error: %s\n' "$@" >&2
    exit 1
}

find_python() {
    local name seen=""
    for name in python3.14 python3.13 python3.12 python3.11 python3; do
        if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$name"
            return
        fi
        seen="${seen:-$("$name" --version 2>/dev/null || true)}"
    done
    fail "Python 3.11 or newer is needed; found ${seen:-none}"
}

make_venv() {
    if .venv/bin/python -c '' 2>/dev/null; then return; fi
    local python
    python=$(find_python)
    rm -rf .venv
    "$python" -m venv .venv >.venv.log 2>&1 || fail "could not make .venv (Debian: apt install python3-venv):" "$(tail -n 2 .venv.log)"
    rm -f .venv.log
}

# install FILE: what the hash-pinned requirements FILE names, unless it has been installed before.
install() {
    local file=$1 stamp log=.venv/install.log
    stamp=".venv/installed-$(basename "$file")-$(cksum <"$file" | tr ' ' '-')"
    if [ -e "$stamp" ]; then return; fi
    echo "Installing $file ..."
    if install_with_uv "$file" >"$log" 2>&1 || install_with_pip "$file" >>"$log" 2>&1; then
        rm -f .venv/installed-"$(basename "$file")"-*
        touch "$stamp"
        return
    fi
    if grep -qiE 'dns error|name resolution|connection refused|failed to fetch|network|timed out|max retries' "$log"; then
        fail "the packages could not be downloaded: is there a network? (all of it: $log)" "$(tail -n 1 "$log")"
    fi
    fail "the install failed (all of it: $log):" "$(tail -n 3 "$log")"
}

install_with_uv() {
    local uv
    uv=$(command -v uv || true)
    if [ -z "$uv" ]; then
        uv=.venv/bin/uv
        [ -x "$uv" ] || install_uv || return 1
    fi
    "$uv" pip install --python .venv/bin/python --compile-bytecode --require-hashes -r "$1"
}

# Without looking for what the packages need: the file names all of it, and pip 23 takes the newest of a package
# that another one wants with an extra, whatever the file says.
install_with_pip() {
    .venv/bin/python -m pip install --no-deps --require-hashes -r "$1"
}

# The one that is pinned for development, by pip.
install_uv() {
    local pin=.venv/uv.txt
    sed -n '/^uv==/,/[^\\]$/p' requirements/dev.txt >"$pin"
    .venv/bin/python -m pip install --quiet --require-hashes -r "$pin"
}

# What stands at the top of this file.
usage() {
    local line
    grep '^# \./run\.sh' run.sh | while read -r line; do echo "${line#\# }"; done
    echo
}

# Whether the flags or the environment name an env file.
names_env() {
    local flag
    for flag in "$@"; do
        case $flag in --env | --env=*) return ;; esac
    done
    [ -n "${APP_ENV:-}" ]
}

make_venv
if [ "${1:-}" = setup ]; then
    install requirements/dev.txt
    exit
fi
if [ "${1:-}" = test ]; then
    shift
    install requirements/dev.txt
    # Much of a live test is waiting: three at a time, the tests of a file in one process.
    exec .venv/bin/python -m pytest -n 3 --dist loadfile "$@"
fi
if [ "${1:-}" = extras ]; then
    install requirements/extras.txt
    exit
fi
install requirements/runtime.txt
if [ -e .local.env ] && ! names_env "$@"; then set -- --env local "$@"; fi
case " $* " in *" --help "* | *" -h "*) usage ;; *) echo "Starting in debug mode (--help lists the flags) ..." ;; esac
exec .venv/bin/python -m src --debug "$@"
