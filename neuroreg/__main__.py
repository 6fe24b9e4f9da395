"""``python -m neuroreg``."""

from neuroreg.cli import main

if __name__ == "__main__":
    main()
