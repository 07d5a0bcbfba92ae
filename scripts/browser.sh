#!/usr/bin/env bash
# Brings what the tests in a browser need: Chromium from the system's packages, and the packages of the page itself, among
# them axe-core. Where one of them cannot be had it says why, and the tests that need it are skipped and say so too.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

browser() {
  for name in chromium chromium-browser google-chrome; do
    if command -v "$name" >/dev/null; then
      return
    fi
  done
  if ! command -v apt-get >/dev/null; then
    echo "browser: no Chromium, and no apt-get to install it with; the tests in a browser are skipped" >&2
    return
  fi
  if [ "$(id -u)" -ne 0 ]; then
    echo "browser: no Chromium, and only root may install it (apt-get install chromium); the tests in a browser are skipped" >&2
    return
  fi
  echo "browser: installing Chromium" >&2
  export DEBIAN_FRONTEND=noninteractive
  { apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium fonts-liberation; } >&2 ||
    echo "browser: Chromium could not be installed; the tests in a browser are skipped" >&2
}

packages() {
  if ! command -v npm >/dev/null; then
    echo "browser: no npm, so no axe-core; accessibility is NOT tested" >&2
    return
  fi
  make --no-print-directory -s -C "$root" services/gateway/ui/node_modules/.package-lock.json >&2 ||
    echo "browser: axe-core could not be installed; accessibility is NOT tested" >&2
}

browser
packages
