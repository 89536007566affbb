# Sourced by the shell scripts under tests/: where things live, and the content-keyed cache.
#
# VIRTFT_ASSETS overrides where assets are kept (default: target/assets of this tree).

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
assets=${VIRTFT_ASSETS:-$root/target/assets}
mkdir -p "$assets"

die() {
    echo "${0##*/}: $*" >&2
    exit 1
}

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

# content_key FILE-OR-TEXT...: a short key over file contents and plain words.
content_key() {
    local item
    for item in "$@"; do
        if [ -f "$item" ]; then sha256sum <"$item"; else printf '%s\n' "$item"; fi
    done | sha256sum | cut -c1-16
}

# is_current NAME KEY: true when the asset NAME was made from KEY.
is_current() {
    [ -e "$assets/$1" ] && [ "$(cat "$assets/$1.key" 2>/dev/null)" = "$2" ]
}

# mark_current NAME KEY: called last, so that an interrupted build is done again.
mark_current() {
    printf '%s\n' "$2" >"$assets/$1.key"
}

# Two builds of the same asset at once wait for each other.
lock_asset() {
    exec 8>"$assets/.$1.lock"
    flock 8
}

work_dir=
# make_work_dir: a temporary directory in $work_dir, removed at exit.
make_work_dir() {
    work_dir=$(mktemp -d "$assets/work.XXXXXX")
    trap 'rm -rf "$work_dir" 2>/dev/null || as_root rm -rf --one-file-system "$work_dir"' EXIT
}
