"""The certificate authority as an application: files, ledger, ceremony."""
