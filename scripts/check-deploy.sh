#!/usr/bin/env bash
# Installs what is missing, and checks deploy/: the alerts and the dashboard with promtool, the manifests and the chart
# with kustomize, helm, the schemas of Kubernetes and the plugin's own check. Needs no cluster. Linux on amd64.
#
#   scripts/check-deploy.sh [more arguments of pytest]
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

install_packages "${packages_build[@]}" "${packages_deploy[@]}"
build release metamorphosis
cd "$root"
prepare_venv venv-deploy test/deploy/requirements.txt --no-deps
say "deploy/: alerts, dashboard, manifests, chart"
export PYTHONDONTWRITEBYTECODE=1
cd test/deploy
"$root/build/venv-deploy/bin/python" -m pytest "$@"
