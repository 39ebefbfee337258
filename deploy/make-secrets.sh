#!/bin/sh
# Make what the services of compose.yaml need and nobody else may read: tokens, passwords, certificates.
#
#   sh deploy/make-secrets.sh FOLDER HOST...
#
# HOST is every name or address by which clients reach this machine.  What is there already stays as it is, so it may be
# run again; to change a secret, remove its file first.  Certificates need cutlayer, here or as CUTLAYER="docker run ...".
set -eu
umask 077

if [ $# -lt 2 ]; then
    echo "usage: sh deploy/make-secrets.sh FOLDER HOST..." >&2
    exit 2
fi
folder=$1
shift
mkdir -p "$folder/certs"

random() {
    head -c 32 /dev/urandom | base64 | tr '+/' '-_' | tr -d '=\n'
}

make() { # FILE PREFIX
    if [ ! -s "$folder/$1" ]; then
        printf '%s%s\n' "$2" "$(random)" > "$folder/$1.new"
        mv "$folder/$1.new" "$folder/$1"
    fi
}

make secret ""
make operator_token cl_op_
make service_token cl_svc_
make database_password ""
make store_user cutlayer-
make store_password ""

for role in backend split fed dashboard; do
    if [ ! -e "$folder/certs/$role.pem" ]; then
        ${CUTLAYER:-cutlayer} certs "$role" "$@" localhost 127.0.0.1 --folder "$folder/certs" --file "$role"
    fi
done
echo "made in $folder: keep $folder/certs/ca.key elsewhere, give $folder/certs/ca.pem to the clients"
