"""``python -m epot``: the same as ``epot``, where the command is not on the path."""

from .cli.main import main

main()
