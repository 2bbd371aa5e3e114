"""`python -m llmsched_langgraph` is the command `llmsched`."""

import sys

from llmsched_langgraph.cli.main import main

sys.exit(main())
