#!/usr/bin/env bash
# docker-compose on this repository's docker-compose.yml, with the engine of engine.sh, under a project name and on ports of its own:
#   e2e/docker/compose.sh up --build -d
#   e2e/docker/compose.sh port gateway 8080      the address on this machine
#   e2e/docker/compose.sh down --volumes
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
eval "$("$here/engine.sh")"
export GATEWAY_PORT=${GATEWAY_PORT:-0} ISSUER_PORT=${ISSUER_PORT:-0} # 0: any that is free
compose=(docker-compose)
if docker compose version >/dev/null 2>&1; then compose=(docker compose); fi
exec "${compose[@]}" --project-name omnia-gateway-e2e --file "$here/../../docker-compose.yml" "$@"
