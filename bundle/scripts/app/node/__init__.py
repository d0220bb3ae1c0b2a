"""A DICOM node: takes CT by C-STORE, denoises each series, sends the derived series on (docs/node.md)."""
