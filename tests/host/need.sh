# need.sh PACKAGE TEST: install a Debian package if the command TEST fails. Needs root and apt-get.
set -eu
sh -c "$2" >/dev/null 2>&1 && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "$1" >/dev/null
else
  echo "Install the package '$1' first, e.g. sudo apt-get install $1 ('$2' fails without it)." >&2
  exit 1
fi
