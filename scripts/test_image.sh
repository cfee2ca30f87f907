#!/usr/bin/env bash
# Builds the image of the Dockerfile in chroots, where no container engine is at hand, and serves the demo
# model from it the way the manifests of `moesaic deploy` do. Takes minutes: it installs a Debian and
# compiles everything. Not part of `make test`.
#
#   sudo scripts/test_image.sh [FOLDER [TARGET]]   FOLDER keeps the Debian between runs; default: a temporary
#                                                  one. TARGET: cpu (default), or cuda, which serves on the
#                                                  CPU here where there is no card
set -euo pipefail
cd "$(dirname "$0")/.."
if [[ $(id -u) != 0 ]]; then
  echo "test_image: skipped: chroot needs root"
  exit 0
fi
if ! command -v debootstrap >/dev/null; then
  echo "test_image: skipped: debootstrap is not installed (apt-get install debootstrap)"
  exit 0
fi
if ! unshare --mount true 2>/dev/null; then
  echo "test_image: skipped: this machine does not let root make a mount namespace"
  exit 0
fi
work=${1:-$(mktemp -d /tmp/moesaic-image.XXXXXX)}
mkdir -p "$work"
# Only what an earlier run left, and never across a mount: the stages had some.
clear_stages() { rm -rf --one-file-system "$work"/stage-*; }
clear_stages
# A namespace of its own: whatever is mounted goes with the process, also when it is killed.
code=0
unshare --mount --propagation private python3 scripts/image_in_chroot.py "$work" "${2:-cpu}" || code=$?
clear_stages
[[ -n ${1:-} ]] || rm -rf --one-file-system "$work"
exit $code
