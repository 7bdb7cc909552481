"""python -m diffusionad: the command line."""

import sys

from diffusionad.cli import main

sys.exit(main())
