#!/bin/sh
# Print ../haproxy/haproxy.cfg with the pods of mlxserve.yaml as its replicas; those that do not run
# (autoscaling.yaml has up to eight) are unknown names, and count as down.
set -eu
cd "$(dirname "$0")"

grep -v '^    server r' ../haproxy/haproxy.cfg
for pod in 0 1 2 3 4 5 6 7; do
    echo "    server r$pod mlxserve-$pod.mlxserve-replicas:8000 resolvers cluster init-addr none"
done
cat <<END

resolvers cluster
    parse-resolv-conf
    hold valid 5s
END
