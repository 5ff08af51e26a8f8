"""``python -m ckptdiff`` is the ``ckptdiff`` command."""

from ckptdiff.cli import main

if __name__ == "__main__":
    main(prog_name="ckptdiff")
