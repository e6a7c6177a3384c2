# Packages and the venv, for scripts/test, scripts/demo and the installers. To be sourced by bash.
#
# Callers have set -euo pipefail. Everything said here goes to stderr.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
VENV=$ROOT/.venv

say() { printf '%s\n' "$*" >&2; }

die() {
    say "$(basename "$0"): $*"
    exit 1
}

# What shows that a Debian package is there; true also where it was put without dpkg.
have_package() {
    case $1 in
        povray) command -v povray >/dev/null ;;
        povray-includes) [ -e /usr/share/povray-3.7/include/colors.inc ] || have_by_dpkg "$1" ;;
        povray-examples) [ -e /usr/share/doc/povray/examples/advanced/abyss.pov ] ;;
        bubblewrap) command -v bwrap >/dev/null ;;
        chromium) command -v chromium >/dev/null ;;
        iproute2) command -v ip >/dev/null || [ -x /usr/sbin/ip ] || [ -x /sbin/ip ] ;;
        systemd) command -v systemd-analyze >/dev/null ;;
        python3) command -v python3 >/dev/null ;;
        *) have_by_dpkg "$1" ;;
    esac
}

have_by_dpkg() {
    command -v dpkg-query >/dev/null &&
        dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null | grep -qx installed
}

# need_packages NAME...: installs what is missing, or says in one sentence what to install.
need_packages() {
    local name missing=()
    for name in "$@"; do
        have_package "$name" || missing+=("$name")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        die "please install ${missing[*]} first (on Debian: sudo apt-get install ${missing[*]})"
    fi
    say "installing ${missing[*]}"
    apt_get update
    # Slim images leave out /usr/share/doc, which is where POV-Ray's example scenes live; a package
    # that dpkg believes is there has then to be unpacked again.
    apt_get install -y --no-install-recommends --reinstall \
        -o 'Dpkg::Options::=--path-include=/usr/share/doc/povray/*' "${missing[@]}"
    for name in "${missing[@]}"; do
        have_package "$name" || die "$name is still missing after apt-get install $name"
    done
}

apt_get() {
    DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0 "$@" </dev/null >&2
}

# choose_python: sets PYTHON to a Python of 3.11 or newer, or says what to install.
choose_python() {
    if [ -z "${PYTHON:-}" ]; then
        need_packages python3
        PYTHON=python3
    fi
    "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
        die "$PYTHON is not a Python of 3.11 or newer; install one and name it: PYTHON=python3.12 $0"
}

# need_venv_module: Debian's Python comes without what makes venvs.
need_venv_module() {
    "$PYTHON" -c 'import venv, ensurepip' 2>/dev/null && return 0
    need_packages python3-venv
    "$PYTHON" -c 'import venv, ensurepip' 2>/dev/null ||
        die "$PYTHON cannot make a venv; install its venv module"
}

# need_venv EXTRA: makes $VENV with this checkout and its dependencies ("" or "dev"); quick if it is
# there already and neither pyproject.toml nor Python has changed since.
need_venv() {
    local extra=$1 stamp=$VENV/.clusterray-stamp wanted
    choose_python
    wanted="$("$PYTHON" -c 'import sys; print(sys.version)' | tr '\n' ' ')$(cksum <"$ROOT/pyproject.toml") $ROOT"
    if [ -x "$VENV/bin/python" ] && "$VENV/bin/python" -c '' 2>/dev/null; then
        # The dev extra holds everything that the plain one does.
        case "$(cat "$stamp" 2>/dev/null || true)" in
            "$wanted dev" | "$wanted $extra") return 0 ;;
        esac
    fi
    need_venv_module
    say "making the venv in $VENV"
    rm -f "$stamp"
    "$PYTHON" -m venv --clear "$VENV"
    "$VENV/bin/python" -m pip install --quiet --editable "$ROOT${extra:+[$extra]}" >&2 ||
        die "pip could not install ClusterRay's dependencies into $VENV; its own words are above"
    printf '%s %s\n' "$wanted" "$extra" >"$stamp"
}

# has_landlock PYTHON: whether this kernel has the wall that a node puts around POV-Ray.
has_landlock() {
    "$1" -I -S -c 'import sys; sys.path.insert(0, sys.argv[1]); import landlock; landlock.abi()' \
        "$ROOT/clusterray/node" 2>/dev/null
}
