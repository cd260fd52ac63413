"""Where documents come from: your own files, the web, the hub, the built-in corpora."""
