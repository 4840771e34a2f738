"""`python -m igpt_keras`, the same as `igpt`."""

from igpt_keras.cli import main

main()
