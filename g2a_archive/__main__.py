"""The program: `g2a-archive`, or `python -m g2a_archive`."""

import gc
import signal

# A run makes a million objects, of which next to none form cycles: look for these rarely, and not
# while a hundred modules are imported.
gc.set_threshold(100_000, 20, 20)

# Until the command line looks after signals, Ctrl-C ends the program without a traceback.
if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from g2a_archive.cli.main import main  # noqa: E402

if __name__ == "__main__":
    main()
