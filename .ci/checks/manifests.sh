#!/usr/bin/env bash
# A rendered chart → the plain manifests of deploy/kubernetes.
set -euo pipefail
cat <<'HEAD'
# Plain manifests, rendered from deploy/helm/wdt-connector with its default values (.ci/checks/render writes this file anew).
#
#   kubectl create secret generic wdt-connector --from-literal=http-token=… --from-file=flagship=./flagship-secret
#   # fill in the ConfigMap below, then
#   kubectl apply -f wdt-connector.yaml
HEAD
sed -e '/^# Source: /d' -e '/app.kubernetes.io\/managed-by: Helm/d' -e 's/[ \t]*$//'
