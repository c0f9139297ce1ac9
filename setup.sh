#!/usr/bin/env bash
# Set-up: .venv with exactly the packages that requirements.lock names.
#
#   ./setup.sh        create or repair it; when it is up to date, do nothing (under a second)
#   ./setup.sh lock   resolve the pins of pyproject.toml anew into requirements.lock
#
# PYTHON=python3.12 chooses the interpreter. TUNING_VENV=/path/.venv uses, and never changes, the
# environment of another clone with the same lock.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

venv=${TUNING_VENV:-$PWD/.venv}
stamp=$venv/installed.txt # written last, so that an interrupted set-up is seen and done again
log=$venv/install.log
downloads=$venv/downloads # pip's temporary folder: a killed pip leaves it behind, the next set-up clears it
from_venv="" # pip, and on Python 3.11 setuptools
pip_install=(-m pip install --disable-pip-version-check --no-input --progress-bar off --no-compile)

fail() {
    echo "set-up: $*" >&2
    exit 1
}

check_git() { # DVC works only inside a git repository
    local reason
    command -v git >/dev/null || fail "git was not found; install it first."
    reason=$(git rev-parse --git-dir 2>&1) ||
        fail "DVC needs a git repository; get this project with 'git clone'. Git says: ${reason%%$'\n'*}"
}

find_python() { # the first usable interpreter; a pyenv shim with nothing behind it does not answer
    local candidate version found="" candidates=(python3 python3.13 python3.12 python3.11)
    [[ -z ${PYTHON:-} ]] || candidates=("$PYTHON")
    for candidate in "${candidates[@]}"; do
        version=$("$candidate" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || continue
        case $version in
        3.11 | 3.12 | 3.13)
            if "$candidate" -c 'import ensurepip, venv' 2>/dev/null; then
                echo "$candidate"
                return
            fi
            found+=", $candidate without its venv module (Debian, Ubuntu: apt install python$version-venv)"
            ;;
        *) found+=", $candidate which is $version" ;;
        esac
    done
    found=${found:2}
    fail "needs Python 3.11 to 3.13; found ${found:-no ${candidates[0]}}. Install one, or name it: PYTHON=/path/to/python3.12 make …"
}

describe_venv() { # what the stamp holds; a moved folder or a replaced interpreter changes it
    sha256sum <requirements.lock
    "$venv/bin/python" -V
    echo "$venv"
}

is_up_to_date() {
    [[ -f $stamp && $(<"$stamp") == "$(describe_venv 2>/dev/null)" ]] || return 1
    [[ -z ${PYTHON:-} || $("$PYTHON" -V 2>/dev/null) == "$("$venv/bin/python" -V)" ]]
}

show_progress() { # on one line of a terminal, or as a plain line every ten seconds
    local interval=10 line='%s\n'
    [[ ! -t 1 ]] || interval=2 line='\r\033[K%s'
    while sleep "$interval" &>/dev/null; do
        # shellcheck disable=SC2059
        printf "$line" "set-up: $(describe_progress 2>/dev/null), $SECONDS s" # files come and go
    done
}

describe_progress() { # megabytes move while a package of gigabytes does not
    local state num_fetched num_besides num_packages num_installed size
    read -r state num_fetched num_besides < <(read_log)
    num_packages=$(($(grep -c == requirements.lock) + num_besides))
    case $state in
    fetching) echo "fetching package $num_fetched of $num_packages, $(fetched)" ;;
    checking) echo "checking what the $num_packages packages need besides" ;;
    besides) echo "fetching what torch needs besides, package $num_besides, $(fetched)" ;;
    compiling) echo "compiling $num_packages packages" ;;
    installing)
        num_installed=$(list_installed | grep -vcxF "$from_venv" || true)
        size=$(du -sB 1000000 "$venv/lib" | cut -f 1)
        echo "installed $num_installed of $num_packages packages, $size MB"
        ;;
    esac
}

list_installed() {
    find "$venv"/lib/python*/site-packages -maxdepth 1 -name '*.dist-info' -printf '%f\n'
}

read_log() { # the state, files whose download has begun, and packages found besides those of the lock
    awk '
        /^# / { state = $2; next }
        /^Installing collected packages: / { state = "installing" }
        /^(Collecting|Processing) / && (state == "checking" || num_besides) {
            state = "besides"; num_besides += 1
        }
        /^ *(Downloading|Using cached|Processing) / {
            file = $1 == "Using" ? $3 : $2
            if (file ~ /[.](whl|tar[.]gz|zip)$/ && !seen[file]++) num_fetched += 1
        }
        END { print state, num_fetched + 0, num_besides + 0 }
    ' "$log"
}

fetched() { # pip has a second copy of the file that it fetches, which is not counted
    find "$downloads" \( -name '*.whl' -o -name '*.tar.gz' \) -printf '%s\n' |
        awk '{ size += $1 } END { printf "%d MB", size / 1e6 }'
}

explain() { # fail with the cause that the given output shows
    if [[ $1 == *"No space left"* ]] || (($(df --output=avail "$venv" | tail -n 1) < 1024)); then
        fail "the disk is full. Free some space (about 3 GB, 10 GB with CUDA) and run the same command again."
    fi
    fail "$2"$'\n'"$(grep -v '^WARNING: Location' <<<"$1" | tail -n 6)"
}

explain_pip() {
    explain "$(<"$log")" "pip could not install requirements.lock; all it said is in $log, the end is:"
}

install() {
    local python description output half progress pid pids=()
    python=$(find_python)
    mkdir -p "$venv"
    exec 9<"$venv" # one set-up at a time
    flock --nonblock 9 || {
        echo "set-up: waiting for another set-up of this folder."
        flock 9
    }
    ! is_up_to_date || return 0

    echo "set-up: $("$python" -V), $(grep -c == requirements.lock) packages into $venv"
    rm -f "$stamp"
    output=$("$python" -m venv --clear "$venv" 2>&1) || explain "$output" "could not create $venv:"
    description=$(describe_venv)
    from_venv=$(list_installed)
    trap 'kill $(jobs -p) 2>/dev/null || true' EXIT
    trap 'echo; fail "interrupted; run the same command again."' HUP INT TERM
    mkdir "$downloads"
    echo "# fetching" >"$log"
    show_progress 9<&- &
    progress=$!
    # A pip takes one core, so each of two installs a half of the lock, which names all that they
    # need; the third finds that in place and adds what this machine's torch brings besides (CUDA).
    for half in 0 1; do
        TMPDIR=$downloads "$venv/bin/python" "${pip_install[@]}" --no-deps \
            -r <(awk "NR % 2 == $half" requirements.lock) &>>"$log" &
        pids+=($!)
    done
    for pid in "${pids[@]}"; do
        wait "$pid" || explain_pip
    done
    echo "# checking" >>"$log"
    TMPDIR=$downloads "$venv/bin/python" "${pip_install[@]}" -r requirements.lock &>>"$log" ||
        explain_pip
    echo "# compiling" >>"$log"
    rm -rf "$downloads"
    # On all cores, where pip takes one. Like pip, go on where a package ships what is no Python.
    "$venv/bin/python" -m compileall -q -j 0 "$venv/lib" &>/dev/null || true
    echo "$description" >"$stamp"
    kill "$progress"
    wait "$progress" 2>/dev/null || true
    [[ ! -t 1 ]] || printf '\r\033[K'
    echo "set-up: done, $SECONDS s"
}

resolve() { # torch brings the CUDA packages that its build needs: they are not part of the lock
    local python
    python=$(find_python)
    scratch=$(mktemp -d)
    trap 'rm -rf "$scratch"' EXIT
    "$python" -m venv "$scratch/venv"
    "$scratch/venv/bin/python" - >"$scratch/pins" <<'EOF'
import tomllib

with open("pyproject.toml", "rb") as file:
    content = tomllib.load(file)
print(*content["project"]["dependencies"], *content["dependency-groups"]["dev"], sep="\n")
EOF
    "$scratch/venv/bin/python" "${pip_install[@]}" -qq -r "$scratch/pins"
    {
        echo "# Every package at its exact version, for Python 3.11 to 3.13 on Linux."
        echo "# Made by 'make lock' from the pins in pyproject.toml; do not edit."
        "$scratch/venv/bin/python" -m pip freeze --all |
            grep -vE '^(pip==|cuda-|nvidia-|triton==)' | sed 's/+.*//' | LC_ALL=C sort -f
    } >"$scratch/lock"
    cp "$scratch/lock" requirements.lock
}

check_git
if [[ ${1:-} == lock ]]; then
    resolve
elif is_up_to_date; then
    exit 0
elif [[ -n ${TUNING_VENV:-} ]]; then
    fail "TUNING_VENV=$venv does not hold what requirements.lock names; run make setup in its own folder, or unset it."
else
    install
fi
