#!/usr/bin/env bash
# Build the image where there is no Docker daemon: mmdebstrap makes a Debian with Python from apt alone, and
# buildah builds deploy/Dockerfile on it. As root, on Debian:
#
#   apt install mmdebstrap buildah
#   deploy/image.sh [NAME]          builds NAME (localhost/freshet) and prints its size
#
# PIP_ARGS goes to pip, EXTRAS chooses pyproject.toml's (formats). With a Docker daemon none of this is needed: docker build -f deploy/Dockerfile .
set -euo pipefail

name=${1:-localhost/freshet}
base=localhost/freshet-base
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

for tool in mmdebstrap buildah; do
    command -v "$tool" >/dev/null || { echo "$0 needs $tool: apt install mmdebstrap buildah" >&2; exit 2; }
done
[ "$(id -u)" = 0 ] || { echo "$0 must run as root: mmdebstrap makes the files of a system" >&2; exit 2; }

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

if ! buildah images --quiet "$base" >/dev/null 2>&1; then
    # shellcheck disable=SC1091
    release=$(. /etc/os-release && echo "$VERSION_CODENAME")
    mmdebstrap --quiet --variant=minbase --include=python3,python3-venv,ca-certificates \
        --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
        --dpkgopt='path-exclude=/usr/share/locale/*' "$release" "$work/base.tar"
    container=$(buildah from scratch)
    buildah add --quiet "$container" "$work/base.tar" / >/dev/null
    buildah commit --quiet --rm "$container" "$base" >/dev/null
fi

# A network that inspects TLS has certificates of its own; pip has to trust them while it builds.
volumes=()
if [ -n "${SSL_CERT_FILE:-}" ]; then
    volumes+=(--volume "$SSL_CERT_FILE:/etc/ssl/certs/ca-certificates.crt:ro")
    PIP_ARGS="--cert /etc/ssl/certs/ca-certificates.crt ${PIP_ARGS:-}"
fi

# docker: the format that keeps health checks
buildah build --isolation chroot --format docker --pull=never --layers=false "${volumes[@]}" \
    --build-arg "BASE=$base" --build-arg "PIP_ARGS=${PIP_ARGS:-}" --build-arg "EXTRAS=${EXTRAS:-formats}" \
    --ignorefile "$root/deploy/Dockerfile.dockerignore" --file "$root/deploy/Dockerfile" --tag "$name" "$root"
buildah images --format '{{.Name}}: {{.Size}}' "$name"
