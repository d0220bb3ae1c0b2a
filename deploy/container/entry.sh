#!/bin/sh
# The module where mercure starts it, Dask's scheduler or worker where a cluster does, else the `bioatt` command.
if [ -n "$MERCURE_IN_DIR" ]; then
    exec python3 /opt/bioatt/mercure.py
fi
case "$1" in
    dask | dask-scheduler | dask-worker) exec "$@" ;;
esac
exec bioatt "$@"
