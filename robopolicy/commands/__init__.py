"""Sub-commands of ``robopolicy``, one file each; every file has ``register(app)``."""
