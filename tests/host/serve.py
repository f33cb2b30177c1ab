"""`make serve`: run ComfyUI with this pack, for use in a browser."""

import argparse
import signal
import sys

from .install import OWN, cache_dir, front_end
from .server import running


def main() -> int:
    """Serve until Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8188, help="TCP port on this machine")
    parser.add_argument(
        "--gpu", action="store_true", help="let ComfyUI choose the device instead of the CPU"
    )
    parser.add_argument(
        "--front-end", default=OWN, help='"own", "newest" or a version, as in tests.host.install'
    )
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # leave `running`, which stops the server
    with running(
        cache_dir() / "base",
        port=options.port,
        device=() if options.gpu else ("--cpu",),
        front_end=front_end(options.front_end),
    ) as server:
        print(
            f"ComfyUI with LPNSR: {server.url}  (templates under Workflow > Browse Templates; "
            "Ctrl-C stops)"
        )
        print(f"Models: {server.base / 'models'}   Log: {server.log}", flush=True)
        try:
            return server.process.wait()
        except KeyboardInterrupt:
            print("Stopping.")
            return 0


if __name__ == "__main__":
    sys.exit(main())
