# Shared by scripts/install-head and scripts/install-node. To be sourced by bash after setup.sh.
#
# What they put where:
#   /opt/clusterray/venv        the programs, owned by root
#   /etc/clusterray             server.yaml, node.yaml, and on a node the join token
#   /etc/systemd/system         the unit
#   /var/lib/clusterray         what the daemons keep, owned by the user clusterray

PREFIX=/opt/clusterray
CONFIG=/etc/clusterray
UNITS=/etc/systemd/system
STATE=/var/lib/clusterray

need_root() {
    [ "$(id -u)" = 0 ] || die "this needs root: say sudo before it"
}

# What was asked for cannot be meant: 2, as with every other command.
usage_fault() {
    say "$(basename "$0"): $*; $(basename "$0") --help tells more"
    exit 2
}

make_user() {
    getent group clusterray >/dev/null || groupadd --system clusterray
    getent passwd clusterray >/dev/null || useradd --system --gid clusterray \
        --home-dir "$STATE" --no-create-home --shell /usr/sbin/nologin clusterray
    install -d -m 0755 -o root -g root "$PREFIX" "$CONFIG"
    install -d -m 0755 -o clusterray -g clusterray "$STATE"
}

# The Python behind a name, links and venvs seen through; nothing if it does not run.
which_python() {
    "$1" -c 'import os, sys; print(os.path.realpath(sys.executable), sys.version_info[:2])' \
        2>/dev/null || true
}

# install_programs [head]: installs this checkout, also over an older one of the same version.
install_programs() {
    local source extra=${1:-}
    # The system's own Python, rather than what root's PATH may find in a home folder.
    if [ -z "${PYTHON:-}" ] && [ -x /usr/bin/python3 ]; then
        PYTHON=/usr/bin/python3
    fi
    choose_python
    case $(which_python "$PYTHON") in
        /root/* | /home/*)
            die "$PYTHON lives in a home folder, where the service cannot reach it; install python3 by apt-get"
            ;;
    esac
    need_venv_module
    if [ "$(which_python "$PREFIX/venv/bin/python")" != "$(which_python "$PYTHON")" ] ||
        ! "$PREFIX/venv/bin/python" -c 'import pip' 2>/dev/null; then
        say "making the venv in $PREFIX/venv"
        "$PYTHON" -m venv --clear "$PREFIX/venv"
    fi
    # From a copy: pip leaves its litter beside what it builds, and would build it in again.
    source=$(mktemp -d "${TMPDIR:-/tmp}/clusterray-install.XXXXXX")
    cp -R "$ROOT/clusterray" "$ROOT/pyproject.toml" "$ROOT/README.md" "$ROOT/LICENSE" "$source"
    say "installing ClusterRay into $PREFIX/venv"
    if ! "$PREFIX/venv/bin/python" -m pip install --quiet "$source" >&2 ||
        ! "$PREFIX/venv/bin/python" -m pip install --quiet --no-deps --force-reinstall "$source" >&2; then
        rm -rf "$source"
        die "pip could not install ClusterRay into $PREFIX/venv; its own words are above"
    fi
    # Not everywhere is there a wheel of OpenImageIO, and nobody wants to build it.
    if [ -n "$extra" ] &&
        ! "$PREFIX/venv/bin/python" -m pip install --quiet --only-binary OpenImageIO,numpy "$source[$extra]" >&2; then
        say "there is no OpenImageIO for this machine: OpenEXR pictures will be refused, all others work"
    fi
    rm -rf "$source"
}

# install_config ROLE: the commented example becomes the configuration, unless there is one.
install_config() {
    local file=$CONFIG/$1.yaml
    if [ -e "$file" ]; then
        say "kept $file as it is"
        return
    fi
    install -m 0644 -o root -g root "$ROOT/examples/clusterray-$1.yaml" "$file"
    say "wrote $file"
}

# set_key FILE KEY VALUE: writes the line "KEY: VALUE" in place of the one that is there, commented
# out or not. VALUE must need no escaping in double quotes.
set_key() {
    local file=$1 key=$2 value=$3 line
    line="$key: \"$value\""
    if grep -q "^$key:" "$file"; then
        sed -i "s|^$key:.*|$line|" "$file"
    elif grep -q "^#$key:" "$file"; then
        sed -i "0,/^#$key:.*/s||$line|" "$file"
    else
        printf '%s\n' "$line" >>"$file"
    fi
}

systemd_runs() { [ -d /run/systemd/system ]; }

# install_wall: opens in the node's unit what bubblewrap needs, where the kernel has no Landlock.
install_wall() {
    local place=$UNITS/clusterray-node.service.d
    if has_landlock "$PREFIX/venv/bin/python"; then
        rm -f "$place/bubblewrap.conf"
        return
    fi
    install -d -m 0755 "$place"
    install -m 0644 -o root -g root "$ROOT/systemd/clusterray-node-bubblewrap.conf" \
        "$place/bubblewrap.conf"
    say "this kernel has no Landlock, so POV-Ray runs behind bubblewrap: wrote $place/bubblewrap.conf"
}

# install_unit ROLE START: puts the unit in place and, with START=yes, starts it now and at boot.
install_unit() {
    local unit=clusterray-$1.service start=$2
    install -d -m 0755 "$UNITS"
    install -m 0644 -o root -g root "$ROOT/systemd/$unit" "$UNITS/$unit"
    say "wrote $UNITS/$unit"
    if command -v systemd-analyze >/dev/null; then
        systemd-analyze verify "$UNITS/$unit" >&2 || die "systemd does not like $UNITS/$unit"
    fi
    if ! systemd_runs; then
        say "systemd does not run here, so nothing was started; when it does:"
        say "    systemctl daemon-reload && systemctl enable --now $unit"
        return
    fi
    systemctl daemon-reload
    if [ "$start" != yes ]; then
        say "not started; that would be: systemctl enable --now $unit"
        return
    fi
    systemctl enable --quiet "$unit"
    # Restart and not start: an update has to take effect.
    systemctl restart "$unit" ||
        die "$unit did not start; journalctl -u $unit says why"
    say "$unit runs, and starts with the machine"
}

# uninstall ROLE: takes the unit away, and the programs with the last of the two.
uninstall() {
    local unit=clusterray-$1.service
    if systemd_runs && [ -e "$UNITS/$unit" ]; then
        systemctl disable --now --quiet "$unit" || true
    fi
    rm -f "$UNITS/$unit" "$UNITS/multi-user.target.wants/$unit"
    rm -f "$UNITS/$unit.d/bubblewrap.conf"
    rmdir "$UNITS/$unit.d" 2>/dev/null || true
    if systemd_runs; then
        systemctl daemon-reload
    fi
    if [ ! -e "$UNITS/clusterray-server.service" ] && [ ! -e "$UNITS/clusterray-node.service" ]; then
        rm -rf "$PREFIX"
        say "took away $unit and $PREFIX"
    else
        say "took away $unit; the programs stay for the other one"
    fi
    say "left as they are: $CONFIG, $STATE and the user clusterray"
}
