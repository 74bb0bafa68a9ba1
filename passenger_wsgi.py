"""The entry point that Passenger, mod_wsgi and LiteSpeed load."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from taskmanager.app import create_app

application = create_app()
