#!/bin/sh
# stand_ins.sh BUILDER_IMAGE RUNTIME_IMAGE: makes images under these names, for machines that can't pull them.
#
# Both are Debian 13 with its own Python 3.13, as the real runtime has it. The runtime has no shell, no package manager
# and no setuid file, so what runs in it needs none.
set -eu
builder=$1 runtime=$2
tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT

commit() {
    container=$(buildah from scratch)
    buildah copy --quiet "$container" "$tree" / >/dev/null
    buildah config --env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$container"
    buildah commit --quiet --rm "$container" "$1" >/dev/null
}

debootstrap --variant=minbase --include=python3,python3-pip,ca-certificates trixie "$tree" >"$tree.log" 2>&1 || {
    tail -n 3 "$tree.log" >&2
    exit 1
}
rm -rf "$tree.log" "${tree:?}/var/cache/apt/archives" "${tree:?}/dev" "${tree:?}/proc" "${tree:?}/sys"
mkdir "$tree/dev" "$tree/proc" "$tree/sys"
rm -f "$tree/usr/lib/python3.13/EXTERNALLY-MANAGED"
commit "$builder"

for name in sh bash dash rbash apt apt-get apt-cache apt-config apt-mark dpkg dpkg-deb dpkg-split dpkg-query perl pip pip3; do
    rm -f "$tree/usr/bin/$name" "$tree/bin/$name"
done
rm -rf "$tree/usr/lib/python3/dist-packages" "$tree/var/lib/dpkg" "$tree/var/lib/apt" "$tree/usr/lib/apt"
find "$tree" -xdev -type f -perm /6000 -delete
commit "$runtime"
