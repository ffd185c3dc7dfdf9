#!/bin/sh
# Makes btrfs.img.zst, the empty file system that every volume starts as, and records its hash.
# Needs btrfs-progs and zstd; users of the platform need neither. The size is the smallest that mkfs.btrfs accepts
# for separate data and metadata; a volume grows to its own size when it is first mounted.
set -eu
cd "$(dirname "$0")"
image=$(mktemp)
trap 'rm -f "$image"' EXIT
truncate -s 47185920 "$image"
mkfs.btrfs --quiet --metadata single --data single --nodesize 16k --sectorsize 4k \
    --features no-holes --runtime-features free-space-tree "$image"
zstd --quiet --force --ultra -22 "$image" -o btrfs.img.zst
chmod 644 btrfs.img.zst
sha256sum btrfs.img.zst > SHA256
cat SHA256
