"""`python -m pqfl` is the same program as the console script `pqfl`."""

from pqfl.cli import main

main()
