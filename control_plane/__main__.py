"""`python -m control_plane`: serves with what the environment and the YAML file say."""

from control_plane.app import run
from control_plane.config import settings_from

if __name__ == "__main__":
    run(settings_from())
