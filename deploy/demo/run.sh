#!/bin/sh
# The demo, first form: edits from a file -> `corlld run` -> an adapter for each user -> loaded back with PEFT.
# Usage: deploy/demo/run.sh [CORLLD], with the path of the installed command.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
corlld=${1:-corlld}
python=$(dirname "$(command -v "$corlld")")/python
folder=$(mktemp -d "${TMPDIR:-/tmp}/corlld-demo.XXXXXX")

export HF_HUB_OFFLINE=1
export CORLLD_SOURCE__PATH="$here/edits.jsonl"
export CORLLD_STATE__PATH="$folder/state"
export CORLLD_PUBLISHING__PATH="$folder/adapters"
# The secret behind the users' pseudonyms; for a real one see the README.
mkdir -m 700 "$folder/credentials"
"$python" -c 'import secrets; print(secrets.token_hex(32))' > "$folder/credentials/uid_secret"
export CREDENTIALS_DIRECTORY="$folder/credentials"

echo "Two users edited $(wc -l < "$here/edits.jsonl") drafts (deploy/demo/edits.jsonl)."
echo "corlld learns from them now: about a minute, and one more for the first conversion of the model."
"$corlld" run --config "$here/corlld.toml"

echo
for user in mira jonas; do
    echo "$user is $("$corlld" uid "$user")"
done
"$corlld" state show --config "$here/corlld.toml"
echo
"$python" "$here/load_adapters.py" "$folder/adapters"
