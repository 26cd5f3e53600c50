"""``python -m manifold_mixup.lab``, for environments without the installed command."""

from manifold_mixup.lab.cli import main

if __name__ == "__main__":
    main()
