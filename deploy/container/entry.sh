#!/bin/sh
# The module where mercure starts it, else the `bioatt` command.
if [ -n "$MERCURE_IN_DIR" ]; then
    exec python3 /opt/bioatt/mercure.py
fi
exec bioatt "$@"
