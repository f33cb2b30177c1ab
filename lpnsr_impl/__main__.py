"""Entry point of the command line: `python -m lpnsr_impl COMMAND`, see `lpnsr_impl.cli`."""

from .cli import main

if __name__ == "__main__":
    raise SystemExit(main())
