#!/bin/sh
# Random programs on Debian's 5.10, 6.1 and 6.12 in QEMU guests, held against the model. Not part of CI: it needs QEMU,
# the kernels, and an hour.
#
#   tests/nightly/emulated.sh ORACLE [PROGRAMS] [SEED] [RELEASE...]
#
# ORACLE is the recorder's folder (src/, qemu/, get_kernels.sh, compare.py); it is copied, not written to. Differing
# programs and their recordings stay in nightly/RELEASE/. Exit status 1 if anything differs.
set -eu
oracle=${1:?the recorder\'s folder is wanted: emulated.sh ORACLE [PROGRAMS] [SEED] [RELEASE...]}
programs=${2:-1000} seed=${3:-$(date +%Y%m%d)}
[ $# -gt 3 ] && shift 3 || set -- 5.10 6.1 6.12
for tool in qemu-system-x86_64 busybox cpio zstd mke2fs gcc; do
    command -v $tool > /dev/null || {
        echo "$tool is missing: apt-get install --no-install-recommends qemu-system-x86 busybox-static cpio zstd e2fsprogs gcc" >&2
        exit 2
    }
done
out=$PWD/nightly
work=$out/oracle
if [ ! -x "$work/mlock_oracle" ]; then
    mkdir -p "$work/kernels/x"
    cp -r "$oracle/." "$work/" && chmod -R u+w "$work"
    (cd "$work" && gcc -O2 -static -w -o mlock_oracle src/mlock_oracle.c && ./get_kernels.sh)
    for package in "$work"/kernels/*.deb; do
        dpkg-deb -x "$package" "$work/kernels/x/$(echo "$package" | sed -E 's/.*linux-image-([0-9]+\.[0-9]+).*/\1/')"
    done
fi
status=0
for release in "$@"; do
    echo "== $release, seed $seed"
    "${PYTHON:-python3}" -m fastmlock fuzz --programs "$programs" --seed "$seed" --against "$release-emulated" \
        --oracle "$work" -o "$out" || status=1
done
exit $status
