#!/bin/sh
# The module where mercure starts it, Dask's scheduler or worker where a cluster does, else the `bioatt` command.
if [ -n "$MERCURE_IN_DIR" ]; then
    exec python3 /opt/bioatt/mercure.py
fi
case "$1" in
    dask) exec "$@" ;;
    dask-scheduler | dask-worker) # as Dask's operator for Kubernetes calls them
        part=${1#dask-}
        shift
        exec dask "$part" "$@"
        ;;
esac
exec bioatt "$@"
