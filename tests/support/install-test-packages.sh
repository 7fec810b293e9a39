#!/bin/sh
# Install the system packages that the tests need: Java 17 and Maven for a real Kafka broker, Prometheus with promtool,
# and systemd's tools. Do nothing if all are installed.
set -eu

missing=""
need() { command -v "$1" >/dev/null 2>&1 || missing="$missing $2"; }
need java openjdk-17-jre-headless
need mvn maven
need prometheus prometheus
need promtool prometheus
need systemd-analyze systemd
need systemd-sysusers systemd
if [ -z "$missing" ]; then exit 0; fi

if ! command -v apt-get >/dev/null 2>&1; then
    echo "The tests need Java 17, Maven, Prometheus and systemd's tools; install:$missing" >&2
    exit 1
fi
as_root=""
[ "$(id -u)" = 0 ] || as_root="sudo"

# Debian starts a service as soon as its package is installed, but the tests start their own Prometheus. If the machine
# already has a policy file, that file stays as it is.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    # shellcheck disable=SC2064 # expanded now, on purpose
    trap "$as_root rm -f $policy" EXIT
    printf '#!/bin/sh\nexit 101\n' | $as_root tee "$policy" >/dev/null
    $as_root chmod +x "$policy"
fi
$as_root apt-get update -qq
# shellcheck disable=SC2086 # a list of package names
$as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing
