#!/usr/bin/env bash
# Let a site into a federation: a token for it, and, when it has joined, its place in the roster.
set -euo pipefail

usage() {
    cat <<'USAGE'
Usage: add-site.sh invite DIR SITE HUB TOKENFILE
       add-site.sh admit DIR SITE [ROSTER]

invite makes a token with which SITE joins once, within a day, and says what the site has to type. HUB is HOST:PORT of
`pqfl ca serve`, which has to run. TOKENFILE gets the token; it must not exist yet. It is a secret: hand it over as you
would a password.

admit has the root sign the next roster, with SITE in it; it needs root.key in DIR, shows what changes, and asks.
Compare the words that it shows with those that `pqfl join` showed at the site. ROSTER is written too.

DIR is the authority's folder, SITE 1 to 63 of a-z, 0-9 and '-'.

Environment:
  PQFL           the command to run, perhaps with arguments; default: pqfl
  PQFL_EXPIRES   how long the token can be used; default: 24h
  PQFL_YES       1: do not ask
USAGE
}

case "${1-} $#" in
    -h\ * | --help\ *) usage; exit 0 ;;
    invite\ 5 | admit\ 3 | admit\ 4) ;;
    *) usage >&2; exit 2 ;;
esac
step=$1 dir=$2 site=$3
read -r -a pqfl <<<"${PQFL:-pqfl}"

if [ "$step" = admit ]; then
    sign=("${pqfl[@]}" ca roster sign --dir "$dir" --admit "site/$site")
    [ -z "${4-}" ] || sign+=(--out "$4")
    [ "${PQFL_YES-}" != 1 ] || sign+=(--yes)
    exec "${sign[@]}"
fi

hub=$4 file=$5
if [ -e "$file" ] || [ -L "$file" ]; then
    printf 'add-site.sh: %s: exists already\n' "$file" >&2
    exit 2
fi
umask 077
token=$("${pqfl[@]}" ca token --dir "$dir" --site "$site" --expires "${PQFL_EXPIRES:-24h}")
printf '%s\n' "$token" >"$file"
printf '%s\n' "SECRET: $file; at the site, after it got the file:" \
    "  pqfl join --token-file $(basename -- "$file") --hub $hub --out $site" \
    "Then here, with root.key: add-site.sh admit $dir $site"
