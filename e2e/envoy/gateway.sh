#!/usr/bin/env bash
# Starts in place of a gateway, for vectest: the gateway itself with the Envoys of mesh.yaml in front, which listen where the configuration says.
# GATEWAY, ENVOY and MESH are put in by the test, because vectest passes no variables on.
set -u
file=$3 port=$(sed -n 's/^listen: 127\.0\.0\.1://p' "$3")
sed -i "s/^listen: .*/listen: 127.0.0.2:$port/" "$file"
grep -q '^trustedProxies:' "$file" || echo 'trustedProxies: [127.0.0.6/32]' >>"$file"
sed -e "s/INGRESS_HOST/127.0.0.1/; s/GATEWAY_HOST/127.0.0.2/; s/SIDECAR_HOST/127.0.0.3/; s/ADMIN_HOST/127.0.0.4/" \
  -e "s/[A-Z]*_PORT/$port/g" MESH >"$file.envoy.yaml"
ENVOY --config-path "$file.envoy.yaml" --use-dynamic-base-id --concurrency 1 --log-level off 2>/dev/null &
envoy=$!
GATEWAY "$@" &
gateway=$!
trap 'kill -TERM $gateway' TERM
wait $gateway
status=$?
while kill -0 $gateway 2>/dev/null; do wait $gateway; status=$?; done
kill -KILL $envoy
exit $status
