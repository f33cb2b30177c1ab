"""python -m lpnsr_impl train | degrade | evaluate"""

from .cli import main

if __name__ == "__main__":
    raise SystemExit(main())
