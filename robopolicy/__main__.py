"""``python -m robopolicy`` is the command ``robopolicy``."""

import sys


def main() -> int:
    """Run the command line; returns its exit code. Ctrl-C while the packages that it needs are imported is one word, too."""
    try:
        from robopolicy.cli import main as command_line
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return command_line()


if __name__ == "__main__":
    sys.exit(main())
