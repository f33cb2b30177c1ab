"""python -m lpnsr_impl train | degrade | evaluate | upscale | download | convert | doctor"""

from .cli import main

if __name__ == "__main__":
    raise SystemExit(main())
